"""How fast capacity may grow, the panic path that lifts that, and the policy's bounds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from autoscaler.decide.law import Situation
from autoscaler.decide.memory import LawMemory
from autoscaler.domain.decision import Recommendation

STEP, BOUNDS = "step", "bounds"


def watch_surge(here: Situation, memory: LawMemory) -> LawMemory:
    """Keep the panic path's clock: on once demand has outrun what serves for `panic_after`, off a hold later."""
    scaling, evidence = here.policy.scaling, here.evidence
    overrun = here.demand is not None and here.demand > scaling.panic_ratio * here.ready
    late = (evidence.oldest_wait_s or 0.0) > here.policy.slo.ttft.total_seconds()
    if not (overrun or late) or not evidence.something_came:
        return replace(memory, pressed_since=None)
    since = memory.pressed_since or here.now
    memory = replace(memory, pressed_since=since)
    if here.now - since < scaling.panic_after:
        return memory
    return replace(memory, surge_until=here.now + max(scaling.panic_hold, here.lead))


def step_limit(
    here: Situation, memory: LawMemory, wanted: Recommendation, surge: bool
) -> tuple[Recommendation | None, LawMemory]:
    """At most double per lead, or `max_step` more where that is larger; a surge lifts it.

    What was ordered must have a chance to serve before more is ordered on the same evidence. Money is braked
    elsewhere, by the $/h limit and `nodes.max`, which hold in a surge too.
    """
    lead = max(here.lead, timedelta(seconds=1))
    if memory.step_at is None or here.now - memory.step_at >= lead or here.have < memory.step_from:
        memory = replace(memory, step_from=round(here.have, 6), step_at=here.now)
    most = memory.step_from + max(here.policy.scaling.max_step, memory.step_from)
    if surge or wanted.replicas <= most + 0.1:
        return None, memory
    began = memory.step_at or here.now
    reason = (
        f"{wanted.replicas:.2f} are asked for, but from {memory.step_from:.2f} at {began:%H:%M:%S} at most {most:.2f} "
        f"within one boot ({lead.total_seconds():.0f} s)"
    )
    inputs = (("asked", wanted.replicas), ("from", memory.step_from), ("most", most))
    return Recommendation(STEP, most, reason, here.now, inputs), memory


def upper_bound(
    here: Situation, wanted: Recommendation, replicas_per_vm: int
) -> Recommendation | None:
    """The policy's most nodes, counted as VMs of the reference offer."""
    most = here.policy.nodes.max * max(1, replicas_per_vm)
    if wanted.replicas <= most:
        return None
    reason = f"{wanted.replicas:.2f} are asked for, the policy allows {here.policy.nodes.max} nodes"
    inputs = (("asked", wanted.replicas), ("max", float(most)))
    return Recommendation(BOUNDS, float(most), reason, here.now, inputs)
