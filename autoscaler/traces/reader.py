"""Read and write the CSV of traces: `arrival_s,prompt_tokens,output_tokens` and perhaps `model`, sorted by time."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from autoscaler.errors import ConfigError
from autoscaler.traces.request import TracedRequest

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
_TOKEN_LIMIT = 10_000_000


def read_trace(path: Path) -> list[TracedRequest]:
    """Read a trace, `.csv` or `.csv.gz`.

    Raises:
        ConfigError: unreadable, another format, or a bad line; the message has file and line.
    """
    try:
        with open_text(path) as file:
            return list(_parse(file, path))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(f"{path}: cannot be read as a trace: {exc}") from exc


def write_trace(path: Path, requests: Iterable[TracedRequest]) -> int:
    """Write a trace, gzipped when the name ends in `.gz`; returns how many requests."""
    count = 0
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for count, request in enumerate(requests, start=1):  # noqa: B007  # the count is what is returned
            writer.writerow(
                (f"{request.arrival_s:.2f}", request.prompt_tokens, request.output_tokens)
            )
    return count


def open_text(path: Path) -> TextIO:
    """Open a text file that may be gzipped."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _parse(file: TextIO, path: Path) -> Iterator[TracedRequest]:
    reader = csv.DictReader(file)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(
            f"{path}:1: no column {missing[0]}: a trace has the columns {', '.join(COLUMNS)}; "
            "`autoscaler trace import` converts public formats"
        )
    before = -math.inf
    for row in reader:
        place = f"{path}:{reader.line_num}"
        request = _request(row, place)
        if request.arrival_s < before:
            raise ConfigError(f"{place}: arrival_s {request.arrival_s} is before its predecessor's")
        before = request.arrival_s
        yield request


def _request(row: dict[str, str | None], place: str) -> TracedRequest:
    try:
        arrival_s = float(row["arrival_s"] or "")
        prompt, output = int(row["prompt_tokens"] or ""), int(row["output_tokens"] or "")
    except ValueError as exc:
        raise ConfigError(f"{place}: not numbers: {exc}") from exc
    if not (math.isfinite(arrival_s) and arrival_s >= 0):
        raise ConfigError(f"{place}: arrival_s: found {arrival_s}, allowed: 0 or more")
    for name, tokens in (("prompt_tokens", prompt), ("output_tokens", output)):
        if not 0 <= tokens <= _TOKEN_LIMIT:
            raise ConfigError(f"{place}: {name}: found {tokens}, allowed: 0 to {_TOKEN_LIMIT}")
    return TracedRequest(arrival_s, prompt, output, row.get("model") or None)
