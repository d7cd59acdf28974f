"""One event, one line: structured logs, with model and node from context, and no secret in any of them.

A secret is kept out where it arises; the filter here is the second net.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog

_SECRETS = re.compile(
    r"(?i)(bearer\s+)[^\s\"']+|((?:api[_-]?key|password|token|secret|nonce)[\"']?\s*[=:]\s*[\"']?)[^\s\"',}]+"
    r"|hf_[A-Za-z0-9]{20,}"
)


def set_up(level: str, style: Literal["json", "console"]) -> None:
    """Send every event to standard error, one line each, in the chosen style."""
    renderer: Any = (  # structlog types its renderers no further
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # the pretty one prints local variables, and with them whatever secret was at hand
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            *shared,
            *([structlog.processors.format_exc_info] if style == "json" else []),
            renderer,
            masked,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Unstopped(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    # asyncssh, aiohttp and apscheduler log through the standard library; only their warnings matter here
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


class _Unstopped(io.TextIOBase):
    """A log that cannot be written (a full disk, a closed terminal) is lost; what it tells of goes on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def masked(logger: Any, method: str, line: Any) -> str:
    """Mask what looks like a secret in a rendered line, tracebacks included. The last processor of all."""
    return mask(str(line))


def mask(text: str) -> str:
    """Replace what looks like a secret."""
    return _SECRETS.sub(lambda m: f"{m[1] or m[2] or ''}***", text)
