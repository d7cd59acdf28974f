"""Read and write the CSV of traces: `arrival_s,prompt_tokens,output_tokens` and perhaps `model`, sorted by time."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from autoscaler.errors import ConfigError
from autoscaler.traces.request import TracedRequest

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
TOKEN_LIMIT = 10_000_000


def read_trace(path: Path) -> list[TracedRequest]:
    """Read a trace, `.csv` or `.csv.gz`.

    Raises:
        ConfigError: unreadable, another format, or a bad line; the message has file and line.
    """
    return list(stream_trace(path))


def stream_trace(path: Path) -> Iterator[TracedRequest]:
    """Read a trace request by request. Raises as `read_trace` does, when it gets there."""
    with readable(path), open_text(path) as file:
        yield from _parse(file, path)


def write_trace(path: Path, requests: Iterable[TracedRequest], *, with_models: bool = False) -> int:
    """Write a trace, gzipped when the name ends in `.gz`; returns how many requests.

    The file appears whole or not at all. The same requests give the same bytes.
    """
    partial = path.with_name(f"{path.name}.partial")
    count = 0
    try:
        with partial.open("wb") as raw, _text_over(raw, path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow((*COLUMNS, "model") if with_models else COLUMNS)
            for request in requests:
                count += 1
                row = (f"{request.arrival_s:.2f}", request.prompt_tokens, request.output_tokens)
                writer.writerow((*row, request.model or "") if with_models else row)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


@contextmanager
def _text_over(raw: BinaryIO, path: Path) -> Iterator[TextIO]:
    if path.suffix != ".gz":
        with io.TextIOWrapper(raw, encoding="utf-8", newline="") as plain:
            yield plain
        return
    with (
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(cast("BinaryIO", packed), encoding="utf-8", newline="") as file,
    ):
        yield file


def open_text(path: Path) -> TextIO:
    """Open a text file that may be gzipped, whatever its name."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    if is_gzip:
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say which file could not be read, in our own words."""
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as exc:
        raise ConfigError(f"{path}: cannot be read as a trace: {exc}") from exc


def token_count(text: str, name: str, place: str) -> int:
    """A number of tokens from text. Raises `ConfigError`."""
    try:
        count = int(text)
    except ValueError:
        raise ConfigError(f"{place}: {name}: found {text[:40]!r}, not a whole number") from None
    return check_tokens(count, name, place)


def check_tokens(count: int, name: str, place: str) -> int:
    """Refuse a number of tokens that no request has. Raises `ConfigError`."""
    if not 0 <= count <= TOKEN_LIMIT:
        raise ConfigError(f"{place}: {name}: found {count}, allowed: 0 to {TOKEN_LIMIT}")
    return count


def _parse(file: TextIO, path: Path) -> Iterator[TracedRequest]:
    reader = csv.DictReader(file)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(
            f"{path}:1: no column {missing[0]}: a trace has the columns {', '.join(COLUMNS)}; "
            "`autoscaler trace import` makes one of logs and public formats"
        )
    before = -math.inf
    for row in reader:
        place = f"{path}:{reader.line_num}"
        request = _request(row, place)
        if request.arrival_s < before:
            raise ConfigError(f"{place}: arrival_s {request.arrival_s} is before its predecessor's")
        before = request.arrival_s
        yield request


def _request(row: Mapping[str, str | None], place: str) -> TracedRequest:
    found = row["arrival_s"] or ""
    try:
        arrival_s = float(found)
    except ValueError:
        raise ConfigError(f"{place}: arrival_s: found {found[:40]!r}, not a number") from None
    if not (math.isfinite(arrival_s) and arrival_s >= 0):
        raise ConfigError(f"{place}: arrival_s: found {arrival_s}, allowed: 0 or more")
    return TracedRequest(
        arrival_s,
        token_count(row["prompt_tokens"] or "", "prompt_tokens", place),
        token_count(row["output_tokens"] or "", "output_tokens", place),
        row.get("model") or None,
    )
