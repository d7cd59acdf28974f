"""Sizes of disks, as the API writes them."""

from __future__ import annotations

import re

_GIB_PER_UNIT = {
    "": 1.0,
    "GIB": 1.0,
    "TIB": 1024.0,
    "MIB": 1 / 1024,
    "G": 1.0,
    "T": 1024.0,
    "GB": 1e9 / 2**30,
    "TB": 1e12 / 2**30,
}


def size_gib(text: str | None) -> float | None:
    """Read a size such as `128GiB` or `1TiB`; None when it is none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text or "")
    if match is None or match[2].upper() not in _GIB_PER_UNIT:
        return None
    return float(match[1]) * _GIB_PER_UNIT[match[2].upper()]
