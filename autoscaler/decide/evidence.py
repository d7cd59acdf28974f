"""Which figures may be believed in this pass, and which are missing. No data is not no load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoscaler.domain.node import Fleet, State
from autoscaler.domain.signals import FigureName, Signals
from autoscaler.policy import Policy

_GRACE = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The figures of one pass, each in range and fresh, or None.

    Attributes:
        missing: the figures that scale-in needs and this pass lacks, each with its reason.
        held: requests that wait at the activator, known at once.
    """

    arrivals: float | None
    running: float | None
    waiting: float | None
    oldest_wait_s: float | None
    attained: float | None
    ttft_p95_s: float | None
    kv_use: float | None
    held: int
    missing: tuple[str, ...]

    @property
    def in_flight(self) -> float | None:
        """Requests that wait or run, None when either is unknown."""
        if self.running is None or self.waiting is None:
            return None
        return self.running + self.waiting

    @property
    def has_demand(self) -> bool:
        """Whether demand can be measured at all, by arrivals or by what is in flight."""
        return self.arrivals is not None or self.in_flight is not None

    @property
    def something_came(self) -> bool:
        """Whether any request is known to want service."""
        return self.held > 0 or bool(self.arrivals) or bool(self.waiting) or bool(self.running)

    @property
    def is_idle(self) -> bool:
        """Whether it is known that nothing comes, waits or runs."""
        return not self.missing and not self.something_came


def judge(policy: Policy, history: Sequence[Signals], fleet: Fleet, now: datetime) -> Evidence:
    """Take the last signals apart into what may be believed at `now`.

    Signals older than three windows and a grace time are no signals. Where no server exists, none runs anything: that
    is knowledge, not a gap.
    """
    signals = history[-1] if history else Signals(at=now)
    limit = 3 * policy.signals.window + _GRACE
    is_old = not history or abs(now - signals.at) > limit
    if is_old:
        age_s = (now - signals.at).total_seconds()
        why = f"the last signals are {age_s:.0f} s old" if history else "no signals yet"
        return Evidence(None, None, None, None, None, None, None, 0, (why,))
    arrivals = _arrivals(policy, history)
    running = _figure(signals, FigureName.RUNNING)
    waiting = _figure(signals, FigureName.WAITING)
    if signals.idle:
        arrivals, running, waiting = arrivals or 0.0, running or 0.0, waiting or 0.0
    if not fleet.in_states(frozenset({State.READY, State.DRAINING})):
        running = running or 0.0
    if signals.held:
        waiting = max(waiting or 0.0, float(signals.held))
    required = (
        (FigureName.ARRIVALS, arrivals),
        (FigureName.RUNNING, running),
        (FigureName.WAITING, waiting),
    )
    missing = tuple(_why(signals, name) for name, value in required if value is None)
    return Evidence(
        arrivals=arrivals,
        running=running,
        waiting=waiting,
        oldest_wait_s=_figure(signals, FigureName.OLDEST_WAIT),
        attained=_figure(signals, FigureName.TTFT_ATTAINED),
        ttft_p95_s=_figure(signals, FigureName.TTFT_P95),
        kv_use=_figure(signals, FigureName.KV_USE),
        held=signals.held,
        missing=missing,
    )


def _arrivals(policy: Policy, history: Sequence[Signals]) -> float | None:
    """Arrivals/s over the demand window: the source's own rate, averaged over what the window has beyond it."""
    latest = _figure(history[-1], FigureName.ARRIVALS)
    longer = policy.scaling.demand_window - policy.signals.window
    if latest is None or longer <= timedelta(0):
        return latest
    since = history[-1].at - longer
    rates = [_figure(past, FigureName.ARRIVALS) for past in history if past.at > since]
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known)


def _figure(signals: Signals, name: FigureName) -> float | None:
    value = signals.value(name)
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _why(signals: Signals, name: FigureName) -> str:
    reasons = [f"{gap.source}: {gap.reason}" for gap in signals.gaps if gap.figure is name]
    if not reasons and signals.get(name) is not None:
        reasons = [f"the figure {signals.value(name)} is absurd"]
    return f"{name} is missing ({'; '.join(reasons) or 'no source gives it'})"
