"""One pass, and the decisions that are taken without a demand: hold what was wanted, or give back what nobody wants."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from autoscaler.decide.capacity import Yardstick
from autoscaler.decide.evidence import Evidence
from autoscaler.decide.limits import BOUNDS
from autoscaler.decide.memory import LawMemory
from autoscaler.domain.decision import Decision, Recommendation, Verdict
from autoscaler.domain.ids import DecisionId
from autoscaler.domain.node import Fleet, Node
from autoscaler.policy import Policy

SLACK = 0.1  # replicas: need may exceed what stands by this much, and must fall this far below a level to leave it
HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass looks at, before any rule."""

    policy: Policy
    evidence: Evidence
    fleet: Fleet
    yardstick: Yardstick | None
    lead: timedelta
    now: datetime
    id: DecisionId

    @property
    def ready(self) -> float:
        return self.units(self.fleet.ready)

    @property
    def coming(self) -> float:
        return self.units(self.fleet.coming)

    @property
    def have(self) -> float:
        return self.units(self.fleet.billing)

    def units(self, nodes: Iterable[Node]) -> float:
        if self.yardstick is None:
            return sum(node.units for node in nodes)
        return self.yardstick.total(nodes)


def none_allowed(this: Pass, memory: LawMemory) -> tuple[Decision, LawMemory]:
    """Give everything back, whatever the signals: a person said so (`nodes.max = 0`, or a retired model)."""
    reason = "the policy allows no nodes"
    rule = Recommendation(BOUNDS, 0.0, reason, this.now)
    decision = Decision(
        id=this.id,
        model=this.policy.name,
        at=this.now,
        verdict=Verdict.IN if this.fleet.ready or this.fleet.coming else Verdict.KEEP,
        demand=None,
        raw=0.0,
        want=0,
        have=round(this.have, 4),
        ready=round(this.ready, 4),
        binding=BOUNDS,
        reason=reason,
        recommendations=(rule,),
        release_allowed=True,
        reference="" if this.yardstick is None else this.yardstick.reference_type,
        need=0.0,
    )
    return decision, replace(memory, need=0.0, want=0)


def hold(this: Pass, memory: LawMemory, why: str) -> tuple[Decision, LawMemory]:
    """Keep what was wanted last; replace what was lost up to it; wake if someone is known to wait."""
    policy = this.policy
    stands = this.ready + this.coming
    need = memory.need if memory.need is not None else stands
    want = memory.want if memory.want is not None else max(0, math.ceil(stands - SLACK))
    reason = f"held at {want}: {why}"
    held_for = this.now - (memory.missing_since or this.now)
    if policy.scaling.safe_floor > want and held_for >= policy.scaling.hold_escalation:
        want, need = policy.scaling.safe_floor, float(policy.scaling.safe_floor)
        reason = f"raised to the safe floor of {want} after {held_for.total_seconds():.0f} s: {why}"
    if this.evidence.something_came and stands == 0 and want == 0:
        want = 1
        reason = f"woken: requests wait and no node serves ({why})"
    low, high = policy.nodes.min, policy.nodes.max
    if this.yardstick is not None:
        high *= max(1, this.yardstick.reference.replicas)
        need = min(need, float(high))
    want = min(max(want, low), max(high, low))
    decision = Decision(
        id=this.id,
        model=policy.name,
        at=this.now,
        verdict=Verdict.HOLD,
        demand=None,
        raw=round(need, 4),
        want=want,
        have=round(this.have, 4),
        ready=round(this.ready, 4),
        binding=HOLD,
        reason=reason,
        recommendations=(Recommendation(HOLD, need, why, this.now),),
        release_allowed=False,
        reference="" if this.yardstick is None else this.yardstick.reference_type,
        need=round(need, 6),
    )
    return decision, memory
