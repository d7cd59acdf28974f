"""What was settled for a model at one pass, with every rule's wish behind it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from autoscaler.domain.ids import DecisionId, ModelName


class Verdict(StrEnum):
    """What a decision does to the capacity that stands."""

    OUT = "scale-out"
    IN = "scale-in"
    KEEP = "keep"
    HOLD = "hold"  # signals are missing or absurd, or a guard forbids a change


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One rule's wish.

    Attributes:
        replicas: in reference replicas, not rounded.
        inputs: the figures it was made of, for people and for replay.
    """

    rule: str
    replicas: float
    reason: str
    at: datetime
    inputs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Rise:
    """The demand above which more would be wanted now.

    Attributes:
        to: capacity that would be wanted then, in whole reference replicas.
        above: the demand, in reference replicas.
        need: what the rules would ask for just above it, not rounded.
        text: the same in words, as it stands among the counterfactuals.
    """

    to: int
    above: float
    need: float
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The capacity wanted for one model, and why.

    Attributes:
        demand: work asked for, in reference replicas; None when it could not be measured.
        raw: the highest recommendation before stabilization, bounds and rate limits.
        want: capacity wanted in whole reference replicas.
        need: the same before rounding: placement covers it to a tenth of a replica. None: `want` is the need.
        have: capacity of all that exists or may exist when it was taken, in reference replicas.
        binding: the name of the rule that decided.
        recommendations: every rule's wish, in the order in which they ran.
        counterfactuals: at what demand the answer changes, in words.
        rise: the one of them that asks for more; None when no demand does.
        release_allowed: whether placement may give nodes back in this pass.
        surge: whether the panic path is on.
        reference: the offer type that one replica of capacity is measured in.
    """

    id: DecisionId
    model: ModelName
    at: datetime
    verdict: Verdict
    demand: float | None
    raw: float
    want: int
    have: float
    ready: float
    binding: str
    reason: str
    recommendations: tuple[Recommendation, ...]
    counterfactuals: tuple[str, ...] = ()
    release_allowed: bool = False
    surge: bool = False
    reference: str = ""
    need: float | None = None
    rise: Rise | None = None
