"""The cheapest set of machines that covers what a decision needs, and why every other offer was passed over.

Two questions, each a small integer program, never both at once: what to rent when too little stands, and what to give
back when the decision allows it. Where neither is asked nothing is solved. Moving to cheaper machines (rent first,
release after) is no part of this: it has a price of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from autoscaler.decide.capacity import Yardstick, replica_capacity
from autoscaler.decide.eligible import why_never, why_not_now
from autoscaler.decide.forecast import lead_time
from autoscaler.decide.override import OVERRIDE
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.release import SCALE_IN, Held, Keep, choose_releases
from autoscaler.decide.rent import SLACK, Candidate, Rented, Wanted, choose_launches
from autoscaler.decide.shortfall import passed_over, spread_missing, tight_limits
from autoscaler.decide.work import Work
from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import NodeName
from autoscaler.domain.money import Money, total
from autoscaler.domain.node import Fleet, Node, State
from autoscaler.domain.offer import Market, Offer, OfferKey
from autoscaler.domain.plan import Launch, PassedOver, Plan, Release
from autoscaler.policy import Policy

_GONE_CHANCE, _GONE_CHANCE_SHORT = (
    0.05,
    0.5,
)  # that an offer in stock, or out of it, cannot be rented again


@dataclass(frozen=True, slots=True)
class PlacementLimits:
    """What the limits of all models together leave for this one; None sets no bound.

    Attributes:
        usd_per_hour_left: on top of all that bills now.
        why_none: why nothing may be rented at all (safe mode, a failing policy); None when renting is allowed.
        drain_to_min: a limit is passed and its action is to drain to the policy's least number of nodes.
    """

    nodes_left: int | None = None
    usd_per_hour_left: Money | None = None
    launches_left: int | None = None
    gpus_left: int | None = None
    why_none: str | None = None
    drain_to_min: bool = False


@dataclass(frozen=True, slots=True)
class _Ground:
    """What placement stands on in one pass."""

    policy: Policy
    decision: Decision
    fleet: Fleet
    market: Market
    limits: PlacementLimits
    now: datetime
    profiles: Profiles
    work: Work
    yardstick: Yardstick | None

    @property
    def need(self) -> float:
        decision = self.decision
        if self.limits.drain_to_min:
            return 0.0
        return float(decision.want) if decision.need is None else decision.need

    @property
    def least_nodes(self) -> int:
        """Nodes that must stand whatever they carry: the policy's least, and one as long as any is wanted."""
        one = 1 if self.decision.want > 0 and not self.limits.drain_to_min else 0
        return min(max(self.policy.nodes.min, one), self.policy.nodes.max)

    @property
    def is_over(self) -> bool:
        """Whether more stand than the policy allows: its most was lowered, or a late machine was taken up."""
        return len(self.standing) > max(self.policy.nodes.max, self.least_nodes)

    def units(self, node: Node) -> float:
        return node.units if self.yardstick is None else self.yardstick.node_units(node)

    @property
    def standing(self) -> tuple[Node, ...]:
        return (*self.fleet.ready, *self.fleet.coming)


def place(
    policy: Policy,
    decision: Decision,
    fleet: Fleet,
    market: Market,
    limits: PlacementLimits,
    now: datetime,
    profiles: Profiles,
    work: Work,
) -> Plan:
    """Say what to rent, keep and give back so that `decision` comes true at the least cost. Pure.

    Args:
        limits: what is left of the limits over all models; the policy's own are applied here. Both are checked again
            when the plan is recorded.
        work: the mean request, as the decision saw it (`observed_work`).
    """
    yardstick = Yardstick.of(policy, market, work, profiles, decision.reference)
    ground = _Ground(policy, decision, fleet, market, limits, now, profiles, work, yardstick)
    stands = sum(ground.units(node) for node in ground.standing)
    if ground.is_over and decision.release_allowed:
        return _release(ground, stands)
    if _too_little(ground, stands):
        return _rent(ground, stands)
    if decision.release_allowed or limits.drain_to_min:
        return _release(ground, stands)
    return _plan(ground)


def _too_little(ground: _Ground, stands: float) -> bool:
    if ground.limits.drain_to_min:
        return False
    if len(ground.standing) < ground.least_nodes or stands < ground.need - SLACK:
        return True
    return bool(spread_missing(ground.policy, _rented(ground), ground.need))


def _rented(ground: _Ground) -> list[Rented]:
    return [Rented(ground.units(node), node.offer.location) for node in ground.standing]


