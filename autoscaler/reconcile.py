"""One pass of one model: observe, decide, place, record.

Reads come first, thinking has no I/O, one transaction ends it. Level-triggered: it looks at where things stand, and so
may be repeated, delayed or cut off anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from autoscaler.act import Limits, Unbooked, intents
from autoscaler.config import Config
from autoscaler.decide.capacity import excluded
from autoscaler.decide.memory import LawMemory
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.decision import Decision, Verdict
from autoscaler.domain.ids import ModelName, new_decision_id
from autoscaler.domain.money import Money
from autoscaler.domain.node import Endpoint, Fleet, Node, NodeEvent, State
from autoscaler.domain.offer import Offer
from autoscaler.domain.plan import Plan, Release
from autoscaler.domain.signals import Signals
from autoscaler.market import MarketFeed
from autoscaler.nodes.hostkey import new_nonce
from autoscaler.nodes.leases import Leases
from autoscaler.papers import Papers
from autoscaler.policy import Mode, Policy
from autoscaler.store.protocol import Admission, ModelRecord, Store
from autoscaler.think import Inputs, Thought, consider

log = structlog.get_logger(__name__)

_REPEAT_AFTER = timedelta(seconds=15)  # a decision that says the same is recorded again no sooner


class Feed(Protocol):
    """One model's merged signals with their recent past."""

    async def read(
        self, endpoints: Sequence[Endpoint], starting: Sequence[str], now: datetime
    ) -> Sequence[Signals]:
        """Measure now; the history, oldest first, with the newest at its end."""


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
        unbooked: Callable[[], Unbooked] = Unbooked,
        why_no_release: Callable[[ModelName], str | None] = lambda model: None,
        most_nodes: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Take the parts.

        Args:
            unbooked: what carries our mark and is in no row: it bills, and counts against every limit.
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
        self._retired: frozenset[ModelName] = frozenset()
        self._papers = Papers(store)
        self._recorded: dict[ModelName, Decision] = {}
        self.last: dict[ModelName, Thought] = {}

    async def reconcile(self, policy: Policy, now: datetime) -> Outcome:
        """Bring the recorded intent one step nearer to what `policy` wants.

        Raises:
            LeaseLost: another daemon has the model; nothing was recorded. Stop acting on it.
            CloudUnavailable, StoreUnavailable: nothing was recorded. The next pass starts afresh.
        """
        lease = self._leases.current(policy.name)
        record = await self._without_old_override(await self._store.record(policy.name), now)
        thought = await self.think(policy, record, now)
        decision, plan = thought.decision, thought.plan
        if self._says_nothing_new(thought, now):
            self._remember(thought)
            return Outcome(decision, plan, (), ())
        releases = released_rows(thought.fleet, plan, now)
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
            self.limits(record, now).admit,
            _kept_on_paper(thought, record),
        )
        self._recorded[policy.name] = decision
        self._remember(thought)
        await self._note_paper(thought)
        self._say(policy, decision, plan, admission)
        return Outcome(decision, plan, admission.admitted, admission.refused)

    def _remember(self, thought: Thought) -> None:
        self._memories[thought.decision.model] = thought.memory
        self.last[thought.decision.model] = thought
        self._papers.remember(thought.decision.model, thought.shadow)

    def _says_nothing_new(self, thought: Thought, now: datetime) -> bool:
        """Whether a pass without effect repeats what was recorded a moment ago.

        Each commit waits for the disk; at a pass a second twenty calm models would keep it busy with nothing.
        """
        last, decision = self._recorded.get(thought.decision.model), thought.decision
        return (
            last is not None
            and thought.changes_nothing
            and now - last.at < _REPEAT_AFTER
            and (last.verdict, last.binding, last.want)
            == (decision.verdict, decision.binding, decision.want)
        )

    async def think(self, policy: Policy, record: ModelRecord, now: datetime) -> Thought:
        """Observe, decide and place, without recording anything: also what `autoscaler plan` shows.

        Raises:
            CloudUnavailable, StoreUnavailable: the market or the fleet is not known.
        """
        return self.consider(await self.observe(policy, record, now))

    def consider(self, inputs: Inputs) -> Thought:
        """What a pass would think of these inputs."""
        return consider(inputs, self._profiles)

    async def observe(self, policy: Policy, record: ModelRecord, now: datetime) -> Inputs:
        """All that a pass looks at. Reads only. Raises as `think` does."""
        fleet = await self._store.fleet(policy.name)
        market = await self._market.market(policy.name)
        ledger = await self._store.ledger(now)
        self._retired -= {policy.name}
        if record.retired_by is not None:
            self._retired |= {policy.name}
        limits = self.limits(record, now)
        history = await self._feeds(policy.name).read(
            [e for node in fleet.ready for e in node.endpoints],
            [
                e.id
                for node in fleet.ready
                if node.ready_at is not None and now - node.ready_at < policy.signals.newcomer
                for e in node.endpoints
            ],
            now,
        )
        return Inputs(
            policy=policy,
            record=record,
            fleet=fleet,
            market=market,
            ledger=ledger,
            history=history,
            memory=self._memory(policy, record, now),
            limits=limits,
            now=now,
            decision=new_decision_id(),
            why_no_launch=self._forbidden() or limits.failing(ledger, policy.name),
            why_no_release=self._why_no_release(policy.name),
            shadow=self._papers.of(record),
            beside=await self._papers.beside(policy, self._policies()),
        )

    def why_nothing(self) -> str | None:
        """Why nothing may be launched for any model."""
        return self._forbidden()

    def be_cautious(self, policy: Policy, now: datetime) -> None:
        """Release nothing for one window: the clock or our own past cannot be trusted."""
        memory = self._memories.get(policy.name)
        if memory is not None:
            restarted = memory.restarted(now, policy.scaling.stabilization)
            self._memories[policy.name] = restarted

    def limits(self, record: ModelRecord | None = None, now: datetime | None = None) -> Limits:
        """Every limit, as it stands now; with what a person allows the record's model for a while."""
        policies = self._policies()
        override = record.override if record is not None else None
        beyond = {}
        if record and override and now and override.beyond_max and override.holds(now):
            beyond[record.model] = override.nodes
        market, unbooked = self._market.last, self._unbooked()
        return Limits(
            self._config.limits,
            policies,
            self._floors(policies, record.model if record is not None else None),
            self._forbidden(),
            unbooked.machines,
            self._most_nodes(),
            beyond,
            unbooked.gpus,
            unbooked.disks_per_hour,
            {offer.key.type: offer.gpus for offer in market.offers} if market is not None else {},
        )

    def _floors(
        self, policies: Mapping[ModelName, Policy], asked: ModelName | None
    ) -> dict[ModelName, Money]:
        """What the minimum fleets cost per hour, each at the cheapest offer that its policy allows.

        Models that may not rent keep no money from those that may; `asked` is counted as if it might.
        """
        market = self._market.last
        floors = {}
        for name, policy in policies.items():
            if name in self._retired or (policy.mode is not Mode.ACTIVE and name != asked):
                continue
            least = least_per_hour(policy, market.offers if market else ())
            if least is not None:
                floors[name] = least
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

    async def _without_old_override(self, record: ModelRecord, now: datetime) -> ModelRecord:
        """End an override whose time is over, and say so in the events."""
        override = record.override
        if override is None or override.holds(now):
            return record
        cause = f"the override of {override.nodes} nodes by {override.by} ended"
        event = NodeEvent(now, "override_ended", record.model, None, None, cause, "daemon")
        await self._store.set_override(record.model, None, event)
        log.info("override_ended", model=record.model, nodes=override.nodes, by=override.by)
        return replace(record, override=None)

    async def _note_paper(self, thought: Thought) -> None:
        """Tell the model's story of what it would have done."""
        plan = thought.on_paper
        if plan is None or plan.changes_nothing:
            return
        causes = [
            ("shadow_rented", f"on paper: {one.offer} at {one.price_per_hour}/h: {one.reason}")
            for one in plan.launches
        ]
        causes += [("shadow_released", f"on paper: {r.node}: {r.reason}") for r in plan.releases]
        for kind, cause in causes:
            event = NodeEvent(
                plan.at, kind, plan.model, None, None, cause, "daemon", decision=plan.decision
            )
            await self._store.add_event(event)

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


def _kept_on_paper(thought: Thought, record: ModelRecord) -> str | None:
    """What to write of the model's shadow, None to leave what is written."""
    if thought.shadow is not None:
        return thought.shadow.to_json()
    return "" if record.shadow else None


def least_per_hour(policy: Policy, offers: Iterable[Offer]) -> Money | None:
    """What a policy's minimum fleet costs at the cheapest offer that it allows; None when it has none."""
    prices = [
        offer.price_per_hour
        for offer in offers
        if offer.price_per_hour and excluded(policy, offer) is None
    ]
    return min(prices) * policy.nodes.min if prices and policy.nodes.min else None


def released_rows(fleet: Fleet, plan: Plan, now: datetime) -> list[tuple[Node, Node, NodeEvent]]:
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
