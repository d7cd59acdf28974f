"""The command line of the gateway: parse, call, no rules of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from autoscaler.errors import ConfigError
from autoscaler.gateway.listen import parse_address
from autoscaler.gateway.settings import MIB, GatewaySettings

_DEFAULT = GatewaySettings()


def gateway(
    listen: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT for clients; may be repeated. Sockets from systemd win."),
    ] = None,
    control: Annotated[
        Path, typer.Option(help="Unix socket that the daemon drives.")
    ] = _DEFAULT.control,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps pools and endpoints over a restart.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT of a page for Prometheus; else on --control.")
    ] = None,
    reuse_port: Annotated[
        bool, typer.Option(help="Share the port with another gateway (SO_REUSEPORT).")
    ] = False,
    max_body_mib: Annotated[
        float, typer.Option(help="A larger request body is answered 413.", min=0.001)
    ] = _DEFAULT.max_body_bytes / MIB,
    max_connections: Annotated[
        int, typer.Option(help="Client connections.", min=1)
    ] = _DEFAULT.max_connections,
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
        settings = GatewaySettings(
            listen=tuple(parse_address(text) for text in listen or ("127.0.0.1:8080",)),
            control=control,
            state_file=state,
            metrics=parse_address(metrics) if metrics else None,
            reuse_port=reuse_port,
            max_body_bytes=int(max_body_mib * MIB),
            max_connections=max_connections,
            header_timeout_s=header_timeout_s,
            body_timeout_s=body_timeout_s,
            write_timeout_s=write_timeout_s,
            drain_timeout_s=drain_timeout_s,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except ConfigError as exc:
        typer.echo(f"autoscaler gateway: {exc}", err=True)
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
