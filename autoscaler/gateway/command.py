"""The command line of the gateway: parse, call, no rules of its own."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from autoscaler.errors import ConfigError
from autoscaler.gateway.front_file import read_front
from autoscaler.gateway.listen import listen_address
from autoscaler.gateway.settings import MIB, GatewaySettings
from autoscaler.terminal import say_error

_DEFAULT = GatewaySettings()


def gateway(
    config: Annotated[
        Path | None,
        typer.Option(help="config.toml, whose [front] is read; the options below go before it."),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT for clients; may be repeated. Sockets from systemd win. "
            "[default: 127.0.0.1:8080]"
        ),
    ] = None,
    tls: Annotated[
        Path | None,
        typer.Option(help="Directory with certificate and key, or the certificate's file."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The key's file, when --tls is a file without it.")
    ] = None,
    client_keys: Annotated[
        Path | None, typer.Option(help="File of client keys, or a directory of such files.")
    ] = None,
    behind_proxy: Annotated[
        bool | None,
        typer.Option(
            "--behind-proxy/--not-behind-proxy",
            help="A proxy before it has TLS and checks clients: serve a public address without.",
        ),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(help=f"Unix socket that the daemon drives. [default: {_DEFAULT.control}]"),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps pools and endpoints over a restart.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT of a page for Prometheus; else on --control.")
    ] = None,
    reuse_port: Annotated[
        bool, typer.Option(help="Share the port with another gateway (SO_REUSEPORT).")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over", help="Relieve the gateway that serves; it finishes its answers."
        ),
    ] = False,
    max_body_mib: Annotated[
        float | None,
        typer.Option(
            help=f"A larger request body is answered 413. [default: {_DEFAULT.max_body_bytes / MIB:g}]",
            min=0.001,
        ),
    ] = None,
    max_buffered_mib: Annotated[
        float,
        typer.Option(help="Bodies of all requests together; more is answered 503.", min=0.001),
    ] = _DEFAULT.max_buffered_bytes / MIB,
    max_connections: Annotated[
        int | None,
        typer.Option(help=f"Client connections. [default: {_DEFAULT.max_connections}]", min=1),
    ] = None,
    header_timeout_s: Annotated[
        float, typer.Option("--header-timeout", help="Seconds for a request's head.", min=0.1)
    ] = _DEFAULT.header_timeout_s,
    body_timeout_s: Annotated[
        float, typer.Option("--body-timeout", help="Seconds for a request's body.", min=0.1)
    ] = _DEFAULT.body_timeout_s,
    write_timeout_s: Annotated[
        float,
        typer.Option(
            "--write-timeout", help="Seconds that a client may leave a full buffer.", min=0.1
        ),
    ] = _DEFAULT.write_timeout_s,
    drain_timeout_s: Annotated[
        float,
        typer.Option("--drain-timeout", help="Seconds after SIGTERM for running answers.", min=0),
    ] = _DEFAULT.drain_timeout_s,
) -> None:
    """Serve all models at one OpenAI-compatible address, and hold requests while no node is up."""
    import uvloop

    from autoscaler.gateway.run import serve

    _configure_log()
    try:
        given: dict[str, Any] = {  # each value is of its field's type
            "listen": tuple(listen_address(text) for text in listen) if listen else None,
            "tls": tls,
            "tls_key": tls_key,
            "client_keys": client_keys,
            "behind_proxy": behind_proxy,
            "control": control,
            "max_body_bytes": int(max_body_mib * MIB) if max_body_mib else None,
            "max_connections": max_connections,
        }
        settings = replace(
            read_front(config) if config is not None else _DEFAULT,
            state_file=state,
            metrics=listen_address(metrics) if metrics else None,
            reuse_port=reuse_port,
            take_over=take_over,
            max_buffered_bytes=int(max_buffered_mib * MIB),
            header_timeout_s=header_timeout_s,
            body_timeout_s=body_timeout_s,
            write_timeout_s=write_timeout_s,
            drain_timeout_s=drain_timeout_s,
            **{name: value for name, value in given.items() if value is not None},
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except ConfigError as exc:
        say_error("autoscaler gateway", exc)
        raise typer.Exit(2) from exc


def _configure_log() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
