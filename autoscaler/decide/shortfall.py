"""In words: why each other offer was passed over, which limits left no room, which spread is broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoscaler.decide.eligible import is_passing
from autoscaler.decide.rent import SLACK, Candidate, Rented, Wanted
from autoscaler.domain.offer import OfferKey
from autoscaler.domain.plan import PassedOver
from autoscaler.policy import Policy


def passed_over(
    candidates: Sequence[Candidate], reasons: Mapping[OfferKey, str], chosen: Sequence[Candidate]
) -> tuple[PassedOver, ...]:
    """Each offer that is not rented, with its reason, the cheapest work first and the impossible ones last.

    Args:
        candidates: offers that might have been rented.
        reasons: why each other one might not.
    """
    rented = {one.key for one in chosen}
    best = min((one.usd_per_replica_hour for one in chosen), default=None)
    rest = sorted(
        (one for one in candidates if one.key not in rented),
        key=lambda one: (one.usd_per_replica_hour, one.key),
    )
    possible = tuple(PassedOver(one.key, _why_dearer(one, best, chosen), True) for one in rest)
    others = tuple(
        PassedOver(key, reasons[key], is_passing(reasons[key])) for key in sorted(reasons)
    )
    return possible + others


def tight_limits(
    policy: Policy,
    billing: int,
    launched: int,
    bounds: Mapping[str, int | None],
    wanted: Wanted,
    candidates: Sequence[Candidate],
) -> list[str]:
    """The limits that leave no room for another VM, each with its figure.

    Args:
        billing: the model's nodes that bill or may, before this plan.
        bounds: what is left over all models, by what it counts.
    """
    tight = []
    if billing + launched >= policy.nodes.max:
        tight.append(
            f"nodes.max = {policy.nodes.max} binds: {billing} nodes bill or may, {launched} more are ordered"
        )
    for name, left in bounds.items():
        if left is not None and launched >= left:
            tight.append(f"the {name} limit over all models binds: {max(0, left)} left")
    if wanted.usd_per_hour is not None and candidates:
        cheapest = min(float(one.price_per_hour.usd) for one in candidates)
        if wanted.usd_per_hour < cheapest * (launched + 1):
            tight.append(f"the $/h limit binds: ${wanted.usd_per_hour:.2f} per hour are left")
    if wanted.gpus is not None and candidates:
        fewest = min(one.gpus for one in candidates)
        if wanted.gpus < fewest * (launched + 1):
            tight.append(f"the GPU limit binds: {wanted.gpus} left")
    return tight


def spread_missing(policy: Policy, rented: Sequence[Rented], need: float) -> str:
    """Which spread the standing nodes break, empty for none: what is left without any one node or location."""
    stands = sum(one.units for one in rented)
    largest = max((one.units for one in rented), default=0.0)
    if need > 1 + SLACK and stands - largest < policy.spread.survive_node * need - SLACK:
        return "the loss of one node"
    by_location: dict[str, float] = {}
    for one in rented:
        by_location[one.location] = by_location.get(one.location, 0.0) + one.units
    worst = max(by_location.values(), default=0.0)
    if need > 1 + SLACK and stands - worst < policy.spread.survive_location * need - SLACK:
        return "the loss of one location"
    return ""


def _why_dearer(one: Candidate, best: float | None, chosen: Sequence[Candidate]) -> str:
    mine = one.usd_per_replica_hour
    if best is None:
        return f"${mine:.2f} per replica-hour: a limit leaves no room for it"
    if mine > best + 0.005:
        return f"dearer per work: ${mine:.2f} against ${best:.2f} per replica-hour"
    if one.units > max(other.units for other in chosen):
        return f"larger than needed: {one.units:.2f} replicas at ${one.price_per_hour.usd:.2f} per hour"
    return "no better: as cheap per work, later by failures, number of VMs or name"
