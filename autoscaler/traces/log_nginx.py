"""nginx's access log in the format `combined`, perhaps with times after it: `$request_time $upstream_response_time`.

    203.0.113.5 - - [24/Nov/2026:04:12:37 +0000] "POST /v1/chat/completions HTTP/1.1" 200 48213 "-" "…" 4.810 4.809

Its stamp is the end of the answer, in whole seconds; the time of the request, if it is there, leads back to its start.
It has the bytes of the answer's body and none of the request.
"""

from __future__ import annotations

import re

from autoscaler.traces.log_entry import Entry, Stamps, Why, whole_number, work_of

_LINE = re.compile(
    r"\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d) ([+-]\d{4})\] "
    r'"(?:([A-Z]+) ([^\s"]+)(?: [^"]*)?|(?:[^"\\]|\\.)*)" '
    r"(\d{3}) (\d+|-)"
    r'(?: "(?:[^"\\]|\\.)*" "(?:[^"\\]|\\.)*"(.*))?$',
    re.DOTALL,
)
_TIME = re.compile(r"(?<![\d.])\d{1,7}\.\d{3}(?![\d.])")


def parse_nginx(text: str, stamps: Stamps) -> Entry | Why:
    """Read a line."""
    found = _LINE.search(text.rstrip())
    if found is None:
        return Why.UNREADABLE
    stamp, zone, method, target, status, size, more = found.groups()
    work = work_of(method or "", target or "")
    if work is None:
        return Why.OTHER
    ended = stamps.common(stamp, zone)
    if ended is None:
        return Why.NO_TIME
    time = _TIME.search(more or "")
    took_s = None if time is None else float(time[0])
    return Entry(
        at=ended - (took_s or 0.0),
        work=work,
        status=int(status),
        response_bytes=whole_number(size),
        answer_s=took_s,
        at_end=took_s is None,
        whole_second=True,
    )
