"""JSON lines: of HAProxy and nginx where they are told to, and of OpenAI-style gateways, by their fields' names.

A field counts wherever one of its names stands: at the top, in `standard_logging_object` (LiteLLM), in `response` or
its `body` (a logged answer of OpenAI's API), and tokens also in the `usage` of these. The same names are the columns
of a CSV, such as the export of LiteLLM's table of spend logs.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import orjson

from autoscaler.traces.log_entry import (
    Entry,
    Stamps,
    Why,
    Work,
    body_of_answer,
    body_of_request,
    is_stream,
    model_name,
    whole_number,
    work_of,
)
from autoscaler.traces.log_lines import Line

STARTED = ("started", "startTime", "start_time", "created", "created_at")
ENDED = (
    *("ended", "msec", "time_iso8601", "time_local", "endTime", "end_time"),
    *("time", "timestamp", "@timestamp", "ts"),
)
SECONDS = ("duration_s", "request_time")
MILLISECONDS = ("duration_ms", "latency_ms")
METHOD = ("method", "request_method")
TARGET = ("path", "uri", "request_uri", "url")
STATUS = ("status", "status_code", "http_status")
MODEL = ("model_group", "model")
PROMPT = ("prompt_tokens", "input_tokens")
OUTPUT = ("completion_tokens", "output_tokens")
REQUEST_BODY = ("request_body_bytes", "content_length")
REQUEST = ("request_bytes", "request_length")
ANSWER_BODY = ("response_body_bytes", "body_bytes_sent")
ANSWER = ("response_bytes", "bytes_sent")
TYPE = ("content_type", "sent_http_content_type", "upstream_http_content_type")

_FAILED = ("failure", "failed", "error", "cancelled")
_EMPTY = (None, "", "-")
_SECONDS_DIGITS = 10
_FIELD_LIMIT = 16 * 2**20
Record = Mapping[str, object]


def parse_json(text: str, stamps: Stamps) -> Entry | Why:
    """Read a line, whatever a syslog put before its `{`."""
    start = text.find("{")
    if start < 0:
        return Why.UNREADABLE
    try:
        record = orjson.loads(text[start:])
    except orjson.JSONDecodeError:
        return Why.UNREADABLE
    return entry_of(record, stamps) if isinstance(record, dict) else Why.UNREADABLE


def csv_entries(lines: Iterator[Line], stamps: Stamps) -> Iterator[tuple[int, Entry | Why]]:
    """Read a CSV with a header; a row may have several lines."""
    number = 0

    def texts() -> Iterator[str]:
        nonlocal number
        for line in lines:
            number = line.number
            yield line.text

    with _wide_fields():
        rows = csv.reader(texts())
        header: list[str] | None = None
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error:
                yield number, Why.UNREADABLE
                continue
            if header is None:
                header = [name.strip().lstrip("\ufeff") for name in row]
            elif len(row) == len(header):
                yield number, entry_of(dict(zip(header, row, strict=True)), stamps)
            elif row:
                yield number, Why.UNREADABLE


def entry_of(record: Record, stamps: Stamps) -> Entry | Why:
    """What a record says."""
    places = list(_places(record))
    work = _work(places)
    if work is None:
        return Why.OTHER
    took_s = _seconds(places)
    found = _arrival(places, took_s, stamps)
    if found is None:
        return Why.NO_TIME
    at, at_end, whole_second = found
    request = _count(places, REQUEST_BODY)
    answer = _count(places, ANSWER_BODY)
    return Entry(
        at=at,
        work=work,
        status=_status(places),
        model=model_name(_first(places, MODEL)),
        prompt_tokens=_count(places, PROMPT),
        output_tokens=_count(places, OUTPUT),
        request_bytes=body_of_request(_count(places, REQUEST)) if request is None else request,
        response_bytes=body_of_answer(_count(places, ANSWER)) if answer is None else answer,
        streamed=_streamed(places),
        answer_s=took_s,
        at_end=at_end,
        whole_second=whole_second,
        cached=str(_first(places, ("cache_hit",))).lower() == "true",
    )


def _places(record: Record) -> Iterator[Record]:
    """The record, and what in it may hold fields too."""
    for owner in (record, record.get("standard_logging_object")):
        if not isinstance(owner, dict):
            continue
        response = owner.get("response")
        inner = response.get("body") if isinstance(response, dict) else None
        for place in (owner, response, inner):
            if isinstance(place, dict):
                yield place
                usage = place.get("usage")
                if isinstance(usage, dict):
                    yield usage


def _first(places: Sequence[Record], names: Sequence[str]) -> object:
    for place in places:
        for name in names:
            value = place.get(name)
            if value not in _EMPTY:
                return value
    return None


def _count(places: Sequence[Record], names: Sequence[str]) -> int | None:
    return whole_number(_first(places, names))


def _work(places: Sequence[Record]) -> Work | None:
    """By method and path; else by LiteLLM's `call_type`, by the kind of answer, or because there are tokens."""
    line = _first(places[:1], ("request",))
    if isinstance(line, str):
        method, _, rest = line.partition(" ")
        return work_of(method, rest.partition(" ")[0])
    target = _first(places[:1], TARGET)
    if isinstance(target, str):
        asked = _first(places[:1], METHOD)
        return work_of("POST" if asked is None else str(asked), target)
    call = _first(places, ("call_type",))
    if isinstance(call, str):
        if "embedding" in call or "rerank" in call:
            return Work.EMBEDS
        does = ("completion", "responses", "messages", "generate_content")
        return Work.GENERATES if any(word in call for word in does) else None
    if _count(places, PROMPT) is None:
        return None
    return Work.EMBEDS if _first(places, ("object",)) == "list" else Work.GENERATES


def _seconds(places: Sequence[Record]) -> float | None:
    for names, scale in ((SECONDS, 1.0), (MILLISECONDS, 1e-3)):
        try:
            seconds = float(str(_first(places, names))) * scale
        except ValueError:
            continue
        if 0.0 <= seconds < 1e7:
            return seconds
    return None


def _arrival(
    places: Sequence[Record], took_s: float | None, stamps: Stamps
) -> tuple[float, bool, bool] | None:
    """When it came; whether that is when its answer ended; whether it is rounded to a second."""
    stamp = _first(places, STARTED)
    started = stamps.any(stamp)
    if started is not None:
        return started, False, _is_whole(stamp)
    stamp = _first(places, ENDED)
    ended = stamps.any(stamp)
    if ended is None:
        return None
    return ended - (took_s or 0.0), took_s is None, _is_whole(stamp)


def _is_whole(stamp: object) -> bool:
    """Whether a stamp has no part of a second: digits after a point, or more than Unix seconds have."""
    text = str(stamp).strip()
    return "." not in text and not (text.isdigit() and len(text) > _SECONDS_DIGITS)


def _status(places: Sequence[Record]) -> int | None:
    if isinstance(_first(places, ("error",)), dict):
        return 0
    found = _first(places, STATUS)
    if isinstance(found, str) and found.lower() in _FAILED:
        return 0
    if found in (-1, "-1"):
        return 0
    return whole_number(found)


def _streamed(places: Sequence[Record]) -> bool | None:
    found = _first(places, TYPE)
    if isinstance(found, str) and (told := is_stream(found)) is not None:
        return told
    asked = _first(places, ("stream", "streamed"))
    return asked if isinstance(asked, bool) else None


@contextmanager
def _wide_fields() -> Iterator[None]:
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)
