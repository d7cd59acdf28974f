"""What a person's word on a model would do, and cost, before it is said: the daemon's own passes, run ahead on paper.

The same `consider` that passes run, over the same inputs with the word in them, again and again until it comes to rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from autoscaler.act import hourly
from autoscaler.decide.override import clock as said_clock
from autoscaler.decide.readiness import readiness
from autoscaler.domain.ids import NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import COMING, SERVING, Fleet, Node, State
from autoscaler.domain.override import Override
from autoscaler.domain.plan import Plan
from autoscaler.policy import Mode, Policy
from autoscaler.quantity import counted
from autoscaler.think import Inputs, Thought

_ROUNDS = 100  # a pass may give back a tenth of the nodes
_STANDING = SERVING | COMING

Consider = Callable[[Inputs], Thought]


@dataclass(frozen=True, slots=True)
class Word:
    """What a person says of a model.

    Attributes:
        verb: pause, resume, retire, promote, demote, drain, confirm or scale.
        node: which one, for drain.
        override: for scale; None takes one back.
        policy: for confirm, the one that would come into force.
    """

    verb: str
    actor: str
    node: NodeName | None = None
    override: Override | None = None
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Consequence:
    """What would come of it.

    Attributes:
        before, after: nodes that serve or boot, now and once it has come to rest, with their price per hour.
        first: what the first pass would do.
        leaving: nodes that would be drained.
    """

    nodes_before: int
    usd_per_hour_before: Money
    nodes_after: int
    usd_per_hour_after: Money
    first: Thought
    leaving: tuple[Node, ...]
    word: Word
    inputs: Inputs


def foresee(inputs: Inputs, word: Word, consider: Consider) -> Consequence:
    """Run ahead until nothing changes any more. Pure."""
    said = spoken(inputs, word)
    first: Thought | None = None
    ahead = said
    for _ in range(_ROUNDS):
        thought = consider(ahead)
        first = first or thought
        if not (thought.rows or thought.plan.releases or thought.plan.undrain):
            break
        ahead = _after(ahead, thought)
    assert first is not None
    before = [n for n in inputs.fleet.nodes if n.state in _STANDING]
    after = [n for n in ahead.fleet.nodes if n.state in _STANDING]
    stay = {node.name for node in after}
    return Consequence(
        len(before),
        hourly(before),
        len(after),
        hourly(after),
        first,
        tuple(node for node in before if node.name not in stay),
        word,
        said,
    )


def spoken(inputs: Inputs, word: Word) -> Inputs:
    """The inputs as they will be once the word was said."""
    record, policy, now = inputs.record, inputs.policy, inputs.now
    match word.verb:
        case "pause":
            return replace(inputs, record=replace(record, paused_by=word.actor))
        case "resume":  # a stop after launches that failed alike ends with it
            resumed = {**inputs.ledger.resumed, record.model: now}
            return replace(
                inputs,
                record=replace(record, paused_by=None, retired_by=None),
                ledger=replace(inputs.ledger, resumed=resumed),
            )
        case "retire":
            return replace(inputs, record=replace(record, retired_by=word.actor))
        case "promote" | "demote":
            mode = Mode.ACTIVE if word.verb == "promote" else Mode.SHADOW
            return replace(inputs, policy=policy.model_copy(update={"mode": mode}), shadow=None)
        case "confirm" if word.policy is not None:
            policies = {**inputs.limits.policies, record.model: word.policy}
            limits = replace(inputs.limits, policies=policies)
            return replace(inputs, policy=word.policy, limits=limits)
        case "drain":
            nodes = tuple(
                replace(n, state=State.DRAINING, since=now) if n.name == word.node else n
                for n in inputs.fleet.nodes
            )
            return _with_nodes(inputs, nodes)
        case _:
            found = word.override
            beyond = {record.model: found.nodes} if found and found.beyond_max else {}
            return replace(
                inputs,
                record=replace(record, override=found),
                limits=replace(inputs.limits, beyond_max=beyond),
            )


def _after(inputs: Inputs, thought: Thought) -> Inputs:
    """The inputs after a pass: what it launches boots, what it gives back is gone."""
    gone = {release.node for release in thought.plan.releases}
    back = set(thought.plan.undrain)
    taken = sum(1 for node in inputs.fleet.nodes if node.name.startswith("ahead-"))
    kept = [
        replace(node, state=State.READY) if node.name in back else node
        for node in inputs.fleet.nodes
        if node.name not in gone
    ]
    new = [
        replace(row, name=NodeName(f"ahead-{taken + number}"), state=State.BOOTING)
        for number, row in enumerate(thought.rows, start=1)
    ]
    ahead = _with_nodes(inputs, (*kept, *new))
    ledger = ahead.ledger
    launches = (*ledger.launches, *((row.model, inputs.now) for row in new))
    return replace(
        ahead,
        ledger=replace(ledger, launches=launches),
        memory=replace(thought.memory, serving=(), lost=()),  # given back, not lost
    )


def _with_nodes(inputs: Inputs, nodes: tuple[Node, ...]) -> Inputs:
    others = tuple(n for n in inputs.ledger.nodes if n.model != inputs.policy.name)
    return replace(
        inputs, fleet=Fleet(nodes), ledger=replace(inputs.ledger, nodes=(*others, *nodes))
    )


def lines(what: Consequence, in_flight: int | None) -> list[str]:
    """The consequence in words, its price first."""
    said = [_headline(what)]
    said += _verb_line(what)
    said += _plan_lines(what.first.plan, {number for number, _ in what.first.refused})
    said += sorted({f"! a limit refuses it: {why}" for _, why in what.first.refused})
    said += [f"! {note}" for note in what.first.plan.notes]
    if what.leaving or what.word.verb == "drain":
        said.append(_in_flight_line(in_flight))
    if what.nodes_after == 0 and what.word.verb != "demote":
        said.append(_zero_line(what))
    return said


def _headline(what: Consequence) -> str:
    before = f"{counted(what.nodes_before, 'node')} {what.usd_per_hour_before}/h"
    after = f"{counted(what.nodes_after, 'node')} {what.usd_per_hour_after}/h"
    return f"{what.inputs.policy.name}: {before} -> {after}"


def _verb_line(what: Consequence) -> list[str]:
    match what.word.verb:
        case "pause":
            going = what.usd_per_hour_before
            return [
                f"nothing is launched or given back until `autoscaler resume`; what runs bills on at {going}/h"
            ]
        case "scale" if what.word.override is not None:
            word, now = what.word.override, what.inputs.now
            least = what.inputs.policy.nodes.min
            below = f" (below nodes.min = {least})" if word.nodes < least else ""
            until = said_clock(word.until, now)
            return [f"{counted(word.nodes, 'node')}{below} until {until}, then as the law wants"]
        case "scale":
            return ["no override: as the law wants"]
        case "demote":
            return [
                "back in shadow: what runs goes on and bills, nothing is launched or given back"
            ]
        case "retire":
            return ["nothing is rented for it until `autoscaler resume`"]
    return []


def _plan_lines(plan: Plan, refused: set[int]) -> list[str]:
    rents = Counter(
        (str(one.offer), str(one.price_per_hour))
        for number, one in enumerate(plan.launches)
        if number not in refused
    )
    said = [f"+ {n} x {offer} at {price}/h" for (offer, price), n in sorted(rents.items())]
    said += [f"+ takes {name} back from its drain" for name in plan.undrain]
    return said + [f"- gives back {one.node}" for one in plan.releases]


def _in_flight_line(in_flight: int | None) -> str:
    if in_flight is None:
        return "requests in flight finish first (how many, no balancer says now)"
    if in_flight == 0:
        return "no request is in flight there"
    return f"{in_flight} request{'s' if in_flight > 1 else ''} in flight finish first"


def _zero_line(what: Consequence) -> str:
    policy, record = what.inputs.policy, what.inputs.record
    hold = _length(policy.hold.time)
    override = what.inputs.override
    if record.retired_by is not None or record.paused_by is not None or override is not None:
        return f"requests will wait up to {hold}, and are then answered 503: nothing wakes it"
    boot = readiness(policy, what.inputs.market.boots_s, (), what.inputs.now).likely
    return f"requests will wait, it wakes in ~{_length(boot)}"


def _length(length: timedelta) -> str:
    seconds = round(length.total_seconds())
    minutes, rest = divmod(seconds, 60)
    if not minutes:
        return f"{rest}s"
    return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
