"""The command line of the tunnels: parse, call, no rules of its own."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from autoscaler.errors import ConfigError
from autoscaler.gateway.open_files import connections_that_fit, say_if_bounded
from autoscaler.terminal import say_error
from autoscaler.tunnels.values import TunnelsSettings

_DEFAULT = TunnelsSettings()
_OPEN_STREAMS = 8192  # of all tunnels together: what the limit of open files is raised for


def tunnels(
    control: Annotated[
        Path, typer.Option(help="Unix socket that the daemon drives; one from systemd wins.")
    ] = _DEFAULT.control,
    key_file: Annotated[
        Path, typer.Option(help="The deployment's SSH key, which the daemon has made.")
    ] = _DEFAULT.key_file,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps tunnels and their ports over a restart.")
    ] = None,
    ports: Annotated[
        str, typer.Option(help="FIRST-LAST: local ports, one for each model server.")
    ] = f"{_DEFAULT.first_port}-{_DEFAULT.last_port}",
    max_streams: Annotated[
        int, typer.Option(help="Connections through one tunnel.", min=1)
    ] = _DEFAULT.max_streams,
    drain_timeout_s: Annotated[
        float, typer.Option("--drain-timeout", help="Seconds after SIGTERM for streams.", min=0)
    ] = _DEFAULT.drain_timeout_s,
) -> None:
    """Lead local ports to model servers over SSH, each pinned to its node's host key (reach = "tunnel")."""
    import uvloop

    from autoscaler.tunnels.run import serve

    _configure_log()
    try:
        first, last = _range(ports)
        say_if_bounded(_OPEN_STREAMS, connections_that_fit(_OPEN_STREAMS))
        settings = TunnelsSettings(
            control=control,
            key_file=key_file,
            state_file=state,
            first_port=first,
            last_port=last,
            max_streams=max_streams,
            drain_timeout_s=drain_timeout_s,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except ConfigError as exc:
        say_error("autoscaler tunnels", exc)
        raise typer.Exit(2) from exc


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1024 <= first <= last <= 65535:
        raise ConfigError(
            f"--ports: found {text!r}, want FIRST-LAST between 1024 and 65535, as 18000-19999"
        )
    return first, last


def _configure_log() -> None:
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
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
