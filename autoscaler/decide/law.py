"""The scaling law: each rule looks at one thing and says how many replicas it wants, why, and from which figures.

The rules know nothing of windows, rates or bounds (`stabilize.py`, `limits.py`); the highest of them is what is asked
for. Units are reference replicas throughout; L is the lead, from an order to a serving node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from autoscaler.decide.evidence import Evidence
from autoscaler.decide.memory import LawMemory, highest
from autoscaler.domain.decision import Recommendation
from autoscaler.policy import Policy
from autoscaler.quantity import counted

REACT, BACKLOG, AHEAD, KV, SLO, MINIMUM, WAKE = (
    "react",
    "backlog",
    "ahead",
    "kv",
    "slo",
    "minimum",
    "wake",
)
_SLO_MOST = 2  # replicas added for a missed goal; more of the same has not helped by then


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at, all of one pass.

    Attributes:
        demand: replicas' work that is asked for now; None when it cannot be measured.
        rate: requests/s that one reference replica serves within the goal.
        ready, coming: capacity that serves and capacity that was ordered.
        have: capacity of every VM that exists or may exist.
        coming_for: how long the oldest coming node has been on its way.
        margin: by how much the recent peak is exceeded.
    """

    policy: Policy
    evidence: Evidence
    now: datetime
    demand: float | None
    rate: float
    ready: float
    coming: float
    have: float
    coming_for: timedelta
    lead: timedelta
    margin: float


def measured_demand(evidence: Evidence, rate: float, concurrency: int) -> float | None:
    """Demand in replicas: work that arrives, or what is in flight where that is more.

    In-flight requests count up to twice the work that arrives: a leak in some counter must not order a fleet.
    """
    busy = None if evidence.in_flight is None else evidence.in_flight / max(1, concurrency)
    if evidence.arrivals is None:
        return busy
    arriving = evidence.arrivals / rate
    return arriving if busy is None else max(arriving, min(busy, 2 * arriving))


def recommend(here: Situation, memory: LawMemory, demand: float) -> list[Recommendation]:
    """Every rule's wish at this demand, in the order in which people should read them."""
    sometimes = (backlog(here, memory, demand), kv(here), slo(here, memory))
    always = [react(here, demand), ahead(here, memory, demand)]
    return always + [wish for wish in sometimes if wish is not None]


def react(here: Situation, demand: float) -> Recommendation:
    """Serve what comes now at the target utilization, so that chance has room."""
    use = here.policy.scaling.target_utilization
    evidence = here.evidence
    if evidence.arrivals is None:
        cause = f"{counted(evidence.in_flight or 0, 'request')} in flight"
    else:
        cause = f"{evidence.arrivals:.2f} requests/s arrive"
    return Recommendation(
        REACT,
        demand / use,
        f"{cause}, the work of {demand:.2f} replicas; at {use:.0%} use that takes {demand / use:.2f}",
        here.now,
        (
            ("demand", demand),
            ("target_utilization", use),
            ("requests_per_s_per_replica", here.rate),
            *_known("arrivals_per_s", evidence.arrivals),
            *_known("in_flight", evidence.in_flight),
        ),
    )


def backlog(here: Situation, memory: LawMemory, demand: float) -> Recommendation | None:
    """Beyond serving what comes, drain within the policy's time what will be waiting when an order arrives.

    Ordering only today's shortage costs a fifth more at equal attainment: while a VM boots, what cannot be served
    piles up. At most one more peak (or one replica) is ordered for it: a wake from zero must not order a fleet.
    """
    scaling, hold = here.policy.scaling, here.policy.hold
    waiting = here.evidence.waiting or 0.0
    shortage = max(0.0, demand - here.ready)
    wait_s = max(0.0, (here.lead - here.coming_for).total_seconds())
    piling_s = min(shortage * wait_s, hold.requests / here.rate)
    backlog_s = waiting / here.rate + piling_s
    if backlog_s <= 0:
        return None
    peak = max(highest(memory.peaks, scaling.peak_memory, here.now).replicas, demand, 1.0)
    extra = min(backlog_s / scaling.drain_backlog_within.total_seconds(), peak)
    wanted = demand / scaling.target_utilization + extra
    return Recommendation(
        BACKLOG,
        wanted,
        f"{counted(waiting, 'request')} waiting, and {piling_s * here.rate:.0f} more when a new node serves: draining "
        f"them in {scaling.drain_backlog_within.total_seconds():.0f} s takes {extra:.2f} more",
        here.now,
        (
            ("demand", demand),
            ("waiting", waiting),
            ("backlog_replica_s", backlog_s),
            ("lead_s", here.lead.total_seconds()),
            ("extra", extra),
        ),
    )


