"""Whether a balancer answers, and what its silence holds up. Pure.

A balancer that does not answer us may still serve clients, so nothing is drained or deleted behind its back for a
long time. A launch waits for it only a little: the others can send requests to the node. What comes back may have
forgotten everything, or remember what is long gone; it counts again once it was told how things stand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from autoscaler.balance.protocol import PoolReport, ServerState
from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import Endpoint, Node, State

_LEAVING = (State.DRAINING, State.FAILED, State.TERMINATING)


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a balancer that does not answer is waited for, while another one counts.

    Attributes:
        grace: with a launch: then a node is registered when the others have it.
        absent_after: with scale-in: then a node is drained when the others and its engine say so.
    """

    grace: timedelta = timedelta(seconds=45)
    absent_after: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Presence:
    """One balancer as one model sees it. It begins unheard: nothing is known of it yet.

    Attributes:
        is_front: clients come through it; an activator behind the fronts is none.
        absent_since_s: since when it does not count, in seconds since boot; None while it does.
        answers: whether it answered when last asked.
    """

    is_front: bool
    absent_since_s: float | None
    answers: bool = False

    @property
    def counts(self) -> bool:
        """Whether it answers and was told how things stand since it last did not."""
        return self.absent_since_s is None

    def answered(self) -> Presence:
        """It answers; whether it counts is for `reconciled` to say."""
        return replace(self, answers=True)

    def unanswered(self, at_s: float) -> Presence:
        """It does not answer; one that never counted in between is absent since it first did not."""
        since = at_s if self.absent_since_s is None else self.absent_since_s
        return replace(self, answers=False, absent_since_s=since)

    def reconciled(self) -> Presence:
        """It has what it should have."""
        return replace(self, answers=True, absent_since_s=None)

    def absent_for(self, at_s: float) -> timedelta:
        return timedelta(0) if self.counts else timedelta(seconds=at_s - (self.absent_since_s or 0))


def overlooked(
    presences: Mapping[str, Presence], patience: timedelta, at_s: float
) -> frozenset[str]:
    """Name the balancers that are not waited for: silent for `patience`, while some front counts."""
    if not any(p.counts and p.is_front for p in presences.values()):
        return frozenset()
    return frozenset(
        name
        for name, presence in presences.items()
        if not presence.answers and presence.absent_for(at_s) >= patience
    )


def patience_left(
    presences: Mapping[str, Presence], patience: timedelta, at_s: float
) -> timedelta | None:
    """How long until one more balancer is not waited for; None when none will be, as things stand."""
    if not any(p.counts and p.is_front for p in presences.values()):
        return None
    ends = [patience - p.absent_for(at_s) for p in presences.values() if not p.answers]
    return min((left for left in ends if left > timedelta(0)), default=None)


def why_no_release(
    presences: Mapping[str, Presence], absent_after: timedelta, at_s: float
) -> str | None:
    """Say why no registered node may be drained or deleted now, None when one may."""
    absent = {name for name, presence in presences.items() if not presence.counts}
    waited_for = sorted(absent - overlooked(presences, absent_after, at_s))
    if not waited_for:
        return None
    name = waited_for[0]
    presence = presences[name]
    if presence.answers:
        return f"the balancer {name} has just come back and is being told what serves"
    seconds = presence.absent_for(at_s).total_seconds()
    return f"the balancer {name} has not answered for {seconds:.0f} s: it may still send requests"


@dataclass(frozen=True, slots=True)
class Amends:
    """What one balancer must be told of one model to have what it should.

    Attributes:
        register: endpoints that serve and are not listed, listed elsewhere, or draining there.
        drain: endpoints that leave and still take requests there.
        forget: entries of nodes that are gone: their addresses may be strangers' by now.
    """

    register: tuple[Endpoint, ...] = ()
    drain: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.register or self.drain or self.forget)


def node_of(endpoint_id: str) -> NodeName:
    """The node that an endpoint's id names."""
    return NodeName(endpoint_id.partition(".")[0])


def amends(report: PoolReport, nodes: Sequence[Node], closed: Collection[NodeName]) -> Amends:
    """Compare what a balancer lists with the nodes of the model.

    A node on its way in is left to its own step. An entry of a node that no row knows is left alone: with the store
    lost it may serve clients still.

    Args:
        nodes: the open ones, also those of other models.
        closed: nodes of ours that are known to be gone.
    """
    ours = [node for node in nodes if node.model == report.model]
    return Amends(
        register=tuple(
            endpoint
            for node in ours
            if node.state is State.READY
            for endpoint in node.endpoints
            if not _serves(report, endpoint)
        ),
        drain=tuple(
            endpoint.id
            for node in ours
            if node.state in _LEAVING
            for endpoint in node.endpoints
            if (server := report.server(endpoint.id)) is not None
            and server.state is not ServerState.DRAINING
        ),
        forget=tuple(
            server.endpoint_id for server in report.servers if node_of(server.endpoint_id) in closed
        ),
    )


def _serves(report: PoolReport, endpoint: Endpoint) -> bool:
    server = report.server(endpoint.id)
    return (
        server is not None
        and server.url == endpoint.url
        and server.state is not ServerState.DRAINING
    )
