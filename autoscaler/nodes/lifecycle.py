"""What moves a node forward: the table of a node's life as one pure function.

    planned → creating → booting → verifying → ready → draining → terminating → gone
                 │           │          │         │        │
                 ├─► lost    └──────────┴─────────┴────────┴──► failed → terminating
                 └─► cancelled

`lost` is an unanswered create of which nothing was found by the settling time. `cancelled` is a create that was never
sent, or that was refused in the answer to its own call: nothing was made, it costs nothing, and its place is free at
once. An operation that FAILED later proves no such thing: that node is terminated by its name until it is proven
absent. The sweep deletes what surfaces of either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from autoscaler.domain.machine import Machine, Operation, OperationState, PowerState
from autoscaler.domain.node import Endpoint, Node, State

# What the answer to a create call may say that proves that nothing was made: the first word of the node's failure.
REFUSALS = frozenset({"stock", "quota", "payment", "create"})


class Effect(StrEnum):
    """What is done after the step is recorded. Every one but CREATE is safe to run twice."""

    NONE = "none"
    CREATE = "create"
    CONTACT = "contact"
    VERIFY = "verify"
    REGISTER = "register"
    DRAIN = "drain"
    REMOVE = "remove"
    CUT = "cut"  # remove although requests are in flight
    SAVE_DIAGNOSTICS = "save-diagnostics"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was just seen of a node. A default means "not looked at" or "no answer", never "no".

    Attributes:
        listed: a complete listing was just read, so that a machine not seen in it was truly looked for.
        proven_absent: absent from three complete listings over the confirming time, and a 404 to a GET.
        host_key: just proven by the nonce.
        endpoints: where its model servers will be reached; told with the host key.
        fault: why it must fail now, `kind: text`.
        sick: why a ready node that still serves is to be drained, `kind: text`.
        verified: one real request was answered just now.
        registered: every balancer lists every endpoint of it as up.
        unlisted_for: how long every balancer has answered and not all have listed it as up.
        drained: every balancer agreed twice that it takes nothing new, and nothing is in flight anywhere.
        unregistered: no balancer lists any endpoint of it. One that restarted may just have forgotten it.
        diagnosed: diagnostics are saved, or cannot be had any more.
    """

    machine: Machine | None = None
    operation: Operation | None = None
    listed: bool = False
    proven_absent: bool = False
    host_key: str | None = None
    endpoints: tuple[Endpoint, ...] = ()
    fault: str | None = None
    sick: str | None = None
    verified: bool = False
    registered: bool = False
    unlisted_for: timedelta = timedelta(0)
    drained: bool = False
    unregistered: bool = False
    diagnosed: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The times that steps are judged by.

    Attributes:
        deadlines: how long a node may stay in a state; a state without one waits for ever.
        settling_time: after this long without a trace an unanswered create is written off.
        registering: how long balancers that answer may take to list a verified node as up.
        cut_at_deadline: whether a drain's deadline cuts requests.
    """

    deadlines: Mapping[State, timedelta]
    settling_time: timedelta
    registering: timedelta = timedelta.max
    cut_at_deadline: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """The state to record, then the effect to run, and why."""

    state: State
    effect: Effect
    reason: str


def next_step(node: Node, seen: Sighting, rules: Rules, now: datetime) -> Step:
    """Say what moves `node` forward. Pure."""
    age = now - node.since
    overdue = age >= rules.deadlines.get(node.state, timedelta.max)
    match node.state:
        case State.PLANNED:
            return Step(State.CREATING, Effect.CREATE, "the intent is durable")
        case State.CREATING:
            return _creating(node, seen, rules, now, overdue)
        case State.BOOTING | State.VERIFYING | State.READY if _why_failed(node, seen) is not None:
            return _failed(_why_failed(node, seen) or "")
        case State.VERIFYING if node.verified_at is not None:
            return _registering(seen, rules)
        case State.BOOTING | State.VERIFYING if overdue:
            where = f" at stage {node.stage}" if node.stage else ""
            return _failed(f"deadline: still {node.state}{where} after {_seconds(age)}")
        case State.BOOTING if seen.host_key is not None:
            return Step(State.VERIFYING, Effect.VERIFY, "its host key is proven and pinned")
        case State.BOOTING:
            return Step(State.BOOTING, Effect.CONTACT, "waiting for SSH")
        case State.VERIFYING if seen.verified:
            return Step(State.VERIFYING, Effect.REGISTER, "a warm-up request was answered")
        case State.VERIFYING:
            return Step(State.VERIFYING, Effect.VERIFY, "being verified")
        case State.READY if seen.sick is not None:
            return Step(State.DRAINING, Effect.DRAIN, seen.sick)
        case State.READY if not seen.registered:
            # A balancer that restarted has forgotten it: tell it again.
            return Step(State.READY, Effect.REGISTER, "a balancer does not have it")
        case State.READY:
            return Step(State.READY, Effect.NONE, "serving")
        case State.DRAINING:
            return _draining(node, seen, rules, overdue)
        case State.FAILED if seen.diagnosed or overdue:
            return Step(State.TERMINATING, Effect.NONE, node.failure or node.reason)
        case State.FAILED:
            return Step(State.FAILED, Effect.SAVE_DIAGNOSTICS, node.reason)
        case State.TERMINATING if not seen.unregistered:
            # Its address may soon be a stranger's: the entry goes before the machine does, and before the row.
            return Step(State.TERMINATING, Effect.CUT, "a balancer still lists it")
        case State.TERMINATING if seen.proven_absent and not _may_appear(node, rules, now):
            return Step(State.GONE, Effect.NONE, "proven absent")
        case State.TERMINATING:
            # No deadline here: a machine that won't go still bills, so asking never stops.
            return Step(State.TERMINATING, Effect.DELETE, "not proven absent")
        case State.LOST | State.CANCELLED | State.GONE:
            return Step(node.state, Effect.NONE, "closed")
        case _:
            assert_never(node.state)


def _creating(node: Node, seen: Sighting, rules: Rules, now: datetime, overdue: bool) -> Step:
    if node.failure is not None:
        refused = node.failure.partition(":")[0] in REFUSALS
        if refused and seen.machine is None:
            return Step(State.CANCELLED, Effect.NONE, node.failure)
        return _failed(node.failure)
    if seen.machine is not None:
        return Step(State.BOOTING, Effect.NONE, "the cloud lists the machine")
    operation = seen.operation
    if operation is not None and operation.state is OperationState.FAILED:
        # FAILED does not prove that nothing exists: it is terminated by name like anything else.
        return _failed(f"{_kind(operation)}: {operation.message or operation.code or 'no reason'}")
    known = node.operation_id is not None or node.machine_id is not None
    if known and overdue:
        return _failed("deadline: the create operation did not end in time")
    if not known and node.first_look_at is not None:
        looked = now - node.first_look_at
        # Time alone proves nothing: while the cloud cannot be read, nobody has looked.
        if seen.listed and looked >= rules.settling_time:
            return Step(State.LOST, Effect.NONE, f"no trace of it for {_seconds(looked)}")
    return Step(State.CREATING, Effect.NONE, "waiting for the cloud")


def _registering(seen: Sighting, rules: Rules) -> Step:
    """A verified node on its way into the balancers. One that does not answer is no fault of the node's."""
    if seen.registered:
        return Step(State.READY, Effect.NONE, "every balancer has it")
    if seen.unlisted_for >= rules.registering:
        return _failed(f"register: not up at every balancer after {_seconds(seen.unlisted_for)}")
    return Step(State.VERIFYING, Effect.REGISTER, "a warm-up request was answered")