def _rent(ground: _Ground, stands: float) -> Plan:
    undrained = _undrain(ground, stands)
    back = [Rented(ground.units(node), node.offer.location) for node in undrained]
    rented = _rented(ground) + back
    names = tuple(node.name for node in undrained)
    covered = stands + sum(one.units for one in back)
    missing = max(0.0, ground.need - SLACK - covered)
    if (
        missing <= 0
        and len(rented) >= ground.least_nodes
        and not spread_missing(ground.policy, rented, ground.need)
    ):
        return _plan(ground, undrain=names)
    candidates, reasons = _candidates(ground)
    wanted = _wanted(ground)
    chosen = choose_launches(candidates, rented, wanted)
    launches = tuple(_launch(candidate) for candidate in chosen)
    after = rented + [Rented(one.units, one.key.location) for one in chosen]
    short = max(0.0, missing - sum(one.units for one in chosen))
    short = max(short, float(wanted.nodes - len(after)))
    return _plan(
        ground,
        launches=launches,
        undrain=names,
        passed_over=passed_over(candidates, reasons, chosen),
        shortfall=round(short, 6) if short > 1e-6 else 0.0,
        notes=_notes(ground, candidates, after, wanted, short),
    )


def _undrain(ground: _Ground, stands: float) -> list[Node]:
    """Draining nodes to take back, the best first: sooner and cheaper than any launch. Only what scale-in drained:
    a person's drain, a failure or a changed spec has its own reason."""
    draining = [
        node
        for node in ground.fleet.in_states(frozenset({State.DRAINING}))
        if node.failure is None
        and node.reason.startswith(SCALE_IN)
        and node.unregistered_at is None  # no balancer has it any more: it is as good as gone
    ]
    draining.sort(key=lambda node: (-ground.units(node), node.price_per_hour, node.name))
    taken: list[Node] = []
    nodes = len(ground.standing)
    for node in draining:
        enough = stands >= ground.need - SLACK and nodes + len(taken) >= ground.least_nodes
        if enough and not spread_missing(
            ground.policy,
            [*_rented(ground), *(Rented(ground.units(n), n.offer.location) for n in taken)],
            ground.need,
        ):
            break
        if nodes + len(taken) >= ground.policy.nodes.max:
            break  # one more than is allowed would be drained again
        taken.append(node)
        stands += ground.units(node)
    return taken


def _candidates(ground: _Ground) -> tuple[list[Candidate], dict[OfferKey, str]]:
    """Offers that may be rented now, and for each other one the reason why not."""
    candidates: list[Candidate] = []
    reasons: dict[OfferKey, str] = {}
    for offer in ground.market.offers:
        candidate = _candidate(ground, offer)
        if isinstance(candidate, str):
            reasons[offer.key] = candidate
        else:
            candidates.append(candidate)
    return candidates, reasons


def _candidate(ground: _Ground, offer: Offer) -> Candidate | str:
    policy, yardstick = ground.policy, ground.yardstick
    if yardstick is None:
        capacity = replica_capacity(policy, offer, ground.work, ground.profiles)
        return why_never(policy, offer, capacity) or "its work cannot be measured"
    capacity = yardstick.capacities[offer.key]
    why_not = why_not_now(policy, offer, capacity, ground.market, ground.now)
    if why_not is not None or offer.price_per_hour is None:
        return why_not or "no price"
    failed = next((b.failures for b in ground.market.backoffs if b.key == offer.key), 0)
    return Candidate(
        key=offer.key,
        price_per_hour=offer.price_per_hour,
        units=yardstick.offer_units(offer.key),
        replicas=capacity.replicas,
        tensor_parallel=capacity.tensor_parallel,
        concurrency=capacity.concurrency,
        lead=lead_time(policy, ground.market, (offer.key,)),
        failures=failed,
        boots=len(ground.market.boots_s.get(offer.key, ())),
        here=sum(1 for node in ground.fleet.billing if node.offer.location == offer.key.location),
        horizon=policy.scaling.rent_horizon,
        gpus=offer.gpus,
    )


def _wanted(ground: _Ground) -> Wanted:
    """What must be reached and what may be spent: the tighter of the policy's own limits and those of all models."""
    policy, limits, billing = ground.policy, ground.limits, ground.fleet.billing
    launches = max(0, policy.nodes.max - len(billing))
    for left in (limits.nodes_left, limits.launches_left):
        if left is not None:
            launches = min(launches, max(0, left))
    if limits.why_none is not None:
        launches = 0
    money = [] if limits.usd_per_hour_left is None else [limits.usd_per_hour_left]
    if policy.hourly_limit is not None:
        money.append(policy.hourly_limit - total([node.price_per_hour for node in billing]))
    return Wanted(
        need=ground.need,
        welcome=float(ground.decision.want),
        nodes=ground.least_nodes,
        spread=policy.spread if ground.need > 1 + SLACK else None,
        launches=launches,
        usd_per_hour=max(0.0, float(min(money).usd)) if money else None,
        gpus=None if limits.gpus_left is None else max(0, limits.gpus_left),
    )


