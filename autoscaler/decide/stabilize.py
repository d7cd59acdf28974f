"""When capacity may be given back: never on thin evidence, never soon after it was needed.

A node takes minutes to boot and seconds to give back. The window is the break-even of ski rental: idling that long
costs what leaving and coming back would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from autoscaler.decide.evidence import Evidence
from autoscaler.decide.memory import LawMemory, Level, highest
from autoscaler.domain.decision import Recommendation
from autoscaler.domain.node import Fleet, State
from autoscaler.policy import Policy
from autoscaler.quantity import counted

STABILIZE = "stabilize"
_SHORT_GAP = 0.2  # of a window: a gap in the signals no longer than this costs no new window
_LOST_COUNT, _LOST_SHARE = 2, 0.3


def window(policy: Policy, lead: timedelta) -> timedelta:
    """How long a higher wish is remembered: the policy's window, or one lead where that is longer."""
    return max(policy.scaling.stabilization, lead)


def grain(length: timedelta) -> timedelta:
    """How exactly a window's levels are timed."""
    return length / 40


def stabilize(
    wanted: Recommendation, asked: Sequence[Level], length: timedelta, now: datetime
) -> Recommendation | None:
    """Hold what was asked for within the window, or None when nothing in it asked for more.

    Args:
        wanted: the highest wish of this pass.
        asked: what was asked for earlier. Raw, never the held value: feeding that back would hold for ever.

    Source: the HPA's stabilization window; Knative's scale-down delay.
    """
    top = highest(tuple(asked), length, now)
    if top.replicas <= wanted.replicas:
        return None
    until = top.at + length
    reason = f"{top.replicas:.2f} were asked for at {top.at:%H:%M:%S}; that is held until {until:%H:%M:%S}"
    inputs = (("highest", top.replicas), ("window_s", length.total_seconds()))
    return Recommendation(STABILIZE, top.replicas, reason, now, inputs)


def begin_pass(
    policy: Policy,
    memory: LawMemory,
    evidence: Evidence,
    fleet: Fleet,
    lead: timedelta,
    now: datetime,
) -> LawMemory:
    """Bring the memory's clocks to this pass: start, gaps, idleness, nodes that were lost."""
    length = window(policy, lead)
    if memory.started_at is None:
        memory = replace(memory, started_at=now, cautious_until=now + length)
    if evidence.missing:
        memory = replace(memory, missing_since=memory.missing_since or now)
    elif memory.missing_since is not None:
        if now - memory.missing_since > length * _SHORT_GAP:
            later = max(memory.cautious_until or now, now + length)
            memory = replace(memory, cautious_until=later, idle_since=None)
        memory = replace(memory, missing_since=None)
    if evidence.is_idle:
        memory = replace(memory, idle_since=memory.idle_since or now)
    elif evidence.something_came:
        memory = replace(memory, idle_since=None)
    return _notice_losses(memory, fleet, lead, now)


def why_no_release(
    policy: Policy, memory: LawMemory, evidence: Evidence, lead: timedelta, now: datetime
) -> tuple[tuple[str, datetime | None], ...]:
    """Every reason why nothing may be given back in this pass, with when it ends where that is known."""
    reasons: list[tuple[str, datetime | None]] = [(text, None) for text in evidence.missing]
    if memory.cautious_until is not None and now < memory.cautious_until:
        text = f"until {memory.cautious_until:%H:%M:%S} it has not watched for one window"
        reasons.append((text, memory.cautious_until))
    if memory.surge_until is not None and now < memory.surge_until:
        reasons.append((f"a surge is on until {memory.surge_until:%H:%M:%S}", memory.surge_until))
    if memory.breach_since is not None:
        reasons.append((f"the latency goal is missed since {memory.breach_since:%H:%M:%S}", None))
    lost = [at for at in memory.lost if now - at < lead]
    if len(lost) >= _LOST_COUNT or (
        lost and len(lost) >= _LOST_SHARE * (len(memory.serving) + len(lost))
    ):
        text = f"{counted(len(lost), 'node')} lost since {min(lost):%H:%M:%S}"
        reasons.append((text, max(lost) + lead))
    return tuple(reasons)


def may_go_to_zero(
    policy: Policy, memory: LawMemory, fleet: Fleet, lead: timedelta, now: datetime
) -> bool:
    """Whether the last node may go: nothing came for long enough, nothing is in flight, nothing boots."""
    due = zero_at(policy, memory, lead)
    return due is not None and now >= due and not fleet.coming


def zero_at(policy: Policy, memory: LawMemory, lead: timedelta) -> datetime | None:
    """When the last node goes if nothing comes until then; None when it is not idle or must stay."""
    if policy.nodes.min > 0 or memory.idle_since is None:
        return None
    return memory.idle_since + max(policy.scaling.zero_after, lead)


def _notice_losses(memory: LawMemory, fleet: Fleet, lead: timedelta, now: datetime) -> LawMemory:
    """A node that served at the last pass and now is gone, or failed, without having been drained, was lost."""
    nodes = {node.name: node for node in fleet.nodes}
    lost = [at for at in memory.lost if now - at < max(lead, timedelta(minutes=1))]
    for name in memory.serving:
        node = nodes.get(name)
        if (
            node is None
            or node.state in {State.FAILED, State.LOST}
            or (node.state in {State.TERMINATING, State.GONE} and node.failure is not None)
        ):
            lost.append(now)
    serving = tuple(node.name for node in fleet.ready)
    return replace(memory, lost=tuple(lost), serving=serving)