def _draining(node: Node, seen: Sighting, rules: Rules, overdue: bool) -> Step:
    if seen.proven_absent:
        return Step(State.TERMINATING, Effect.NONE, "vanished while draining")
    if seen.fault is not None:
        return _failed(seen.fault)
    done = seen.drained or (overdue and rules.cut_at_deadline)
    if seen.unregistered and done:
        return Step(State.TERMINATING, Effect.NONE, node.reason)
    if seen.unregistered:
        # A balancer that restarted has forgotten it; its old process may still stream from there.
        return Step(State.DRAINING, Effect.NONE, node.reason)
    if seen.drained:
        return Step(State.DRAINING, Effect.REMOVE, node.reason)
    if done:
        return Step(State.DRAINING, Effect.CUT, node.reason)
    return Step(State.DRAINING, Effect.DRAIN, node.reason)


def _may_appear(node: Node, rules: Rules, now: datetime) -> bool:
    """Whether its create may still bring a machine that no listing has shown yet: absence proves nothing before."""
    kind = (node.failure or "").partition(":")[0]
    said_no = kind in REFUSALS or kind == "cloud"
    if said_no and (kind != "create" or node.operation_id is None):
        # No stock, no quota, or refused in the call's own answer. An operation that merely FAILED proves nothing.
        return False
    if node.booted_at is not None or node.sent_at is None:
        return False
    return now - node.sent_at < rules.settling_time


def _why_failed(node: Node, seen: Sighting) -> str | None:
    if seen.proven_absent:
        return "vanished: deleted by a person or by the provider"
    if seen.machine is not None and seen.machine.power in (PowerState.BROKEN, PowerState.STOPPED):
        # Its address and scratch disks did not survive: a failed node is replaced, never restarted.
        return f"power: the cloud says {seen.machine.raw_state}"
    return seen.fault


def _failed(why: str) -> Step:
    return Step(State.FAILED, Effect.SAVE_DIAGNOSTICS, why)


def _kind(operation: Operation) -> str:
    text = f"{operation.code} {operation.message}".lower()
    if "quota" in text:
        return "quota"
    return "stock" if "stock" in text or "capacity" in text else "create"


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():.0f} s"
