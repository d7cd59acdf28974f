"""Starts the next process of this gateway, of whatever version is installed now, with the command line of this one."""

from __future__ import annotations

import asyncio
import sys

import structlog

log = structlog.get_logger(__name__)

TAKE_OVER = "--take-over"
_SHELL_S = 10.0
# The shell ends at once, so that the new process is nobody's child but the init's: the service manager sees its end.
_APART = '"$@" &'


async def start_successor() -> None:
    """Start it; it takes over when it can serve, and if it cannot, nothing has changed."""
    command = [sys.executable, *sys.orig_argv[1:]]
    if TAKE_OVER not in command:
        command.append(TAKE_OVER)
    try:
        shell = await asyncio.create_subprocess_exec("/bin/sh", "-c", _APART, "sh", *command)
        async with asyncio.timeout(_SHELL_S):
            await shell.wait()
    except (OSError, TimeoutError) as exc:
        log.error("successor_not_started", why=str(exc) or type(exc).__name__)
        return
    log.info("successor_started")
