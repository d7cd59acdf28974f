"""The line of requests that wait for an endpoint: each owner in turn, and each owner's in order of arrival.

One client that sends a thousand requests at once delays its own, and not those of others: a turn passes from owner to
owner, and when the line is full, who has the most in it gives up the newest. Without owners it is a plain queue.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from autoscaler.gateway.endpoint import Endpoint


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's place in the line.

    Attributes:
        owner: whose it is, by the name of its key.
        affinity: the key of its session.
    """

    size: int
    arrived: float  # monotonic
    is_cold: bool = False  # it waited while there was no node
    waited_s: float = 0.0
    tries: int = 0
    affinity: int | None = None
    owner: str | None = None


@dataclass(eq=False, slots=True)
class Waiter:
    """A ticket while it waits. `turn` is its endpoint, or why it gets none."""

    ticket: Ticket
    since: float
    turn: asyncio.Future[Endpoint]


@dataclass(eq=False, slots=True)
class _Share:
    """What one owner has in the line, oldest first."""

    waiters: OrderedDict[Waiter, None] = field(default_factory=OrderedDict)
    size: int = 0


@dataclass(eq=False, slots=True)
class Line:
    """All who wait.

    Attributes:
        size: bytes of their bodies together.
    """

    size: int = 0
    _count: int = 0
    _again: OrderedDict[Waiter, None] = field(default_factory=OrderedDict)
    _shares: OrderedDict[str | None, _Share] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiter]:
        return chain(self._again, *(share.waiters for share in self._shares.values()))

    def __contains__(self, waiter: Waiter) -> bool:
        share = self._shares.get(waiter.ticket.owner)
        return waiter in self._again or (share is not None and waiter in share.waiters)

    def join(self, waiter: Waiter) -> None:
        """Add one at its owner's end; one that had an endpoint already goes before all."""
        self._count += 1
        self.size += waiter.ticket.size
        if waiter.ticket.tries:
            self._again[waiter] = None
            self._again.move_to_end(waiter, last=False)
            return
        share = self._shares.setdefault(waiter.ticket.owner, _Share())
        share.waiters[waiter] = None
        share.size += waiter.ticket.size

    def leave(self, waiter: Waiter) -> None:
        """Take one out, wherever it stands."""
        self._count -= 1
        self.size -= waiter.ticket.size
        if waiter in self._again:
            del self._again[waiter]
            return
        owner = waiter.ticket.owner
        share = self._shares[owner]
        del share.waiters[waiter]
        share.size -= waiter.ticket.size
        if not share.waiters:
            del self._shares[owner]

    def first(self) -> Waiter:
        """Say whose turn it is."""
        if self._again:
            return next(iter(self._again))
        return next(iter(next(iter(self._shares.values())).waiters))

    def pop(self) -> Waiter:
        """Take out whose turn it is; the next turn is another owner's."""
        waiter = self.first()
        owner, is_again = waiter.ticket.owner, waiter in self._again
        self.leave(waiter)
        if not is_again and owner in self._shares:
            self._shares.move_to_end(owner)
        return waiter

    def who_gives_way(self, ticket: Ticket, max_requests: int, max_bytes: int) -> list[Waiter]:
        """List who would have to leave so that the bounds hold with `ticket` in the line; none where that is unfair.

        It is the newest of one owner, who has more waiting than the newcomer's owner then would have.
        """
        count, size = self._count + 1 - max_requests, self.size + ticket.size - max_bytes
        mine = self._shares.get(ticket.owner, _Share())
        if not self._shares:
            return []
        if count > 0:
            largest = max(self._shares.values(), key=lambda share: len(share.waiters))
            is_fair = len(largest.waiters) > len(mine.waiters) + 1
        else:
            largest = max(self._shares.values(), key=lambda share: share.size)
            is_fair = largest.size > mine.size + ticket.size
        return _newest(largest, count, size) if is_fair else []


def _newest(share: _Share, count: int, size: int) -> list[Waiter]:
    """List the newest of a share, `count` at least and `size` bytes; none when it has not so much."""
    found: list[Waiter] = []
    for waiter in reversed(share.waiters):
        if count <= 0 and size <= 0:
            break
        found.append(waiter)
        count, size = count - 1, size - waiter.ticket.size
    return found if count <= 0 and size <= 0 else []
