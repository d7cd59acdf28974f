"""The balancer of a backtest, by the gateway's rules: least in flight by weight, and one line for who finds no room.

It counts as the gateway does: in flight from the moment a server is chosen, held while no server takes requests.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from autoscaler.domain.ids import NodeName
from autoscaler.policy import Hold
from autoscaler.simulate.server import Replica

_BYTES_PER_TOKEN = 4
_UNBOUNDED = 1 << 40


class Server:
    """One model server behind the balancer.

    Attributes:
        takes: whether it is given new requests.
        due_s: its place in the calendar of events; entries for another time are void.
        busy_s: how long it had anything in flight, up to `busy_since`.
    """

    __slots__ = (
        "busy_s",
        "busy_since",
        "capacity",
        "due_s",
        "in_flight",
        "node",
        "per_load",
        "picked",
        "replica",
        "takes",
    )

    def __init__(self, node: NodeName, replica: Replica, capacity: int | None, weight: int) -> None:
        self.node = node
        self.replica = replica
        self.capacity = _UNBOUNDED if capacity is None else capacity
        self.per_load = 1.0 / weight
        self.in_flight = 0
        self.picked = 0
        self.takes = False
        self.due_s = math.inf
        self.busy_s = 0.0
        self.busy_since = 0.0


class Balancer:
    """Servers, and the line before them.

    Attributes:
        active: servers that take requests.
        line: indices of requests that wait, oldest first.
    """

    def __init__(self, hold: Hold) -> None:
        self.active: list[Server] = []
        self.line: deque[int] = deque()
        self.line_bytes = 0
        self.in_flight = 0
        self._hold = hold
        self._picks = 0

    def pick(self) -> Server | None:
        """The server with the least in flight by weight that has room; of equals the one picked longest ago."""
        best, least, longest = None, 0.0, 0
        for server in self.active:
            in_flight = server.in_flight
            if in_flight < server.capacity:
                load = (in_flight + 1) * server.per_load
                if best is None or load < least or (load == least and server.picked < longest):
                    best, least, longest = server, load, server.picked
        return best

    def take(self, server: Server, now_s: float) -> None:
        """Count a request that is sent to a server."""
        self._picks += 1
        server.picked = self._picks
        if server.in_flight == 0:
            server.busy_since = now_s
        server.in_flight += 1
        self.in_flight += 1

    def give_back(self, server: Server, now_s: float) -> None:
        """A request has ended."""
        server.in_flight -= 1
        self.in_flight -= 1
        if server.in_flight == 0:
            server.busy_s += now_s - server.busy_since

    def why_full(self, prompt_tokens: int) -> str | None:
        """Why one more request may not wait, None when it may."""
        if len(self.line) >= self._hold.requests:
            return "too many waited"
        if self.line_bytes + prompt_tokens * _BYTES_PER_TOKEN > self._hold.bytes:
            return "too much waited"
        return None

    def join(self, index: int, prompt_tokens: int) -> None:
        """Put a request at the end of the line."""
        self.line.append(index)
        self.line_bytes += prompt_tokens * _BYTES_PER_TOKEN

    def leave_first(self, prompt_tokens: int) -> None:
        """Take the first out of the line."""
        self.line.popleft()
        self.line_bytes -= prompt_tokens * _BYTES_PER_TOKEN

    def open(self, servers: Iterable[Server]) -> None:
        """Give these servers requests from now on."""
        for server in servers:
            if not server.takes:
                server.takes = True
                self.active.append(server)

    def drain(self, servers: Iterable[Server]) -> None:
        """Give these servers no more requests."""
        for server in servers:
            if server.takes:
                server.takes = False
                self.active.remove(server)