def _notes(
    ground: _Ground,
    candidates: Sequence[Candidate],
    after: Sequence[Rented],
    wanted: Wanted,
    short: float,
) -> tuple[str, ...]:
    """Why the plan falls short of the need or of the spread, empty when it does not."""
    if short <= 1e-6:
        broken = spread_missing(ground.policy, after, ground.need)
        return (f"{broken} would leave too little",) if broken else ()
    if ground.limits.why_none is not None:
        return (f"nothing may be rented: {ground.limits.why_none}",)
    notes = [] if candidates else ["no offer may be rented now"]
    launched = len(after) - len(ground.standing)
    bounds = {"node": ground.limits.nodes_left, "launch": ground.limits.launches_left}
    billing = len(ground.fleet.billing)
    notes += tight_limits(ground.policy, billing, launched, bounds, wanted, candidates)
    return tuple(notes) or ("what may be rented does not reach the need",)


def _launch(candidate: Candidate) -> Launch:
    return Launch(
        offer=candidate.key,
        price_per_hour=candidate.price_per_hour,
        units=round(candidate.units, 6),
        replicas=candidate.replicas,
        tensor_parallel=candidate.tensor_parallel,
        concurrency=candidate.concurrency,
        reason=f"${candidate.usd_per_replica_hour:.2f} per replica-hour, {candidate.units:.2f} replicas",
    )


def _release(ground: _Ground, stands: float) -> Plan:
    """Give back what the need, the spread and the least number of nodes can spare, at the pace."""
    need = ground.need + SLACK if ground.decision.want > 0 else 0.0
    if ground.limits.drain_to_min:
        need = 0.0
    elif ground.is_over:
        # Whatever is needed, one more can go: the smallest.
        need = min(need, stands - min(ground.units(node) for node in ground.standing))
    keep = Keep(
        need=need,
        nodes=ground.least_nodes,
        spread=ground.policy.spread if ground.need > 1 and not ground.is_over else None,
    )
    held = [_held(ground, node) for node in ground.standing]
    chosen = choose_releases(held, keep, ground.now)
    why = f"{ground.need:.2f} needed, {stands:.2f} stand"
    if ground.decision.binding == OVERRIDE:
        why = ground.decision.reason.partition(";")[0]
    if ground.is_over:
        why = f"nodes.max is {ground.policy.nodes.max}, {len(ground.standing)} stand"
    if ground.limits.drain_to_min:
        why = "a spend limit is passed, the policy drains to its least"
    releases = tuple(Release(one.node.name, f"{SCALE_IN}: {why}; {_which(one)}") for one in chosen)
    return _plan(ground, releases=releases)


def _held(ground: _Ground, node: Node) -> Held:
    offer = ground.market.offer(node.offer)
    is_short = (
        offer is None
        or not offer.in_stock
        or ground.market.backed_off(node.offer, ground.now) is not None
    )
    return Held(
        node=node,
        units=ground.units(node),
        lead=lead_time(ground.policy, ground.market, (node.offer,)),
        gone_chance=_GONE_CHANCE_SHORT if is_short else _GONE_CHANCE,
        horizon=ground.policy.scaling.rent_horizon,
    )


def _which(one: Held) -> str:
    if not one.serves:
        return "it does not serve yet"
    if one.units <= 0:
        return "it carries nothing"
    price = float(one.node.price_per_hour.usd) / one.units
    return f"its work is the dearest that can go, ${price:.2f} per replica-hour"


def _plan(
    ground: _Ground,
    *,
    launches: tuple[Launch, ...] = (),
    releases: tuple[Release, ...] = (),
    undrain: tuple[NodeName, ...] = (),
    passed_over: tuple[PassedOver, ...] = (),
    shortfall: float = 0.0,
    notes: tuple[str, ...] = (),
) -> Plan:
    leaving = {release.node for release in releases}
    kept = [node for node in ground.standing if node.name not in leaving]
    back = [node for node in ground.fleet.nodes if node.name in undrain]
    prices = [node.price_per_hour for node in (*kept, *back)]
    prices += [launch.price_per_hour for launch in launches]
    return Plan(
        model=ground.policy.name,
        decision=ground.decision.id,
        at=ground.now,
        launches=launches,
        releases=releases,
        keeps=tuple(sorted(node.name for node in kept)),
        undrain=undrain,
        passed_over=passed_over,
        shortfall=shortfall,
        price_per_hour=total(prices),
        notes=notes,
    )
