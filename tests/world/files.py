"""Files and ports of a world: TOML from tables, tables with edits, free ports."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack
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
    """A loopback port that was free a moment ago."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
