"""How screens write money and times: short, and never more exact than they are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from autoscaler.quantity import counted as counted


def money(amount: Any) -> str:
    """An amount of USD: `$3.45`, from a hundred dollars on whole: `$1,500`. Any: as JSON carries it, text or number."""
    value = float(amount)
    if abs(value) >= 99.995:
        return f"-${-value:,.0f}" if value < 0 else f"${value:,.0f}"
    return f"-${-value:.2f}" if value < 0 else f"${value:.2f}"


def limit(amount: Any) -> str:
    """A limit as somebody wrote it: `$12`, `$3.50`."""
    value = float(amount)
    return f"${value:,.0f}" if value == int(value) else f"${value:,.2f}"


def span(seconds: float) -> str:
    """A length of time, as exact as one needs it: `42s`, `2m10s`, `12m`, `3h`, `2d`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes}m"
    hours = whole / 3600
    return f"{hours:.0f}h" if hours < 48 else f"{hours / 24:.0f}d"


def ago(text: str | None) -> str | None:
    """How long ago an instant was: `12 s`, `3 h`."""
    if text is None:
        return None
    seconds = (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
