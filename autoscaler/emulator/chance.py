"""Seeded chance: delays and ids that a seed repeats, whatever the order of the calls.

A delay depends on the seed and on what it is for, not on how many draws came before it: one more
request on the way does not shift every boot time after it.
"""

from __future__ import annotations

import random
import uuid


class Chance:
    """Draws delays by key, and ids and rare events in sequence."""

    def __init__(self, seed: int, salt: str = "") -> None:
        """`salt` parts the ids of two runs with one seed: an id must never come back."""
        self._seed = seed
        self._ids = random.Random(f"{seed}/ids/{salt}")
        self._events = random.Random(f"{seed}/events")

    def between(self, bounds: tuple[float, float], *key: str) -> float:
        """Draw from `bounds`, the same value each time for the same `key`."""
        low, high = bounds
        return random.Random("/".join((str(self._seed), *key))).uniform(low, high)

    def happens(self, rate: float) -> bool:
        """Say yes with probability `rate`."""
        return self._events.random() < rate

    def new_id(self) -> str:
        """A new UUID."""
        return str(uuid.UUID(int=self._ids.getrandbits(128), version=4))

    def new_token(self) -> str:
        """A new opaque credential, made by the system's generator: never from the seed."""
        return random.SystemRandom().randbytes(24).hex()

    def new_serial(self) -> str:
        """A disk's serial number."""
        return f"{self._ids.getrandbits(76):019X}"

    def new_mac(self) -> str:
        """A locally administered MAC address."""
        tail = self._ids.getrandbits(40).to_bytes(5, "big")
        return ":".join(["2e", *(f"{byte:02x}" for byte in tail)])
