"""Tells a public trace's format by its first line; a log's is told by `log_format`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from autoscaler.traces.reader import open_text

_FIRST = 65_536


class Format(StrEnum):
    """The public formats that can be imported."""

    AZURE = "azure"
    MOONCAKE = "mooncake"
    SERVEGEN = "servegen"


OURS = "ours"


def sniff(path: Path) -> str | None:
    """Name the format of a file or directory; `OURS` is a trace already, None is not known."""
    if path.is_dir():
        return Format.SERVEGEN if any(path.glob("chunk-*-trace.csv")) else None
    try:
        with open_text(path) as file:
            first = file.readline(_FIRST).strip()
    except (OSError, EOFError, UnicodeDecodeError):
        return None
    if first.startswith("{") and '"input_length"' in first:
        return Format.MOONCAKE
    fields = [field.strip() for field in first.split(",")]
    if "arrival_s" in fields:
        return OURS
    if {"TIMESTAMP", "ContextTokens"} <= set(fields):
        return Format.AZURE
    if len(fields) == 6 and fields[3] in ("", "Gamma", "Weibull"):
        return Format.SERVEGEN
    return None
