"""Bash assignments whose values are data, whatever they hold.

Printable text without anything that a shell reads twice stands in plain single quotes, where a person can read it; all
else becomes `$'…'` with each odd byte as `\\xHH`. Both are ASCII, and neither is ever expanded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoscaler.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./ -]*")


def quote(text: str) -> str:
    """Write one word of bash that means exactly `text`.

    Raises:
        ConfigError: a NUL, which no argument can hold.
    """
    if "\0" in text:
        raise ConfigError(f"{text!r} has a NUL character, which no command line can hold")
    if _PLAIN.fullmatch(text):
        return f"'{text}'"
    safe = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./ -"
    encoded = text.encode("utf-8", "surrogateescape")
    return "$'" + "".join(chr(b) if b in safe else f"\\x{b:02x}" for b in encoded) + "'"


def quote_all(words: Sequence[str]) -> str:
    """Write a bash array of exactly these words."""
    return "(" + " ".join(quote(word) for word in words) + ")"
