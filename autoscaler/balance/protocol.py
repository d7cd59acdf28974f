"""What a load balancer must offer, and what it says of itself.

Every write is re-read by the caller: a balancer that answered OK and did nothing is not ready and not drained.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint


class ServerState(StrEnum):
    """Whether a balancer sends new requests to a server."""

    UP = "up"  # takes new requests
    DOWN = "down"  # registered, but the balancer's own check fails or has not passed yet
    DRAINING = "draining"  # finishes what it has, takes nothing new


@dataclass(frozen=True, slots=True)
class Affinity:
    """How a session keeps to one server: by a header's value, else by so much of its prompt's head.

    Attributes:
        bound: how much more than its share of what is in flight a server may hold, above 1.
    """

    header: str | None
    prompt_chars: int
    bound: float


@dataclass(frozen=True, slots=True)
class Pool:
    """How one model's requests are balanced and held.

    Attributes:
        aliases: other names under which clients ask for the model.
        hold_requests, hold_bytes, hold_time: bounds of what may wait; beyond them 503 with Retry-After.
        retry_after: what a refused client is told to wait while nothing better is known.
        ready_in, ready_soonest: while there is no node, how long until one serves: nine of ten boots take no longer,
            one of ten is faster. None where there is a node.
        sse_comments: while a streaming request waits, a comment each so often; None for none.
        affinity: how a session keeps to one server; None for the least loaded.
        max_model_len: tokens of prompt and answer together that the engines take, where the policy says it: a
            balancer that reads prompts refuses those that are surely longer.
        queue_in_engine: True when the balancer should not queue by `Endpoint.capacity`.
    """

    model: ModelName
    aliases: tuple[str, ...] = ()
    hold_requests: int = 1000
    hold_bytes: int = 256 * 1024 * 1024
    hold_time: timedelta = timedelta(minutes=10)
    retry_after: timedelta = timedelta(seconds=60)
    ready_in: timedelta | None = None
    ready_soonest: timedelta = timedelta(0)
    sse_comments: timedelta | None = None
    affinity: Affinity | None = None
    max_model_len: int | None = None
    queue_in_engine: bool = False


@dataclass(frozen=True, slots=True)
class ServerReport:
    """One server as the balancer lists it now.

    Attributes:
        in_flight: requests placed on it and not finished.
        queued: requests that wait for exactly this server.
        check_fails: the balancer's own check finds it dead, also while it drains.
    """

    endpoint_id: str
    url: str
    state: ServerState
    in_flight: int
    queued: int = 0
    weight: int | None = None
    check_fails: bool = False


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One model's servers as one balancer lists them now.

    Attributes:
        incarnation: changes when the balancer restarted or reloaded: what it was told may be forgotten, and its
            zero in flight counts only when `old_processes` is 0.
        waiting: requests that wait for any server, held ones included.
        counts_old_processes: False when processes left by a reload may go on unseen, whatever `old_processes` says.
    """

    model: ModelName
    servers: tuple[ServerReport, ...]
    incarnation: str
    waiting: int
    at: datetime
    old_processes: int = 0
    counts_old_processes: bool = True

    def server(self, endpoint_id: str) -> ServerReport | None:
        """The server of that endpoint, or None when the balancer does not know it."""
        return next((s for s in self.servers if s.endpoint_id == endpoint_id), None)


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of one request that a balancer sent for us.

    Attributes:
        failed: what went wrong before there was an answer: `connect`, `tls`, `timeout` or `answer`; None otherwise.
        why: more of it, for people.
    """

    status: int = 0
    body: bytes = b""
    seconds: float = 0.0
    failed: str | None = None
    why: str = ""


class Balancer(Protocol):
    """Spreads one or more models' requests over registered endpoints.

    Every method may raise `BalancerUnavailable`: not known to be done; look again. Every method may be repeated.
    Servers that are not ours are never touched and never listed in a `PoolReport`.
    """

    @property
    def name(self) -> str:
        """Unique among the configured balancers, for messages."""

    async def report(self, model: ModelName) -> PoolReport:
        """Read what the balancer knows of this model right now; of a model that it does not know, no servers."""

    async def ensure_pool(self, pool: Pool) -> None:
        """Make the model known, with these settings."""

    async def register(self, model: ModelName, endpoint: Endpoint) -> None:
        """Add the endpoint, or bring it back from draining; new requests may come at once."""

    async def drain(self, model: ModelName, endpoint_id: str) -> None:
        """Send it nothing new. What runs there goes on; what is queued moves elsewhere or to the activator."""

    async def remove(self, model: ModelName, endpoint_id: str, *, force: bool = False) -> None:
        """Forget the endpoint; unknown is no error. `force` cuts what is still in flight there.

        Raises:
            BalancerUnavailable: refused, for example because requests are in flight there.
        """

    async def drop_pool(self, model: ModelName) -> None:
        """Forget the model; unknown is no error. Requests for it are then answered 404."""

    async def close(self) -> None:
        """Close connections."""

    @property
    def settle_time(self) -> timedelta:
        """Longer than the time in which a request placed just before a drain would be counted."""
