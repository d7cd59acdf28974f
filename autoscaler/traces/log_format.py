"""The formats of logs, and which one a file is in, by its first lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial

from autoscaler.traces.log_entry import Entry, Stamps, Why
from autoscaler.traces.log_haproxy import parse_haproxy
from autoscaler.traces.log_json import ENDED, OUTPUT, PROMPT, STARTED, csv_entries, parse_json
from autoscaler.traces.log_lines import Line
from autoscaler.traces.log_nginx import parse_nginx
from autoscaler.traces.log_vllm import parse_vllm

Entries = Iterator[tuple[int, Entry | Why]]
Parse = Callable[[str, Stamps], Entry | Why]


class LogFormat(StrEnum):
    """The logs that can be imported."""

    HAPROXY = "haproxy"
    NGINX = "nginx"
    JSON = "json"
    CSV = "csv"
    VLLM = "vllm"


_PARSERS: dict[LogFormat, Parse] = {
    LogFormat.HAPROXY: parse_haproxy,
    LogFormat.NGINX: parse_nginx,
    LogFormat.JSON: parse_json,
    LogFormat.VLLM: parse_vllm,
}


def reader_of(
    format: LogFormat, *, only: bool = True
) -> Callable[[Iterator[Line], Stamps], Entries]:
    """What reads the lines of a log in this format, each with its number.

    Args:
        only: else a line in another format is read too, since what writes a log may have been told to change it.
    """
    if format is LogFormat.CSV:
        return csv_entries
    others = () if only else tuple(p for other, p in _PARSERS.items() if other is not format)
    return partial(_parsed, (_PARSERS[format], *others))


def log_format(first: Sequence[Line]) -> LogFormat | None:
    """The format that most of these lines are in; None if not one of them is in any."""
    if first and _is_header(first[0].text):
        return LogFormat.CSV
    stamps = Stamps()
    known = {
        format: sum(parse(line.text, stamps) is not Why.UNREADABLE for line in first)
        for format, parse in _PARSERS.items()
    }
    best = max(known, key=lambda format: known[format])
    return best if known[best] else None


def _is_header(text: str) -> bool:
    columns = {name.strip().strip('"') for name in text.lstrip("\ufeff").split(",")}
    return all(columns.intersection(names) for names in (PROMPT, OUTPUT, STARTED + ENDED))


def _parsed(parsers: Sequence[Parse], lines: Iterator[Line], stamps: Stamps) -> Entries:
    for line in lines:
        if line.is_long:
            yield line.number, Why.LONG
        elif line.text.strip():
            found: Entry | Why = Why.UNREADABLE
            for parse in parsers:
                found = parse(line.text, stamps)
                if found is not Why.UNREADABLE:
                    break
            is_cut = found is Why.UNREADABLE and not line.is_whole
            yield line.number, Why.CUT if is_cut else found
