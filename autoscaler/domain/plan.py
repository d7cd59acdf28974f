"""Launches, drains and keeps that make a decision true, and why each offer was passed over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from autoscaler.domain.ids import DecisionId, ModelName, NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.offer import OfferKey


@dataclass(frozen=True, slots=True)
class Launch:
    """One VM to rent.

    Attributes:
        units: capacity it will add, in reference replicas.
        replicas: model servers it will run, each on `tensor_parallel` GPUs.
        concurrency: requests that one of its replicas should carry at once (B*).
    """

    offer: OfferKey
    price_per_hour: Money
    units: float
    replicas: int
    tensor_parallel: int
    concurrency: int
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """One node to give back: cancelled when still planned, drained when it serves, terminated otherwise."""

    node: NodeName
    reason: str


@dataclass(frozen=True, slots=True)
class PassedOver:
    """An offer that the plan does not rent, and why not.

    Attributes:
        possible: whether it could serve the model at another time or price, rather than never.
    """

    offer: OfferKey
    reason: str
    possible: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to rent, keep and give back for one model.

    Attributes:
        undrain: draining nodes to take back into service: cheaper and faster than a launch.
        shortfall: capacity wanted that no offer could give, in reference replicas.
        price_per_hour: of all that remains after this plan, launches included.
    """

    model: ModelName
    decision: DecisionId
    at: datetime
    launches: tuple[Launch, ...] = ()
    releases: tuple[Release, ...] = ()
    keeps: tuple[NodeName, ...] = ()
    undrain: tuple[NodeName, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    shortfall: float = 0.0
    price_per_hour: Money | None = None
    notes: tuple[str, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        """Whether carrying this plan out would have no effect."""
        return not (self.launches or self.releases or self.undrain)
