"""One pass of one model: observe, decide, place, record.

Reads come first, thinking has no I/O, one transaction ends it. Level-triggered: it looks at where things stand, and so
may be repeated, delayed or cut off anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from autoscaler.act import Limits, hourly, intents
from autoscaler.config import Config
from autoscaler.decide.capacity import excluded
from autoscaler.decide.decision import decide
from autoscaler.decide.memory import LawMemory
from autoscaler.decide.placement import PlacementLimits, place
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import observed_work
from autoscaler.domain.decision import Decision, Verdict
from autoscaler.domain.ids import ModelName, new_decision_id
from autoscaler.domain.money import Money, total
from autoscaler.domain.node import Endpoint, Fleet, Node, NodeEvent, State
from autoscaler.domain.offer import Market
from autoscaler.domain.plan import Plan, Release
from autoscaler.domain.signals import Signals
from autoscaler.market import MarketFeed
from autoscaler.nodes.hostkey import new_nonce
from autoscaler.nodes.launch import launch_stop
from autoscaler.nodes.leases import Leases
from autoscaler.policy import Mode, NodeBounds, Policy
from autoscaler.store.protocol import Admission, Ledger, ModelRecord, Store

log = structlog.get_logger(__name__)

_BOOTING_IS_NOT_IDLE = timedelta(minutes=2)
_LATELY = timedelta(days=1)
_REPEAT_AFTER = timedelta(seconds=15)  # a decision that says the same is recorded again no sooner
_NONE = NodeBounds(min=0, max=0)


class Feed(Protocol):
    """One model's merged signals with their recent past."""

    async def read(
        self, endpoints: Sequence[Endpoint], starting: Sequence[str], now: datetime
    ) -> Sequence[Signals]:
        """Measure now; the history, oldest first, with the newest at its end."""


