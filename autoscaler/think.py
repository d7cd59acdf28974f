"""What one pass thinks: from all that it looked at to a decision and a plan. Pure, so that whoever asks for the plan
and the pass that follows come to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from autoscaler.act import Limits, drafts, hourly
from autoscaler.decide.decision import decide
from autoscaler.decide.forecast import lead_time
from autoscaler.decide.memory import LawMemory
from autoscaler.decide.override import bounded
from autoscaler.decide.placement import PlacementLimits, place
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import observed_work
from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import DecisionId, ModelName, NodeName
from autoscaler.domain.node import SERVING, Fleet, Node, State
from autoscaler.domain.offer import Market
from autoscaler.domain.override import Override
from autoscaler.domain.plan import Plan, Release
from autoscaler.domain.signals import Signals
from autoscaler.policy import Mode, NodeBounds, Policy
from autoscaler.quantity import counted
from autoscaler.shadow import PAPER, Shadow, nothing_runs
from autoscaler.store.protocol import Ledger, ModelRecord

_NONE = NodeBounds(min=0, max=0)


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that one pass looks at.

    Attributes:
        policy: with its mode in force.
        history: signals, oldest first, this pass's the last.
        limits: over all models; judged once more in the transaction that records the launches.
        why_no_launch: why nothing may be rented at all (safe mode, launches that failed alike), None when it may.
        why_no_release: why no node that balancers know may be drained now, None when one may.
        shadow: what it has on paper, for a model in shadow.
        beside: what other models in shadow have on paper: together they would share the limits.
    """

    policy: Policy
    record: ModelRecord
    fleet: Fleet
    market: Market
    ledger: Ledger
    history: Sequence[Signals]
    memory: LawMemory
    limits: Limits
    now: datetime
    decision: DecisionId
    why_no_launch: str | None = None
    why_no_release: str | None = None
    shadow: Shadow | None = None
    beside: Mapping[ModelName, Shadow] = field(default_factory=dict)

    @property
    def is_retired(self) -> bool:
        return self.record.retired_by is not None

    @property
    def in_shadow(self) -> bool:
        """Whether what it wants is followed on paper. A retired or paused model is no candidate for anything."""
        stopped = self.is_retired or self.record.paused_by is not None
        return self.policy.mode is Mode.SHADOW and not stopped

    @property
    def override(self) -> Override | None:
        """The person's word that holds now; a retired model has none."""
        found = self.record.override
        return found if found and found.holds(self.now) and not self.is_retired else None


