"""Who is connected, and who makes room when the house is full. No I/O.

A bound alone lets whoever holds all connections shut everybody else out, by being silent. So at the bound a newcomer
takes the place of one that asks for nothing: one of the most crowded address first, then one that never asked, then the
longest silent. And no address holds more than it leaves to the others, as long as others can be told from it.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

# What was silent for less may be asking just now, or be about to: its bytes are under way.
_SILENT_S = 1.0
# How often all are looked at while there is nobody to make room.
_LOOK_S = 0.1


class Guest(Protocol):
    """A connection, as far as room is concerned.

    Attributes:
        network: whose it is (`network_of`).
        has_asked: it has sent a request once.
    """

    network: str | None
    has_asked: bool

    @property
    def silent_since(self) -> float | None:
        """Since when it has asked for nothing; None while it is served, or being closed."""
        ...

    def make_room(self) -> None:
        """Close it, which costs it nothing."""
        ...


@dataclass(eq=False, slots=True)
class Crowd:
    """All connections of a process.

    Attributes:
        most: how many there may be.
        refused_total: newcomers for whom there was no room.
        evicted_total: silent ones that made room.
    """

    most: int
    clock: Callable[[], float]
    guests: set[Guest] = field(default_factory=set)
    refused_total: int = 0
    evicted_total: int = 0
    _by_network: Counter[str] = field(default_factory=Counter)
    _silent: deque[Guest] = field(default_factory=deque)
    _looked_at: float = float("-inf")

    def enter(self, guest: Guest) -> bool:
        """Note a newcomer, if there is room or room can be made; say whether there was."""
        left = self.most - len(self.guests)
        has = self._count(guest.network)
        if (left <= 0 or has > left) and not self._make_room(guest.network, has):
            self.refused_total += 1
            return False
        self.guests.add(guest)
        if guest.network is not None:
            self._by_network[guest.network] += 1
        return True

    def leave(self, guest: Guest) -> None:
        """Forget one. It may be forgotten twice."""
        if guest not in self.guests:
            return
        self.guests.remove(guest)
        if guest.network is not None:
            self._by_network[guest.network] -= 1
            if not self._by_network[guest.network]:
                del self._by_network[guest.network]

    def _count(self, network: str | None) -> int:
        return self._by_network[network] if network is not None else 0

    def _make_room(self, network: str | None, has: int) -> bool:
        """Close a silent one, of the newcomer's own network or of a more crowded one."""
        if not self._silent and self.clock() - self._looked_at >= _LOOK_S:
            self._look()
        while self._silent:
            guest = self._silent[0]
            if not self._is_silent(guest):
                self._silent.popleft()
                continue
            is_others = network is not None and guest.network != network
            if is_others and self._count(guest.network) <= has:
                return False
            self._silent.popleft()
            self.leave(guest)
            self.evicted_total += 1
            guest.make_room()
            return True
        return False

    def _look(self) -> None:
        self._looked_at = self.clock()
        order = []
        for guest in self.guests:
            since = guest.silent_since
            if since is not None and self._looked_at - since >= _SILENT_S:
                order.append(
                    (-self._count(guest.network), guest.has_asked, since, id(guest), guest)
                )
        self._silent = deque(guest for *_, guest in sorted(order))

    def _is_silent(self, guest: Guest) -> bool:
        if guest not in self.guests:
            return False
        since = guest.silent_since
        return since is not None and self.clock() - since >= _SILENT_S


def network_of(peer: object) -> str | None:
    """Say whose a peer's address is: an IPv4 address, or the /64 of an IPv6 one.

    None for this host itself and for sockets without address: behind those there may be anybody.
    """
    host = peer[0] if isinstance(peer, tuple) and peer else None
    if not isinstance(host, str):
        return None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return None
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))