@dataclass(frozen=True, slots=True)
class Thought:
    """What a pass thought before it recorded anything."""

    decision: Decision
    plan: Plan
    memory: LawMemory
    fleet: Fleet
    history: Sequence[Signals]
    market: Market


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass recorded."""

    decision: Decision
    plan: Plan
    launched: tuple[Node, ...]
    refused: tuple[tuple[Node, str], ...]


class Reconciler:
    """Runs passes for all models."""

    def __init__(
        self,
        config: Config,
        store: Store,
        market: MarketFeed,
        leases: Leases,
        feeds: Callable[[ModelName], Feed],
        policies: Callable[[], Mapping[ModelName, Policy]],
        forbidden: Callable[[], str | None],
        unbooked: Callable[[], Sequence[Money]] = tuple,
        why_no_release: Callable[[ModelName], str | None] = lambda model: None,
        most_nodes: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Take the parts.

        Args:
            unbooked: prices the machines of ours that no row knows: they bill, and count against every limit.
            why_no_release: says why no node that balancers know may be drained now; None when one may.
            most_nodes: says how many VMs may exist while no delete is proven; None once one is.
        """
        self._config = config
        self._store = store
        self._market = market
        self._leases = leases
        self._feeds = feeds
        self._policies = policies
        self._forbidden = forbidden
        self._unbooked = unbooked
        self._why_no_release = why_no_release
        self._most_nodes = most_nodes
        self._profiles = Profiles.load()
        self._memories: dict[ModelName, LawMemory] = {}
        self._recorded: dict[ModelName, Decision] = {}
        self.last: dict[ModelName, Thought] = {}

    async def reconcile(self, policy: Policy, now: datetime) -> Outcome:
        """Bring the recorded intent one step nearer to what `policy` wants.

        Raises:
            LeaseLost: another daemon has the model; nothing was recorded. Stop acting on it.
            CloudUnavailable, StoreUnavailable: nothing was recorded. The next pass starts afresh.
        """
        lease = self._leases.current(policy.name)
        record = await self._store.record(policy.name)
        thought = await self.think(policy, record, now)
        decision, plan = thought.decision, thought.plan
        if self._says_nothing_new(thought, now):
            self._remember(thought)
            return Outcome(decision, plan, (), ())
        releases = _releases(thought.fleet, plan, now)
        wanted = intents(
            plan,
            policy,
            prefix=self._config.cloud.prefix,
            owner=self._config.cloud.owner,
            epoch=lease.epoch,
            open_intents=await self._store.open_intents(policy.name) if plan.launches else (),
            nonces=[new_nonce() for _ in plan.launches],
            now=now,
        )
        admission: Admission = await self._store.commit_plan(
            lease,
            decision,
            plan,
            wanted,
            releases,
            json.dumps(thought.memory.to_json()),
            self.limits().admit,
        )
        self._recorded[policy.name] = decision
        self._remember(thought)
        self._say(policy, decision, plan, admission)
        return Outcome(decision, plan, admission.admitted, admission.refused)

    def _remember(self, thought: Thought) -> None:
        self._memories[thought.decision.model] = thought.memory
        self.last[thought.decision.model] = thought

    def _says_nothing_new(self, thought: Thought, now: datetime) -> bool:
        """Whether a pass without effect repeats what was recorded a moment ago.

        Each commit waits for the disk; at a pass a second twenty calm models would keep it busy with nothing.
        """
        last, decision = self._recorded.get(thought.decision.model), thought.decision
        return (
            last is not None
            and thought.plan.changes_nothing
            and now - last.at < _REPEAT_AFTER
            and (last.verdict, last.binding, last.want)
            == (decision.verdict, decision.binding, decision.want)
        )

    async def think(self, policy: Policy, record: ModelRecord, now: datetime) -> Thought:
        """Observe, decide and place, without recording anything: also what `autoscaler plan` shows.

        Raises:
            CloudUnavailable, StoreUnavailable: the market or the fleet is not known.
        """
        fleet = await self._store.fleet(policy.name)
        market = await self._market.market(policy.name)
        ledger = await self._store.ledger(now)
        history = await self._feeds(policy.name).read(
            [e for node in fleet.ready for e in node.endpoints],
            [
                e.id
                for node in fleet.ready
                if node.ready_at is not None and now - node.ready_at < _BOOTING_IS_NOT_IDLE
                for e in node.endpoints
            ],
            now,
        )
        memory = self._memory(policy, record, now)
        retired = record.retired_by is not None
        bounded = policy.model_copy(update={"nodes": _NONE}) if retired else policy
        decision, memory = decide(
            bounded, history, fleet, market, now, decision_id=new_decision_id(), memory=memory
        )
        work = observed_work(policy, history)
        stop = self._forbidden() or await self._why_no_launch(policy, now)
        room = self._room(policy, ledger, stop)
        plan = place(bounded, decision, fleet, market, room, now, self._profiles, work)
        plan = _restrained(plan, policy, record, must_drain=room.drain_to_min)
        plan = _attended(plan, fleet, self._why_no_release(policy.name))
        return Thought(decision, plan, memory, fleet, history, market)

    def be_cautious(self, policy: Policy, now: datetime) -> None:
        """Release nothing for one window: the clock or our own past cannot be trusted."""
        memory = self._memories.get(policy.name)
        if memory is not None:
            restarted = memory.restarted(now, policy.scaling.stabilization)
            self._memories[policy.name] = restarted

    def limits(self) -> Limits:
        """Every limit, as it stands now."""
        policies = self._policies()
        return Limits(
            self._config.limits,
            policies,
            self._floors(policies),
            self._forbidden(),
            tuple(self._unbooked()),
            self._most_nodes(),
        )

    def _floors(self, policies: Mapping[ModelName, Policy]) -> dict[ModelName, Money]:
        """What the minimum fleets cost per hour, each at the cheapest offer that its policy allows."""
        market = self._market.last
        floors = {}
        for name, policy in policies.items():
            prices = [
                offer.price_per_hour
                for offer in (market.offers if market else ())
                if offer.price_per_hour and excluded(policy, offer) is None
            ]
            if prices and policy.nodes.min:
                floors[name] = min(prices) * policy.nodes.min
        return floors

    def _memory(self, policy: Policy, record: ModelRecord, now: datetime) -> LawMemory:
        memory = self._memories.get(policy.name)
        if memory is not None:
            return memory
        stored = LawMemory()
        if record.memory:
            try:
                stored = LawMemory.from_json(json.loads(record.memory))
            except ValueError as exc:
                log.warning("law_memory_dropped", model=policy.name, why=str(exc))
        caution = self._config.timings.start_caution
        memory = stored.restarted(now, policy.scaling.stabilization if caution is None else caution)
        self._memories[policy.name] = memory
        return memory

    def _room(self, policy: Policy, ledger: Ledger, stop: str | None) -> PlacementLimits:
        """What count and $/h limits leave, so that a plan fits them; they are judged again when it is recorded."""
        billing = [n for n in ledger.nodes if n.may_bill]
        ours = [n for n in billing if n.model == policy.name]
        nodes = [policy.nodes.max - len(ours)]
        stray = tuple(self._unbooked())
        nodes += [
            most - len(billing) - len(stray)
            for most in (self._config.limits.nodes, self._most_nodes())
            if most is not None
        ]
        money = [
            most - spent
            for most, spent in (
                (policy.hourly_limit, hourly(ours)),
                (self._config.limits.usd_per_hour, hourly(billing) + total(stray)),
            )
            if most is not None
        ]
        return PlacementLimits(
            nodes_left=max(0, min(nodes)),
            usd_per_hour_left=min(money) if money else None,
            why_none=stop,
            drain_to_min=self.limits().exhausted(ledger, policy.name) is not None,
        )

    async def _why_no_launch(self, policy: Policy, now: datetime) -> str | None:
        recent = [
            node
            for node in await self._store.nodes(closed_since=now - _LATELY)
            if node.model == policy.name
        ]
        resumed = await self._store.meta(f"resumed:{policy.model}")
        since = datetime.fromisoformat(resumed) if resumed else None
        return launch_stop(tuple(recent), policy, since)

    def _say(self, policy: Policy, decision: Decision, plan: Plan, admission: Admission) -> None:
        quiet = plan.changes_nothing and decision.verdict in (Verdict.KEEP, Verdict.HOLD)
        (log.debug if quiet else log.info)(
            "decided",
            model=policy.name,
            decision=decision.id,
            verdict=decision.verdict,
            want=decision.want,
            have=round(decision.have, 2),
            binding=decision.binding,
            launches=[str(launch.offer) for launch in plan.launches],
            releases=[release.node for release in plan.releases],
        )
        for node, why in admission.refused:
            log.warning(
                "launch_refused_by_limit", model=policy.name, offer=str(node.offer), why=why
            )


