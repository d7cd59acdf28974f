"""Mooncake's `*_trace.jsonl`: recorded requests, but with stamps that are rounded to steps of some seconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import orjson

from autoscaler.errors import ConfigError
from autoscaler.traces.order import in_order
from autoscaler.traces.reader import check_tokens, open_text, readable
from autoscaler.traces.request import TracedRequest

_SLACK_S = 60.0
_LINE_LIMIT = 16 * 2**20


def mooncake_requests(path: Path, *, spread_s: float, seed: int) -> Iterator[TracedRequest]:
    """The requests of a Mooncake trace, each moved by 0 to `spread_s`, drawn from the seed.

    Its prompts carry the whole conversation; the `hash_ids` that say how much of a prefix was shared are dropped.

    Raises:
        ConfigError: unreadable, another format, or a bad line; the message has file and line.
    """
    yield from in_order(_lines(path, spread_s, random.Random(seed)), _SLACK_S + spread_s)


def _lines(path: Path, spread_s: float, rng: random.Random) -> Iterator[tuple[str, TracedRequest]]:
    with readable(path), open_text(path) as file:
        number = 0
        while line := file.readline(_LINE_LIMIT):
            number += 1
            if not line.strip():
                continue
            place = f"{path}:{number}"
            record = _record(line, place)
            stamp = record.get("timestamp")
            if not isinstance(stamp, int | float) or isinstance(stamp, bool):
                raise ConfigError(f"{place}: timestamp: found {stamp!r}, allowed: milliseconds")
            yield (
                place,
                TracedRequest(
                    stamp / 1000.0 + rng.uniform(0.0, spread_s),
                    _tokens(record, "input_length", place),
                    _tokens(record, "output_length", place),
                ),
            )


def _record(line: str, place: str) -> dict[str, object]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise ConfigError(f"{place}: not JSON: {exc}") from exc
    if not isinstance(record, dict):
        raise ConfigError(f"{place}: found a {type(record).__name__}, allowed: a JSON object")
    return record


def _tokens(record: dict[str, object], name: str, place: str) -> int:
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{place}: {name}: found {value!r}, allowed: a whole number")
    return check_tokens(value, name, place)
