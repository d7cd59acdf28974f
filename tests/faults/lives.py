"""One life of a daemon, from its start to its death: every way from it into the world leads through here.

That is what lets it be killed between any two of its effects, as SIGKILL would: from that moment on nothing that it
still runs reaches the world. A frozen one stops at its next step into the world, and goes on with it when it thaws.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

Crossed = Callable[["Life", str, str], None]


@dataclass(slots=True, eq=False)
class Life:
    """One process.

    Attributes:
        number: counts the lives of a world, from 1.
        on_crossing: told of each step into the world: the life, where, and what about.
        die_after: the crossings that are left to it once somebody wants it dead at one; None while nobody does.
        freeze_before: it freezes at the first step of these words, once somebody wants that.
        die_where: only these count; "" for any.
        thaws: how often it was frozen and went on.
    """

    number: int
    on_crossing: Crossed
    is_dead: bool = False
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    die_after: int | None = None
    die_where: str = ""
    task: asyncio.Task[None] | None = None
    freeze_before: frozenset[str] = frozenset()
    thaws: int = 0

    def __post_init__(self) -> None:
        self.thawed.set()

    async def cross(self, where: str, what: str = "") -> None:
        """Step into the world, or back out of it with an answer."""
        self.crossing(where, what)
        if what in self.freeze_before:
            self.freeze()
        while not self.thawed.is_set():
            await self.thawed.wait()
            self.crossing(where, what)

    def crossing(self, where: str, what: str = "") -> None:
        """The same where nothing can be waited for.

        Raises:
            CancelledError: it is dead, and nothing of it reaches the world any more.
        """
        if self.is_dead:
            raise asyncio.CancelledError
        if self.die_after is not None and self.die_where in ("", where):
            self.die_after -= 1
            if self.die_after <= 0:
                self.kill()
                raise asyncio.CancelledError
        self.on_crossing(self, where, what)

    def kill(self) -> None:
        """SIGKILL."""
        self.is_dead = True
        self.thawed.set()
        if self.task is not None:
            self.task.cancel()

    def freeze(self) -> None:
        """SIGSTOP, or a hypervisor that gives it no time."""
        self.freeze_before = frozenset()
        self.thawed.clear()

    def thaw(self) -> None:
        self.freeze_before = frozenset()
        self.thaws += 1
        self.thawed.set()

    @property
    def is_frozen(self) -> bool:
        return not self.thawed.is_set()
