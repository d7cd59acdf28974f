"""At which demand, and when, the answer would be another one: true sentences, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from autoscaler.decide import law, stabilize
from autoscaler.decide.capacity import Yardstick
from autoscaler.decide.law import Situation
from autoscaler.decide.memory import LawMemory
from autoscaler.domain.decision import Recommendation, Rise

_SLACK = 0.1
_MINUTE = timedelta(minutes=1)


def counterfactuals(
    here: Situation,
    memory: LawMemory,
    want: int,
    bound: Recommendation,
    blockers: Sequence[tuple[str, datetime | None]],
    yardstick: Yardstick,
    length: timedelta,
) -> tuple[tuple[str, ...], Rise | None]:
    """Say at which demand the model would rise now, and when and below which demand it would fall."""
    rise = _rise(here, memory, want, yardstick)
    fall = _fall(here, memory, want, bound, blockers, length)
    said = rise.text if isinstance(rise, Rise) else rise
    found = rise if isinstance(rise, Rise) else None
    return tuple(text for text in (said, fall) if text is not None), found


def _rise(here: Situation, memory: LawMemory, want: int, yardstick: Yardstick) -> Rise | str | None:
    most = here.policy.nodes.max * max(1, yardstick.reference.replicas)
    if want >= most:
        return f"does not rise above {want}: the policy allows {here.policy.nodes.max} nodes"
    if memory.surge_until is None or here.now >= memory.surge_until:
        limit = memory.step_from + max(here.policy.scaling.max_step, memory.step_from)
        if limit + _SLACK < want + 1:
            return None
    least = math.ceil((here.demand or 0.0) * 100)
    low, high = least, max(least + 1, 100 * (want + 2))
    if _wanted(here, memory, low / 100) > want:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _wanted(here, memory, middle / 100) > want:
            high = middle
        else:
            low = middle
    to = _wanted(here, memory, high / 100)
    if to <= want:
        return None
    text = f"rises to {to} above a demand of {low / 100:.2f}"
    return Rise(to, low / 100, round(_asked(here, memory, high / 100), 6), text)


def _wanted(here: Situation, memory: LawMemory, demand: float) -> int:
    return math.ceil(_asked(here, memory, demand) - _SLACK)


def _asked(here: Situation, memory: LawMemory, demand: float) -> float:
    there = replace(here, demand=demand)
    return max(wish.replicas for wish in law.recommend(there, memory, demand))


def _fall(
    here: Situation,
    memory: LawMemory,
    want: int,
    bound: Recommendation,
    blockers: Sequence[tuple[str, datetime | None]],
    length: timedelta,
) -> str | None:
    if want <= here.policy.nodes.min or any(until is None for _, until in blockers):
        return None
    zero = stabilize.zero_at(here.policy, memory, here.lead)
    least = want - 1
    if least == 0:
        return _to_zero(here, zero, length)
    use = max(1 / here.policy.scaling.target_utilization, here.margin)
    ceiling = math.floor((least - _SLACK) / use * 100 + 1e-9) / 100
    if ceiling <= 0:
        return None
    threshold = least - _SLACK
    memory_length = here.policy.scaling.peak_memory
    ends = [until for _, until in blockers if until is not None]
    ends += [level.at + length for level in memory.asked if level.replicas >= threshold]
    ends += [
        level.at + memory_length + length
        for level in memory.peaks
        if level.replicas * use >= threshold
    ]
    due = max(ends, default=here.now)
    if zero is not None and zero <= due:
        return _to_zero(here, zero, length)
    return f"falls to {least} about {_clock(due, length)} if demand stays under {ceiling:.2f}"


def _to_zero(here: Situation, zero: datetime | None, length: timedelta) -> str:
    if zero is None:
        idle = max(here.policy.scaling.zero_after, here.lead)
        return f"falls to 0 once nothing came for {idle.total_seconds():.0f} s"
    return f"falls to 0 about {_clock(zero, length)} if nothing comes until then"


def _clock(at: datetime, window: timedelta) -> str:
    """The full minute at or after an instant; to the second where windows are of seconds."""
    if window < 2 * _MINUTE:
        return f"{at:%H:%M:%S}"
    whole = at.replace(second=0, microsecond=0)
    return f"{whole if whole == at else whole + _MINUTE:%H:%M}"
