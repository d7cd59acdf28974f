"""Loopback addresses for machines, never given twice while there are fresh ones."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterator


class AddressPool:
    """Hands out the addresses of a block, skipping those ending in .0 and .255."""

    def __init__(self, block: str) -> None:
        network = ipaddress.IPv4Network(block)
        if not network.is_loopback:
            raise ValueError(f"address block {block} is not loopback: use one in 127.0.0.0/8")
        self._fresh: Iterator[str] = (
            str(address) for address in network.hosts() if int(address) & 0xFF not in (0, 255)
        )
        self._freed: deque[str] = deque()

    def take(self, *, reuse_latest: bool = False) -> str:
        """Give an address: a fresh one, or the one freed last if `reuse_latest`.

        Raises:
            LookupError: the block is exhausted.
        """
        if reuse_latest and self._freed:
            return self._freed.pop()
        fresh = next(self._fresh, None)
        if fresh is not None:
            return fresh
        if not self._freed:
            raise LookupError("the address block is exhausted")
        return self._freed.popleft()

    def give_back(self, address: str) -> None:
        self._freed.append(address)
