"""Counts tokens in an answer that passes through, at about a microsecond per chunk.

Nothing is parsed on the way: a chunk is searched for the word `"usage"` and for `data:`. The figures are read
once, at the end. Text that a model writes cannot pose as usage: inside a JSON string its quotes are escaped.
"""

from __future__ import annotations

import re

_USAGE = b'"usage"'
_KEPT = 2048  # bytes from the last "usage" on; the object has some 100 to 600
_PROMPT = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,12})')
_OUTPUT = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,12})')
# An event stream has a few events that carry no token: the role, the end reason, usage, [DONE].
_EVENTS_WITHOUT_TOKEN = 3


class TokenMeter:
    """Follows one answer. `events` counts the SSE events so far."""

    __slots__ = ("_kept", "_open", "_seam", "events", "is_stream")

    def __init__(self, is_stream: bool) -> None:
        self.is_stream = is_stream
        self.events = 0
        self._kept = b""
        self._open = False  # the kept piece may go on in the next chunk
        self._seam = b""

    def feed(self, chunk: bytes) -> int:
        """Look at the next chunk; return how many events begin in it (0 for a plain body)."""
        begun = chunk.count(b"data:") if self.is_stream else 0
        self.events += begun
        at = chunk.rfind(_USAGE)
        if at >= 0:
            self._kept = chunk[at : at + _KEPT]
            self._open = len(self._kept) < _KEPT
        elif self._seam and _USAGE in (joined := self._seam + chunk[:_KEPT]):
            self._kept = joined[joined.rfind(_USAGE) :]
            self._open = len(self._kept) < _KEPT
        elif self._open:
            self._kept = (self._kept + chunk[:_KEPT])[:_KEPT]
            self._open = len(self._kept) < _KEPT
        # The word itself may be cut in two: only a tail with a quote in it can be its beginning.
        tail = chunk[-6:] if len(chunk) >= 6 else (self._seam + chunk)[-6:]
        self._seam = tail if b'"' in tail else b""
        return begun

    def prompt_tokens(self) -> int | None:
        """Say what the engine reported, or None."""
        found = _PROMPT.search(self._kept)
        return int(found[1]) if found else None

    def output_tokens(self) -> int:
        """Say what the engine reported, else the events that can have carried a token."""
        if found := _OUTPUT.search(self._kept):
            return int(found[1])
        return max(0, self.events - _EVENTS_WITHOUT_TOKEN)
