"""Azure's `AzureLLMInferenceTrace_*.csv`: every line is a request that somebody sent, at that time and of that size."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from autoscaler.errors import ConfigError
from autoscaler.traces.order import in_order
from autoscaler.traces.reader import open_text, readable, token_count
from autoscaler.traces.request import TracedRequest

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_SLACK_S = 60.0


def azure_requests(path: Path) -> Iterator[TracedRequest]:
    """The requests of `TIMESTAMP,ContextTokens,GeneratedTokens`, its stamps made relative to the first.

    Raises:
        ConfigError: unreadable, another format, or a bad line; the message has file and line.
    """
    yield from in_order(_lines(path), _SLACK_S)


def _lines(path: Path) -> Iterator[tuple[str, TracedRequest]]:
    with readable(path), open_text(path) as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise ConfigError(f"{path}:1: no column {missing[0]}: found {', '.join(header)[:200]}")
        at, prompt, output = (header.index(name) for name in COLUMNS)
        for row in reader:
            place = f"{path}:{reader.line_num}"
            if not row:
                continue
            if len(row) < len(header):
                raise ConfigError(f"{place}: {len(row)} fields, the header has {len(header)}")
            yield (
                place,
                TracedRequest(
                    _seconds(row[at], place),
                    token_count(row[prompt], COLUMNS[1], place),
                    token_count(row[output], COLUMNS[2], place),
                ),
            )


def _seconds(text: str, place: str) -> float:
    """Unix seconds of `2023-11-16 18:15:46.6805900`, with or without a zone."""
    try:
        stamp = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError(f"{place}: TIMESTAMP: found {text[:40]!r}, not a time") from None
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
