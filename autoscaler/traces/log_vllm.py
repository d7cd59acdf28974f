"""vLLM's own log with `--enable-log-requests`: when a request came, and its prompt's tokens where they are listed.

    INFO 11-24 04:12:37 [logger.py:40] Received request chatcmpl-1: prompt: '…', params: SamplingParams(…),
    prompt_token_ids: [151644, 872], …

(in one line). Newer versions list no tokens on this line; `--max-log-len` cuts the list. The answer's length is not
there. What was asked is in this log: nothing of it is kept.
"""

from __future__ import annotations

import re

from autoscaler.traces.log_entry import Entry, Stamps, Why, Work

_PREFIX = re.compile(
    r"(?:INFO|DEBUG) (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.\d+)? \[?[\w./]+:\d+\] "
)
_RECEIVED = "Received request "
_IDS = re.compile(r"prompt_token_ids: \[([\d, ]+)\]")
_POOLING = "params: PoolingParams("


def parse_vllm(text: str, stamps: Stamps) -> Entry | Why:
    """Read a line."""
    found = _PREFIX.search(text, 0, 200)
    if found is None:
        return Why.UNREADABLE
    if not text.startswith(_RECEIVED, found.end()):
        return Why.OTHER
    month, day, *clock = map(int, found.groups())
    at = stamps.without_year(month, day, (clock[0], clock[1], clock[2]))
    if at is None:
        return Why.NO_TIME
    return Entry(
        at=at,
        work=Work.EMBEDS if _POOLING in text else Work.GENERATES,
        prompt_tokens=_listed(text),
        whole_second=True,
    )


def _listed(text: str) -> int | None:
    """How many tokens the last list has: the prompt stands before it, and may hold anything."""
    ids = _IDS.match(text, max(0, text.rfind("prompt_token_ids: [")))
    return None if ids is None else ids[1].count(",") + 1
