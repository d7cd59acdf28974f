"""HAProxy's log of HTTP requests, as `option httplog` writes it, with or without syslog's prefix.

    10.0.0.7:51234 [24/Nov/2026:04:12:37.123] in chat/as-1 0/0/1/210/4810 200 48213 - - ---- 9/9/8/3/0 0/0 "POST /v1/…"

Its stamp is the start of the request; TR/Tw/Tc/Tr/Ta are milliseconds to the whole request, in the queue, to connect,
to the answer's head, and of all. It has the bytes of the answer, and the backend, which in our configuration is the
model. The length of a request it has only where it captures the headers Content-Length of requests and Content-Type of
answers: `{2497} {text/event-stream}` before the request.
"""

from __future__ import annotations

import re

from autoscaler.traces.log_entry import (
    Entry,
    Stamps,
    Why,
    body_of_answer,
    is_stream,
    model_name,
    whole_number,
    work_of,
)
from autoscaler.traces.log_sizes import came_in_pieces

_LINE = re.compile(
    r"\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?:\.\d+)?)(?: ([+-]\d{4}))?\] "
    r"\S+ ([^\s/]+)/\S+ "
    r"(-?\d+)/-?\d+/-?\d+/(-?\d+)/\+?(-?\d+) "
    r"(-?\d+) \+?(\d+) \S+ \S+ \S{4} "
    r"\d+/\d+/\d+/\d+/\+?\d+ \d+/\d+ "
    r"(?:\{([^}]*)\} )?(?:\{([^}]*)\} )?"
    r'"(?:([A-Z]+) (\S+)|[^"]*)'
)


def parse_haproxy(text: str, stamps: Stamps) -> Entry | Why:
    """Read a line."""
    found = _LINE.search(text)
    if found is None:
        return Why.UNREADABLE
    stamp, zone, backend, whole, head, all_, status, size, *captured, method, target = (
        found.groups()
    )
    work = work_of(method or "", target or "")
    if work is None:
        return Why.OTHER
    at = stamps.common(stamp, zone or "")
    if at is None:
        return Why.NO_TIME
    whole_ms, head_ms, all_ms = max(0, int(whole)), int(head), int(all_)
    return Entry(
        at=at + whole_ms / 1e3,
        work=work,
        status=max(0, int(status)),
        model=model_name(backend),
        request_bytes=_captured_length(captured),
        response_bytes=body_of_answer(whole_number(size)),
        streamed=_streamed(captured, head_ms, all_ms - whole_ms),
        answer_s=max(0, all_ms - whole_ms) / 1e3,
        whole_second=len(stamp) <= 20,
    )


def _captured_length(captured: list[str | None]) -> int | None:
    """The number among the captures of a request; of one group nobody knows whose it is."""
    request, answer = captured
    if request is None or answer is None:
        return None
    numbers = (whole_number(value) for value in request.split("|"))
    return next((number for number in numbers if number is not None), None)


def _streamed(captured: list[str | None], head_ms: int, answer_ms: int) -> bool | None:
    """By a captured Content-Type, else by whether the answer went on after its head."""
    for group in captured:
        for value in (group or "").split("|"):
            if (told := is_stream(value)) is not None:
                return told
    if head_ms < 0:
        return None
    return came_in_pieces(head_ms / 1e3, (answer_ms - head_ms) / 1e3)
