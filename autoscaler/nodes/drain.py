"""Drain without a lost request: no new request, wait for those in flight, then leave.

Every balancer must say twice, further apart than its settling time, that it places nothing new: a request placed just
before is then counted. In flight must be zero at the balancers and at the engine, twice: after a reload HAProxy said
zero while four streams ran on in its old process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from autoscaler.balance.protocol import PoolReport, ServerState
from autoscaler.domain.node import Node


@dataclass(slots=True)
class DrainEvidence:
    """What was seen of one node's drain. Kept in memory: a restart looks again.

    Times are seconds since boot: a clock that jumps is no reason to trust a count sooner.
    """

    settle: timedelta
    sample_gap: timedelta
    incarnations: tuple[str, ...] = ()
    agreed_since_s: float | None = None
    idle_since_s: float | None = None
    in_flight: int = 0
    why: str = "no balancer has answered yet"  # it is not drained, for people
    removed: bool = (
        False  # taken out of the balancers on this evidence: nothing can have come since
    )

    def witness(
        self, node: Node, seen: Sequence[PoolReport], engine_in_flight: int | None, at_s: float
    ) -> None:
        """Take one look into account.

        Args:
            engine_in_flight: running and waiting in the node's servers; None when they do not say, which is no zero.
        """
        incarnations = tuple(report.incarnation for report in seen)
        if incarnations != self.incarnations:
            # A balancer restarted: what it was told may be forgotten, what it counts began anew.
            self.incarnations = incarnations
            self.forget()
        if not none_takes_new(node, seen):
            self.why = "a balancer still gives it new requests"
            self.forget()
            return
        if self.agreed_since_s is None:
            self.agreed_since_s = at_s
        at_balancers = _in_flight(node, seen)
        self.in_flight = max(at_balancers, engine_in_flight or 0)
        engine = "does not say" if engine_in_flight is None else str(engine_in_flight)
        old = sum(report.old_processes for report in seen)
        self.why = f"in flight: balancers {at_balancers}, engine {engine}; old processes: {old}"
        settled = at_s - self.agreed_since_s >= self.settle.total_seconds()
        quiet = at_balancers == 0 and engine_in_flight == 0 and _no_old_process(seen)
        if not (settled and quiet):
            self.idle_since_s = None
        elif self.idle_since_s is None:
            self.idle_since_s = at_s

    @property
    def is_idle(self) -> bool:
        """Whether nothing was in flight when last looked at."""
        return self.removed or self.idle_since_s is not None

    def is_drained(self, at_s: float) -> bool:
        """Whether two samples, far enough apart, saw nothing in flight anywhere."""
        if self.removed:
            return True
        if self.idle_since_s is None:
            return False
        return at_s - self.idle_since_s >= self.sample_gap.total_seconds()

    def forget(self) -> None:
        """Begin anew: it serves again, or what was seen no longer counts."""
        self.agreed_since_s = self.idle_since_s = None
        self.removed = False


def none_takes_new(node: Node, seen: Sequence[PoolReport]) -> bool:
    """Whether no balancer may place new requests at any endpoint of the node."""
    return all(
        server is None or server.state is ServerState.DRAINING
        for report in seen
        for server in (report.server(endpoint.id) for endpoint in node.endpoints)
    )


def _in_flight(node: Node, seen: Sequence[PoolReport]) -> int:
    return sum(
        server.in_flight + server.queued
        for report in seen
        for server in (report.server(endpoint.id) for endpoint in node.endpoints)
        if server is not None
    )


def _no_old_process(seen: Sequence[PoolReport]) -> bool:
    return all(report.old_processes == 0 for report in seen)