def ahead(here: Situation, memory: LawMemory, demand: float) -> Recommendation:
    """Be ready for the recent peak, and for it to be outgrown before an order arrives."""
    length = here.policy.scaling.peak_memory
    peak = highest(memory.peaks, length, here.now)
    at, top = (here.now, demand) if demand >= peak.replicas else (peak.at, peak.replicas)
    return Recommendation(
        AHEAD,
        top * here.margin,
        f"the peak of the last {_length(length)} was {top:.2f} at {at:%H:%M:%S}, "
        f"times {here.margin:.2f}",
        here.now,
        (("peak", top), ("margin", here.margin), ("lead_s", here.lead.total_seconds())),
    )


def kv(here: Situation) -> Recommendation | None:
    """Keep the fullest replica's cache below the target: beyond it engines throw work away. One more at most."""
    use, target = here.evidence.kv_use, here.policy.scaling.kv_target
    if use is None or use <= target or here.ready <= 0:
        return None
    return Recommendation(
        KV,
        min(here.ready * use / target, here.ready + 1),
        f"the fullest KV cache is {use:.0%} in use, the target is {target:.0%}",
        here.now,
        (("kv_use", use), ("kv_target", target), ("ready", here.ready)),
    )


def slo(here: Situation, memory: LawMemory) -> Recommendation | None:
    """Add a replica when the goal has been missed for three windows under load: capacity is less than was thought.

    It stops at two: a bad GPU or longer prompts are not cured by more.
    """
    if memory.slo_level is None:
        return None
    goal = here.policy.slo
    return Recommendation(
        SLO,
        memory.slo_level,
        f"the goal ({goal.goal:.0%} of first tokens within {goal.ttft.total_seconds():g} s) was missed for three "
        f"windows with less",
        here.now,
        (
            ("level", memory.slo_level),
            ("added", float(memory.slo_extra)),
            *_known("attained", here.evidence.attained),
        ),
    )


def minimum(here: Situation) -> Recommendation | None:
    """The policy's own least number of nodes: counted by placement, whatever each of them carries."""
    least = here.policy.nodes.min
    if least == 0:
        return None
    return Recommendation(
        MINIMUM, float(least), f"the policy keeps at least {least}", here.now, (("min", least),)
    )


def breaches(here: Situation) -> bool:
    """Whether the latency goal is being missed by nodes that carry load, with no help on its way."""
    evidence, goal = here.evidence, here.policy.slo
    if evidence.attained is not None:
        missed = evidence.attained < goal.goal
    elif evidence.ttft_p95_s is not None:
        missed = evidence.ttft_p95_s > goal.ttft.total_seconds()
    else:
        return False
    loaded = (here.demand or 0.0) > here.ready * here.policy.scaling.target_utilization / 2
    return missed and loaded and here.ready > 0 and here.coming == 0


def watch_goal(here: Situation, memory: LawMemory) -> LawMemory:
    """Keep the clock of the missed goal: after three windows one more than serves now, at most twice."""
    window = here.policy.signals.window
    if not breaches(here):
        memory = replace(memory, breach_since=None)
        met = here.coming == 0 and here.evidence.attained is not None
        calm = memory.slo_at is None or here.now - memory.slo_at > 3 * window + here.lead
        return replace(memory, slo_extra=0, slo_level=None) if met and calm else memory
    since = memory.breach_since or here.now
    if here.now - since < 3 * window or memory.slo_extra >= _SLO_MOST:
        return replace(memory, breach_since=since)
    return replace(
        memory,
        breach_since=None,
        slo_extra=memory.slo_extra + 1,
        slo_level=here.ready + 1,
        slo_at=here.now,
    )


def _length(length: timedelta) -> str:
    seconds = length.total_seconds()
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _known(name: str, value: float | None) -> tuple[tuple[str, float], ...]:
    return () if value is None else ((name, value),)