def _restrained(plan: Plan, policy: Policy, record: ModelRecord, *, must_drain: bool) -> Plan:
    """The plan that may be carried out: none while paused or in shadow, but a passed limit drains all the same."""
    if record.retired_by is not None:
        return plan
    why = None
    if record.paused_by is not None:
        why = f"paused by {record.paused_by}: nothing is launched or released"
    elif policy.mode is not Mode.ACTIVE:
        why = f'mode = "{policy.mode}": nothing is launched or released'
    if why is not None:
        releases = plan.releases if must_drain else ()
        would = (
            *(f"would rent {n.offer} at {n.price_per_hour}/h: {n.reason}" for n in plan.launches),
            *(f"would give back {r.node}: {r.reason}" for r in plan.releases if not must_drain),
        )
        notes = (*plan.notes, why, *would)
        return replace(plan, launches=(), releases=releases, undrain=(), notes=notes)
    return plan


def _attended(plan: Plan, fleet: Fleet, why: str | None) -> Plan:
    """The plan without what a balancer must hear of first: it may send requests to what it was told of."""
    if why is None:
        return plan
    known = {node.name for node in fleet.nodes if node.verified_at is not None}
    kept = [release for release in plan.releases if release.node in known]
    if not kept:
        return plan
    return replace(
        plan,
        releases=tuple(release for release in plan.releases if release.node not in known),
        notes=(*plan.notes, *(f"{release.node} is kept for now: {why}" for release in kept)),
    )


def _releases(fleet: Fleet, plan: Plan, now: datetime) -> list[tuple[Node, Node, NodeEvent]]:
    """The rows that a plan's releases and undrains change, with their events."""
    by_name = {node.name: node for node in fleet.nodes}
    changes = []
    for release in plan.releases:
        node = by_name.get(release.node)
        after = _released(node, release, now) if node is not None else None
        if node is not None and after is not None:
            changes.append((node, after, _event(after, release.reason, plan)))
    for name in plan.undrain:
        node = by_name.get(name)
        if node is None or node.state is not State.DRAINING or node.unregistered_at is not None:
            continue
        # It was verified before; back behind the balancers it is ready again.
        back = replace(node, state=State.VERIFYING, since=now, reason="demand is back")
        changes.append((node, back, _event(back, back.reason, plan)))
    return changes


def _released(node: Node, release: Release, now: datetime) -> Node | None:
    match node.state:
        case State.PLANNED:
            state = State.CANCELLED
        case State.READY:
            state = State.DRAINING
        case State.VERIFYING if node.verified_at is not None:
            state = State.DRAINING
        case State.CREATING if node.operation_id is None:
            return None  # the call may be under way: what it makes must be known first
        case State.CREATING | State.BOOTING | State.VERIFYING:
            state = State.TERMINATING
        case _:
            return None
    return replace(node, state=state, since=now, reason=release.reason)


def _event(node: Node, cause: str, plan: Plan) -> NodeEvent:
    return NodeEvent(
        at=node.since,
        kind=f"node_{node.state}",
        model=node.model,
        node=node.name,
        state=node.state,
        cause=cause,
        actor="daemon",
        decision=plan.decision,
    )
