"""What the steps of one node's life remember between two looks. The row is what survives."""

from __future__ import annotations

from dataclasses import dataclass

from autoscaler.domain.node import State
from autoscaler.nodes.absence import AbsenceProof
from autoscaler.nodes.drain import DrainEvidence
from autoscaler.nodes.liveness import Suspicion
from autoscaler.nodes.protocol import Proven


@dataclass(slots=True)
class NodeMemory:
    """What is remembered of one node between two looks, and may be lost at any time."""

    absence: AbsenceProof
    drain: DrainEvidence
    suspicion: Suspicion | None = None
    suspected_s: float = 0.0  # when it was last looked at and found so, since boot
    condemned: str | None = None
    judged_in: State | None = None
    sick: str | None = None
    diagnosed: bool = False
    next_probe_s: float = 0.0
    stage: str | None = None
    proven: Proven | None = None
    serving: bool = False
    disagrees: bool = False  # a balancer lists it otherwise than recorded, as last seen
    unlisted_since_s: float | None = None
    drain_overdue: bool = False
    cut_told: bool = False  # a balancer that is away then is told again and again, people once
    next_alarm_s: float = 0.0
    delete_forbidden: bool = False  # our credential may not, as last answered
