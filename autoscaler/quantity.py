"""Durations, sizes, money and counts as people write them: "90s", "1h30m", "24GiB", "$4/h", "1 node"."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from autoscaler.domain.money import Money

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|w)", re.ASCII)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", re.ASCII)
_SIZES = {
    "B": 1,
    **{f"{letter}B": 1000 ** (i + 1) for i, letter in enumerate("KMGT")},
    **{f"{letter}iB": 1024 ** (i + 1) for i, letter in enumerate("KMGT")},
}
_LONGEST_S = 100 * 365 * 86400.0  # beyond these figures it is a typo, and arithmetic overflows
_LARGEST = 2**60
_MOST_USD = 10**9
_MONEY = re.compile(r"\s*\$?\s*(\d+(?:\.\d+)?)\s*(?:/\s*(h|hour|d|day|month))?\s*", re.ASCII)


def counted(count: float, noun: str) -> str:
    """So many of a thing whose plural ends in s: "1 node", "3 nodes"."""
    return f"{count:.0f} {noun}" if round(count) == 1 else f"{count:.0f} {noun}s"


def parse_duration(value: Any) -> timedelta:
    """Read "90s", "1h30m", "250ms", "7d". A bare number is refused: its unit is a guess.

    Raises:
        ValueError: not of this form.
    """
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError(f'write a duration with its unit, such as "{value}s"')
    position, seconds = 0, 0.0
    while position < len(value):
        part = _PART.match(value, position)
        if part is None:
            break
        seconds += float(part[1]) * _UNITS_S[part[2]]
        position = part.end()
    if position == 0 or value[position:].strip():
        raise ValueError('write a duration such as "90s", "10m", "1h30m" or "7d"')
    if seconds > _LONGEST_S:
        raise ValueError("is longer than a hundred years: a mistake?")
    return timedelta(seconds=seconds)


def parse_size(value: Any) -> int:
    """Read "24GiB", "500MB", "64kB" as bytes.

    Raises:
        ValueError: not of this form.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.replace("k", "K")) if isinstance(value, str) else None
    if match is None:
        raise ValueError('write a size with its unit, such as "24GiB" or "500MB"')
    size = float(match[1]) * _SIZES[match[2]]
    if size > _LARGEST:
        raise ValueError("is more than any disk holds: a mistake?")
    return int(size)


def parse_money(value: Any) -> Money:
    """Read "12.50", "$4", "$4/h" or a whole number as USD; the key's name says per what.

    Raises:
        ValueError: not of this form; a float is refused, since money is exact.
    """
    if isinstance(value, Money):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_USD:
        return Money(Decimal(value))
    match = _MONEY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        hint = f'"{value}"' if isinstance(value, float) else '"12.50"'
        raise ValueError(f"write an amount in USD as text, such as {hint}")
    amount = Decimal(match[1])
    if amount > _MOST_USD:
        raise ValueError("is more than anybody spends: a mistake?")
    return Money(amount)


def show_duration(length: timedelta) -> str:
    """Write a duration as `parse_duration` reads it, the largest units first."""
    seconds = length.total_seconds()
    if seconds and abs(seconds) < 1:
        return f"{seconds * 1000:g}ms"
    if seconds != int(seconds):
        return f"{seconds:g}s"
    rest, text = int(seconds), ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(show_duration, return_type=str)
]
Size = Annotated[int, BeforeValidator(parse_size)]
Usd = Annotated[
    Money, BeforeValidator(parse_money), PlainSerializer(lambda m: str(m.usd), return_type=str)
]
