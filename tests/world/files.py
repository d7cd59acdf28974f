"""Files and ports of a world: TOML from tables, tables with edits, free ports."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]  # JSON as a process under test serves it
Table = Mapping[str, Any]  # a table of a TOML file


def merged(base: Table, edits: Table) -> Json:
    """A table with some keys replaced, deeply; None takes a key away."""
    result: Json = dict(base)
    for key, value in edits.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def toml(table: Table) -> str:
    """A table as a TOML document: plain values first, then one section per table."""
    plain = [f"{key} = {_value(v)}" for key, v in table.items() if not isinstance(v, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            plain += [f"[{key}]", *(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items())]
    return "\n".join([*plain, ""])


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value)  # strings, numbers and booleans of JSON are TOML


def free_port() -> int:
    """A loopback port that was free a moment ago, and that nobody else is likely to take."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many such ports, all different.

    A server under test binds its port a second or more after it was chosen. A port that the kernel hands out by itself
    may be anybody's by then, so these are from below its range, and each test process walks a stretch of its own.
    """
    return [next(port for port in _PORTS if _is_free(port)) for _ in range(count)]


def _walk(start: int, end: int) -> Iterator[int]:
    """Every port of the range again and again, from a place of this process's own."""
    first = start + os.getpid() % 64 * ((end - start) // 64)
    return itertools.cycle([*range(first, end), *range(start, first)])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


_PORTS = _walk(10_240, 32_000)
