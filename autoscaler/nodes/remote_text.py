"""Text that a node sent, made fit to be logged, stored and shown: a node may be anybody's.

Escape sequences, control characters and direction marks go, so that a log line cannot move a cursor or lie about its
order; secrets are masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC and its like: titles, links
    r"|\x1b[@-Z\\-_]?",
    re.DOTALL,
)
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_TOKENS = re.compile(r"\bhf_[A-Za-z0-9]{8,}|(?i:\b(bearer)\s+)\S+")
MASK = "****"


def printable(text: str) -> str:
    """Drop what a terminal would obey and an eye would not see. Line ends and tabs stay."""
    return _UNSEEN.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask these secrets, and whatever looks like a hub's or an API's token."""
    for secret in sorted((s for s in secrets if s), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _TOKENS.sub(lambda match: f"{match[1]} {MASK}" if match[1] else MASK, text)


def last_bytes(text: str, limit: int) -> str:
    """The end of a text, at most `limit` bytes of UTF-8, from a whole line on where there is one."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    tail = encoded[-limit:].decode("utf-8", "ignore")
    _, newline, rest = tail.partition("\n")
    return rest if newline and rest else tail