@dataclass(frozen=True, slots=True)
class Thought:
    """What a pass thought before it recorded anything.

    Attributes:
        plan: what may be carried out. In shadow, or paused, it says what it would have done.
        refused: launches of the plan that a limit forbids, by their place in it, with the limit's words.
        shadow: what the model has on paper after this pass; None when it is not in shadow.
        on_paper: the plan that was carried out on paper.
        why_no_launch: why nothing could be rented at all, whether or not it was asked for.
    """

    decision: Decision
    plan: Plan
    memory: LawMemory
    fleet: Fleet
    history: Sequence[Signals]
    market: Market
    refused: tuple[tuple[int, str], ...] = ()
    shadow: Shadow | None = None
    on_paper: Plan | None = None
    rows: tuple[Node, ...] = field(default=())
    why_no_launch: str | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether it has no effect, not even on paper."""
        on_paper = self.on_paper is None or self.on_paper.changes_nothing
        return self.plan.changes_nothing and on_paper


@dataclass(frozen=True, slots=True)
class Rules:
    """What a pass thinks with. A backtest measures them, or has another law in their place."""

    decide: Callable[..., tuple[Decision, LawMemory]] = decide
    place: Callable[..., Plan] = place


_OURS = Rules()


def consider(inputs: Inputs, profiles: Profiles, rules: Rules = _OURS) -> Thought:
    """Decide and place."""
    if inputs.in_shadow:
        return _on_paper(inputs, profiles, rules)
    memory = replace(
        inputs.memory,
        serving=tuple(n for n in inputs.memory.serving if not n.startswith(PAPER)),
    )
    thought = _settled(replace(inputs, memory=memory), profiles, rules)
    must_drain = inputs.limits.exhausted(inputs.ledger, inputs.policy.name) is not None
    why = _why_idle(inputs)
    if why is None:
        return thought
    return replace(
        thought,
        plan=restrained(thought.plan, why, must_drain=must_drain),
        refused=(),
        rows=(),
        shadow=inputs.shadow if inputs.policy.mode is Mode.SHADOW else None,  # paused: as it is
    )


def _settled(inputs: Inputs, profiles: Profiles, rules: Rules) -> Thought:
    """What it wants to do, as if nothing held it back but limits and guards."""
    override, policy = inputs.override, inputs.policy
    own = policy.model_copy(update={"nodes": _NONE}) if inputs.is_retired else policy
    decision, memory = rules.decide(
        own,
        inputs.history,
        inputs.fleet,
        inputs.market,
        inputs.now,
        decision_id=inputs.decision,
        memory=inputs.memory,
        override=override,
    )
    room = _room(inputs)
    if override is not None and not room.drain_to_min:
        own = bounded(own, override)
    plan = rules.place(
        own,
        decision,
        inputs.fleet,
        inputs.market,
        room,
        inputs.now,
        profiles,
        observed_work(policy, inputs.history),
    )
    plan = _possible(plan, inputs.fleet)
    plan = _attended(plan, inputs.fleet, inputs.why_no_release)
    rows = drafts(plan, policy, inputs.now)
    admission = inputs.limits.admit(inputs.ledger, rows)
    index = {row.name: number for number, row in enumerate(rows)}
    refused = tuple((index[row.name], why) for row, why in admission.refused)
    return Thought(
        decision,
        plan,
        memory,
        inputs.fleet,
        inputs.history,
        inputs.market,
        refused,
        rows=admission.admitted,
        why_no_launch=inputs.why_no_launch,
    )


def on_paper(inputs: Inputs) -> Inputs:
    """The inputs of a model in shadow, with what would stand for what stands."""
    real = inputs.fleet
    before = (inputs.shadow or Shadow(since=inputs.now)).aged(inputs.now, real)
    serves = real.in_states(SERVING | {State.DRAINING})
    ledger = before.ledger(inputs.ledger, inputs.policy.name)
    for name, other in inputs.beside.items():
        theirs = Fleet(tuple(node for node in inputs.ledger.nodes if node.model == name))
        ledger = other.aged(inputs.now, theirs).ledger(ledger, name)
    return replace(
        inputs,
        fleet=before.fleet(real),
        ledger=ledger,
        history=inputs.history if serves else nothing_runs(inputs.history),
        shadow=before,
    )


def _on_paper(inputs: Inputs, profiles: Profiles, rules: Rules) -> Thought:
    """Decide on what would stand, carry it out on paper, and rent nothing."""
    real, now, name = inputs.fleet, inputs.now, inputs.policy.name
    paper = on_paper(inputs)
    before = paper.shadow
    assert before is not None
    would = _settled(paper, profiles, rules)
    wanted = _admitted(would)
    after = before.carried_out(
        wanted,
        would.rows,
        lambda key: lead_time(inputs.policy, inputs.market, (key,)),
        real,
        now,
    )
    plan = restrained(wanted, _why_idle(inputs) or "", must_drain=False)
    if after.nodes:
        rate = hourly(after.nodes)
        held = (
            f"on paper: {counted(len(after.nodes), 'node')} at {rate}/h, {after.cost(now)} so far"
        )
        plan = replace(plan, notes=(*plan.notes, held))
    if real.nodes and inputs.limits.exhausted(inputs.ledger, name) is not None:
        plan = replace(plan, releases=_settled(inputs, profiles, rules).plan.releases)
    return replace(would, plan=plan, fleet=real, refused=(), rows=(), shadow=after, on_paper=wanted)


def _admitted(thought: Thought) -> Plan:
    """The plan with the launches that limits let through, and what they say of the others."""
    refused = dict(thought.refused)
    return replace(
        thought.plan,
        launches=tuple(n for i, n in enumerate(thought.plan.launches) if i not in refused),
        notes=(*thought.plan.notes, *(f"a limit refuses one: {why}" for why in refused.values())),
    )


def _why_idle(inputs: Inputs) -> str | None:
    """Why nothing is carried out, None when the plan is."""
    if inputs.is_retired:
        return None
    if inputs.record.paused_by is not None:
        return f"paused by {inputs.record.paused_by}: nothing is launched or released"
    if inputs.policy.mode is Mode.SHADOW:
        name = inputs.policy.name
        return f"in shadow: nothing is launched or released (`autoscaler promote {name}`)"
    if inputs.policy.mode is not Mode.ACTIVE:
        return f'mode = "{inputs.policy.mode}": nothing is launched or released'
    return None


def restrained(plan: Plan, why: str, *, must_drain: bool) -> Plan:
    """The plan as a wish: nothing of it is carried out, but a passed limit drains all the same."""
    releases = plan.releases if must_drain else ()
    would = (
        *(f"would rent {n.offer} at {n.price_per_hour}/h: {n.reason}" for n in plan.launches),
        *(f"would give back {r.node}: {r.reason}" for r in plan.releases if not must_drain),
    )
    notes = (*plan.notes, why, *would)
    return replace(plan, launches=(), releases=releases, undrain=(), notes=notes)


def _room(inputs: Inputs) -> PlacementLimits:
    """What count and $/h limits leave, so that a plan fits them; they are judged again when it is recorded."""
    policy, limits, name = inputs.policy, inputs.limits, inputs.policy.name
    billing = [n for n in inputs.ledger.nodes if n.may_bill]
    ours = [n for n in billing if n.model == name]
    stray = limits.stray_per_hour
    nodes = [limits.most_of(name) - len(ours)]
    nodes += [
        most - len(billing) - len(limits.unbooked)
        for most in (limits.overall.nodes, limits.most_nodes)
        if most is not None
    ]
    money = [
        most - spent
        for most, spent in (
            (policy.hourly_limit, hourly(ours)),
            (limits.overall.usd_per_hour, hourly(billing) + stray),
        )
        if most is not None
    ]
    gpus = [
        most - limits.gpus_of(have) - more
        for most, have, more in (
            (policy.limits.gpus, ours, 0),
            (limits.overall.gpus, billing, limits.unbooked_gpus),
        )
        if most is not None
    ]
    return PlacementLimits(
        nodes_left=max(0, min(nodes)),
        gpus_left=min(gpus) if gpus else None,
        usd_per_hour_left=min(money) if money else None,
        why_none=inputs.why_no_launch,
        drain_to_min=limits.exhausted(inputs.ledger, name) is not None,
    )


def _possible(plan: Plan, fleet: Fleet) -> Plan:
    """The plan without releases of nodes whose create call may be under way: what it makes must be known first."""
    unknown = {
        node.name
        for node in fleet.nodes
        if node.state is State.CREATING and node.operation_id is None
    }
    return _without(plan, unknown, "its create call may be under way")


def _attended(plan: Plan, fleet: Fleet, why: str | None) -> Plan:
    """The plan without what a balancer must hear of first: it may send requests to what it was told of."""
    if why is None:
        return plan
    return _without(plan, {n.name for n in fleet.nodes if n.verified_at is not None}, why)


def _without(plan: Plan, names: set[NodeName], why: str) -> Plan:
    kept: list[Release] = [release for release in plan.releases if release.node in names]
    if not kept:
        return plan
    return replace(
        plan,
        releases=tuple(release for release in plan.releases if release.node not in names),
        keeps=tuple(sorted((*plan.keeps, *(release.node for release in kept)))),
        notes=(*plan.notes, *(f"{release.node} is kept for now: {why}" for release in kept)),
    )
