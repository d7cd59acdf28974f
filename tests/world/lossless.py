"""Whether scale-ins lose a request: real balancers, a fleet behind them, clients before them, reloads in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoscaler.domain.ids import ModelName
from tests.world.askers import Appetite, Askers
from tests.world.fleet import Fleet, Pace
from tests.world.numbered import Books
from tests.world.standing import Standing


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried.

    Attributes:
        reloads: how often each balancer is reloaded, HAProxy and the gateway in turn.
        reload_s: between two reloads. A drain waits for what the one before has left, so not too often.
        seed: of all dice.
    """

    scale_ins: int
    models: Sequence[ModelName]
    pace: Pace
    appetite: Appetite
    reloads: int
    reload_s: float
    seed: int = 7


@dataclass(eq=False)
class Lossless:
    """One run of it.

    Attributes:
        reloads: how often each balancer was reloaded.
    """

    trial: Trial
    folder: Path
    books: Books = field(default_factory=Books)
    reloads: dict[str, int] = field(default_factory=dict)
    fleet: Fleet = field(init=False)

    async def run(self, show: Callable[[Lossless], None] = lambda _: None) -> None:
        """Try it. What came of it is in `books` and `fleet`.

        Args:
            show: called every 15 s.
        """
        trial, dice = self.trial, random.Random(self.trial.seed)
        standing = Standing(self.folder, trial.models)
        self.reloads = standing.reloads
        async with standing, contextlib.AsyncExitStack() as stack:
            self.fleet = Fleet(
                *(standing.balancers, trial.models, trial.pace, trial.scale_ins),
                self.books,
                dice,
            )
            stack.push_async_callback(self.fleet.stop)
            askers = Askers(
                *(self.books, trial.models, standing.ways, standing.http2, trial.appetite, dice),
                self.fleet.is_open,
                self.fleet.is_over,
            )
            async with asyncio.TaskGroup() as tasks:
                beside = (
                    tasks.create_task(self._keep_reloading(standing)),
                    tasks.create_task(self._keep_showing(show)),
                )
                tasks.create_task(askers.run())
                await self.fleet.run()
                beside[0].cancel()
                await self.fleet.serve_on(lambda: askers.are_done)
                beside[1].cancel()

    async def _keep_reloading(self, standing: Standing) -> None:
        for _ in range(self.trial.reloads):
            await asyncio.sleep(self.trial.reload_s)
            await standing.reload_haproxy()
            await asyncio.sleep(self.trial.reload_s)
            await standing.upgrade_gateway()

    async def _keep_showing(self, show: Callable[[Lossless], None]) -> None:
        while True:
            await asyncio.sleep(15)
            show(self)
