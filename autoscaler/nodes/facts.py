"""What a node's row learns from a sighting, and what it says once the node is gone. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from autoscaler.domain.money import ZERO
from autoscaler.domain.node import BY_HAND, Endpoint, Node, State
from autoscaler.nodes.lifecycle import REFUSALS, Sighting, Step

_NOT_ORDERED = frozenset(
    {"sweep", "adopted", BY_HAND}
)  # what decided on the rows of machines that were found
_LINGERS = timedelta(seconds=30)  # a machine may bill for a moment longer than it is listed
_QUEUE_FACTOR = 1.2  # requests placed on one replica beyond B*, so that its batch never runs dry


def learned(node: Node, seen: Sighting, now: datetime) -> Node:
    """Facts about the machine that a sighting brought."""
    machine, operation = seen.machine, seen.operation
    if operation is not None:
        node = replace(
            node,
            operation_id=node.operation_id or operation.id,
            machine_id=node.machine_id or operation.machine_id,
        )
    if machine is not None and node.state is State.TERMINATING:
        # It existed after all, so it billed.
        return replace(node, booted_at=node.booted_at or now)
    if machine is None or node.state not in (State.CREATING, State.BOOTING):
        return node
    return replace(
        node,
        machine_id=machine.id,
        address=machine.address or node.address,
        disk_ids=machine.disk_ids or node.disk_ids,
        booted_at=node.booted_at or now,
    )


def looked_at(
    node: Node,
    seen: Sighting,
    step: Step,
    stage: str | None,
    tokens_per_s: float | None,
    now: datetime,
) -> Node:
    """The node with all that a look taught, still in its state.

    Args:
        stage: what it waits for, while it boots or is verified.
        tokens_per_s: what its warm-up measured.
    """
    after = learned(node, seen, now)
    if stage is not None and node.state in (State.BOOTING, State.VERIFYING):
        after = replace(after, stage=stage)
    if seen.verified and node.verified_at is None:
        after = replace(after, verified_at=now, tokens_per_s=tokens_per_s)
    left = seen.unregistered and step.state is State.TERMINATING
    if left and node.verified_at is not None and node.unregistered_at is None:
        after = replace(after, unregistered_at=now)
    return after


def entered(
    node: Node, seen: Sighting, step: Step, now: datetime, absent_for: timedelta = timedelta(0)
) -> Node:
    """The node in the state that a step takes it to, with what belongs to that state.

    Args:
        absent_for: how long complete listings have lacked it, up to now.
    """
    after = replace(node, state=step.state, since=now, reason=step.reason)
    match step.state:
        case State.FAILED:
            return replace(after, failure=step.reason)
        case State.TERMINATING if seen.proven_absent and node.failure is None:
            return replace(after, failure=f"vanished: {step.reason}")
        case State.VERIFYING:
            return replace(after, host_key=seen.host_key, nonce=None, endpoints=seen.endpoints)
        case State.READY:
            return replace(after, ready_at=after.ready_at or now)
        case State.GONE:
            return closed(after, now - _unbilled(node, absent_for, now))
        case State.CANCELLED:
            return replace(after, sent_at=None, nonce=None)  # refused: the meter never ran
        case State.LOST:
            return replace(after, gone_at=now)  # its nonce stays: it may surface and be adopted
        case _:
            return after


def endpoints_of(node: Node, urls: Sequence[str]) -> tuple[Endpoint, ...]:
    """An endpoint for each of the node's model servers, which are reached at these URLs."""
    capacity = max(1, round(node.concurrency * _QUEUE_FACTOR))
    weight = min(256, max(1, round(node.concurrency)))
    return tuple(
        Endpoint(
            id=node.name if i == 0 else f"{node.name}.{i}",
            url=url,
            capacity=capacity,
            weight=weight,
        )
        for i, url in enumerate(urls)
    )


def _unbilled(node: Node, absent_for: timedelta, now: datetime) -> timedelta:
    """How much of the proof of its absence costs nothing. A machine that we did not order began by the cloud's clock,
    which may be wrong: its meter runs to the end of the proof."""
    if node.decision in _NOT_ORDERED:
        return timedelta(0)
    # listings that lack it before we asked for it to go may have lied
    return max(timedelta(0), min(absent_for, now - node.since) - _LINGERS)


def closed(node: Node, now: datetime) -> Node:
    """The row of a node that was gone at `now`, with what it cost from its create call on.

    The proof takes a minute and more, during which the machine does not bill any more: what it cost ends a little
    after the first of the listings that lack it.
    """
    if node.booted_at is None and _was_refused(node):
        # Its operation failed, and no listing ever had it: nothing was metered.
        return replace(node, gone_at=now, cost=ZERO, sent_at=None, nonce=None)
    # a clock that was set back must not earn money
    billed = max(now - node.sent_at, timedelta(0)) if node.sent_at else None
    cost = node.price_per_hour.for_time(billed) if billed is not None else node.cost
    return replace(node, gone_at=now, cost=cost, nonce=None)


def _was_refused(node: Node) -> bool:
    """Whether the cloud said itself that it made nothing; one that no listing showed may have billed all the same."""
    return (node.failure or "").partition(":")[0] in REFUSALS | {"cloud"}


def receipt(node: Node) -> str:
    """What a finished node leaves behind: when it left the balancers, when it was gone, what it cost."""
    if node.state is not State.GONE:
        return ""
    left = (
        node.unregistered_at.isoformat(timespec="seconds") if node.unregistered_at else "never in"
    )
    served = (
        f"{(node.unregistered_at - node.ready_at).total_seconds():.0f} s"
        if node.ready_at and node.unregistered_at
        else "0 s"
    )
    return (
        f"left balancers: {left}; served: {served}; deletes sent: {node.deletes}; "
        f"gone: {node.since.isoformat(timespec='seconds')}; cost: {node.cost}"
    )
