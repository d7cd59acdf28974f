"""One model's endpoints and the line of requests before them: the routing itself, without any I/O.

A request takes an endpoint with `acquire`, waiting its turn where it must, and gives it back with `release`.
In flight is exact because nobody else counts: it grows in the moment an endpoint is chosen, before anything
is sent, so that a drain never overlooks a request on its way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from autoscaler.gateway.affinity import choose
from autoscaler.gateway.endpoint import ERROR_STREAK, Endpoint, EndpointState
from autoscaler.gateway.figures import Figures, Ring
from autoscaler.gateway.line import Line, Ticket, Waiter
from autoscaler.gateway.outlook import UNKNOWN, Outlook
from autoscaler.gateway.settings import PoolSettings, WaitBounds

# An endpoint that refuses connections rests before it is tried again, doubling. Beyond a third of the pool
# (but at least one) the rest stays short: when everything fails it may be us, or the network.
_REST_S = 0.1
_REST_MAX_S = 10.0
_REST_MAX_BEYOND_THIRD_S = 0.5
_ERROR_REST_S = 5.0


class Refused(Exception):
    """A request can be neither served nor held. `reason` is a label of few values."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(eq=False, slots=True)
class Pool:
    """A model's endpoints, its line, and its figures."""

    settings: PoolSettings
    loop: asyncio.AbstractEventLoop
    on_demand: Callable[[Pool], None]
    demand_generation: int = 0
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures)
    ring: Ring = field(init=False)
    outlook: Outlook = UNKNOWN
    in_flight: int = 0
    running_elsewhere: int = 0  # at processes that this one took over from
    waiting_elsewhere: int = 0
    tokens_per_byte: float = 0.25  # learned from the engines' usage figures
    is_closing: bool = False
    is_leaving: bool = False  # another process has taken over: each connection gets one more answer
    _line: Line = field(default_factory=Line)
    _picks: int = 0
    _wakes: set[asyncio.TimerHandle] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ring = Ring(time.monotonic())

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def waiting_bytes(self) -> int:
        return self._line.size

    @property
    def has_active(self) -> bool:
        return any(e.state is EndpointState.ACTIVE for e in self.endpoints.values())

    def oldest_wait_s(self) -> float:
        """Say how long the request that waits longest has been here, in seconds; 0 without any."""
        if not self._line:
            return 0.0
        return time.monotonic() - min(waiter.ticket.arrived for waiter in self._line)

    def tick(self) -> int:
        """Bring the ring to this second; return its slot."""
        return self.ring.advance(time.monotonic(), self.in_flight + len(self._line))

    # a request's way

    def arrive(self, size: int, owner: str | None = None) -> Ticket:
        """Count a request of `size` bytes, whatever becomes of it."""
        now = time.monotonic()
        self.figures.arrivals_total += 1
        slot = self.ring.advance(now, self.in_flight + len(self._line) + 1)
        self.ring.arrivals[slot] += 1
        self.ring.prompt_tokens[slot] += int(size * self.tokens_per_byte)
        return Ticket(size=size, arrived=now, owner=owner)

    def take_now(self, ticket: Ticket) -> Endpoint | None:
        """Take the endpoint with the least in flight by weight, or that of the session; None means to wait."""
        if ticket.tries or not self._line:
            endpoint = self._pick(ticket)
            if endpoint is not None:
                return self._take(endpoint)
        return None

    async def acquire(self, ticket: Ticket) -> Endpoint:
        """Take an endpoint, waiting in turn for one.

        A request whose connection failed keeps its place: it comes back to the front.

        Raises:
            Refused: the line is full, or the wait too long or in vain, or the gateway is stopping.
        """
        endpoint = self.take_now(ticket)
        if endpoint is not None:
            return endpoint
        waiter = self._join(ticket)
        try:
            return await self._wait(waiter)
        finally:
            self._leave(waiter)

    def release(self, endpoint: Endpoint) -> None:
        """Give an endpoint back: its request has ended, however it did."""
        endpoint.requests_total += 1
        endpoint.last_request_ended_at = time.time()
        self._put_back(endpoint)
        self.dispatch()

    def connected(self, endpoint: Endpoint) -> None:
        """Note that an endpoint accepts connections (again)."""
        if endpoint.connect_failures:
            endpoint.connect_failures = 0
            endpoint.is_probed = False
            self.dispatch()

    def connect_failed(self, endpoint: Endpoint) -> None:
        """Take back an endpoint that refused the connection: no byte was sent. It rests a while."""
        self.figures.connect_failures_total += 1
        endpoint.connect_failures += 1
        endpoint.is_probed = False
        longest = _REST_MAX_S if self._may_rest(endpoint) else _REST_MAX_BEYOND_THIRD_S
        rest_s = min(longest, _REST_S * 2 ** min(endpoint.connect_failures - 1, 10))
        endpoint.resting_until = time.monotonic() + rest_s
        self._put_back(endpoint)
        self._wake_in(rest_s + 0.005)  # never before the rest is over
        self.dispatch()

    def answered(self, endpoint: Endpoint, *, well: bool) -> None:
        """Note how a request ended at an endpoint; `well` is an answer below status 500."""
        endpoint.error_streak = 0 if well else endpoint.error_streak + 1
        if endpoint.error_streak >= ERROR_STREAK and self._may_rest(endpoint):
            endpoint.resting_until = time.monotonic() + _ERROR_REST_S
            self._wake_in(_ERROR_REST_S + 0.005)

    def is_ejected(self, endpoint: Endpoint) -> bool:
        is_resting = time.monotonic() < endpoint.resting_until
        return endpoint.connect_failures > 0 or (
            endpoint.error_streak >= ERROR_STREAK and is_resting
        )

    def dispatch(self) -> None:
        """Give endpoints to those who wait, each owner in turn, as far as they reach."""
        while self._line:
            endpoint = self._pick(self._line.first().ticket)
            if endpoint is None:
                return
            waiter = self._line.pop()
            if not waiter.turn.done():
                waiter.turn.set_result(self._take(endpoint))

    # what the daemon does

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Add an endpoint, or set an existing one anew; its figures stay."""
        known = self.endpoints.get(endpoint.id)
        if known is None:
            self.endpoints[endpoint.id] = endpoint
        else:
            known.url = endpoint.url
            known.trust = endpoint.trust
            known.weight = endpoint.weight
            known.max_inflight = endpoint.max_inflight
            known.state = endpoint.state
            known.drained_at = endpoint.drained_at
        self.dispatch()

    def drain(self, endpoint: Endpoint) -> None:
        """Give an endpoint no new request; those it has go on."""
        if endpoint.state is EndpointState.DRAINING:
            return
        endpoint.state = EndpointState.DRAINING
        endpoint.drained_at = None if endpoint.in_flight else time.time()
        self._note_cold()

    def remove(self, endpoint: Endpoint) -> None:
        """Forget an endpoint."""
        del self.endpoints[endpoint.id]
        self._note_cold()

    def expect(self, outlook: Outlook) -> None:
        """Take note of when a node will be ready; who cannot live to see it is refused now, not later."""
        self.outlook = outlook
        if self.has_active:
            return
        for waiter in self._line:
            if not waiter.turn.done() and self._is_in_vain(waiter.ticket):
                waiter.turn.set_exception(_in_vain())

    def retry_after_s(self) -> float:
        """What a client that is refused now is told to wait, in seconds."""
        return self.outlook.retry_after_s(time.monotonic(), self.settings.retry_after_s)

    def close(self, reason: str, message: str) -> None:
        """Refuse all who wait and whoever would have to."""
        self.is_closing = True
        for handle in self._wakes:
            handle.cancel()
        self._wakes.clear()
        while self._line:
            waiter = self._line.pop()
            if not waiter.turn.done():
                waiter.turn.set_exception(Refused(reason, message))

    # helpers

    def _pick(self, ticket: Ticket) -> Endpoint | None:
        now = time.monotonic()
        affinity = self.settings.affinity
        if affinity is not None and ticket.affinity is not None:
            free = [endpoint for endpoint in self.endpoints.values() if endpoint.takes(now)]
            return choose(ticket.affinity, free, affinity.bound)
        best: Endpoint | None = None
        best_load = 0.0
        for endpoint in self.endpoints.values():
            if not endpoint.takes(now):
                continue
            load = (endpoint.in_flight + endpoint.elsewhere + 1) / endpoint.weight
            if (
                best is None
                or load < best_load
                or (load == best_load and endpoint.picked < best.picked)
            ):
                best, best_load = endpoint, load
        return best

    def _may_rest(self, endpoint: Endpoint) -> bool:
        """Say whether at most a third of the endpoints, but one of two, would rest with this one."""
        others = sum(self.is_ejected(e) for e in self.endpoints.values() if e is not endpoint)
        return others < (len(self.endpoints) // 3 or (len(self.endpoints) > 1))

    def _take(self, endpoint: Endpoint) -> Endpoint:
        self._picks += 1
        endpoint.picked = self._picks
        endpoint.in_flight += 1
        endpoint.is_probed = endpoint.connect_failures > 0
        self.in_flight += 1
        return endpoint

    def _put_back(self, endpoint: Endpoint) -> None:
        self.tick()
        endpoint.in_flight -= 1
        self.in_flight -= 1
        if endpoint.state is EndpointState.DRAINING and not endpoint.in_flight:
            endpoint.drained_at = time.time()

    def _join(self, ticket: Ticket) -> Waiter:
        is_cold = not self.has_active
        bounds = self._bounds(is_cold)
        kind = "hold" if is_cold else "queue"
        if self.is_closing:
            raise Refused("shutdown", "the gateway is stopping")
        if is_cold and self._is_in_vain(ticket):
            self.on_demand(self)  # it came, and a node is wanted, though not for its sake
            raise _in_vain()
        if not ticket.tries:
            self._make_room(ticket, bounds, kind)
        ticket.is_cold = ticket.is_cold or is_cold
        waiter = Waiter(ticket, time.monotonic(), self.loop.create_future())
        is_news = is_cold or not self._line
        self._line.join(waiter)
        if is_news:
            self.on_demand(self)
        return waiter

    def _make_room(self, ticket: Ticket, bounds: WaitBounds, kind: str) -> None:
        """See that a newcomer fits into the line, at the cost of who has most in it.

        Raises:
            Refused: it does not.
        """
        is_long = len(self._line) >= bounds.max_requests
        if not is_long and self._line.size + ticket.size <= bounds.max_bytes:
            return
        reason = f"{kind}_requests" if is_long else f"{kind}_bytes"
        leaving = self._line.who_gives_way(ticket, bounds.max_requests, bounds.max_bytes)
        if not leaving:
            many = (
                f"{len(self._line)} requests" if is_long else f"requests of {self._line.size} bytes"
            )
            raise Refused(reason, f"{many} already wait")
        for waiter in leaving:
            self._line.leave(waiter)
            if not waiter.turn.done():
                waiter.turn.set_exception(
                    Refused(reason, "the line is full, and your key has the most requests in it")
                )

    async def _wait(self, waiter: Waiter) -> Endpoint:
        ticket = waiter.ticket
        try:
            while not waiter.turn.done():
                is_cold = not self.has_active
                limit_s = self._bounds(is_cold).max_wait_s
                left_s = ticket.arrived + limit_s - time.monotonic()
                if left_s <= 0:
                    kind = "hold" if is_cold else "queue"
                    raise Refused(f"{kind}_timeout", f"no node was free within {limit_s:g} s")
                # Not wait_for: the turn must survive, an endpoint may be given in the same moment.
                await asyncio.wait((waiter.turn,), timeout=left_s)
            return waiter.turn.result()
        except asyncio.CancelledError:
            turn = waiter.turn
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._put_back(turn.result())
                self.dispatch()
            raise

    def _leave(self, waiter: Waiter) -> None:
        if waiter in self._line:
            self.tick()
            self._line.leave(waiter)
            waiter.turn.cancel()
        waiter.ticket.waited_s += time.monotonic() - waiter.since

    def _bounds(self, is_cold: bool) -> WaitBounds:
        return self.settings.hold if is_cold else self.settings.queue

    def _is_in_vain(self, ticket: Ticket) -> bool:
        return self.outlook.is_in_vain(ticket.arrived + self.settings.hold.max_wait_s)

    def _note_cold(self) -> None:
        if self._line and not self.has_active:
            for waiter in self._line:
                waiter.ticket.is_cold = True
            self.on_demand(self)

    def _wake_in(self, delay_s: float) -> None:
        def wake() -> None:
            self._wakes.discard(handle)
            self.dispatch()

        handle = self.loop.call_later(delay_s, wake)
        self._wakes.add(handle)


def _in_vain() -> Refused:
    return Refused("hold_in_vain", "no node will be ready before a held request is given up")
