"""A model's passes, each on its wake: what a clock that jumps or a silent balancer does to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from autoscaler.balance.group import BalancerGroup
from autoscaler.balance.presence import Patience
from autoscaler.balance.protocol import Balancer
from autoscaler.config import Config
from autoscaler.domain.node import State
from autoscaler.health import Health
from autoscaler.market import MarketFeed
from autoscaler.passes import Passes
from autoscaler.policies import PolicyBook
from autoscaler.serve.metrics import Metrics
from autoscaler.wakes import Wakes
from tests.balance.test_balance_group import Edge
from tests.core.desk import CHAT, AirFeed, Desk, policy
from tests.nodes.life_parts import OWNER, life, minutes, offer, open_store, seconds

WINDOW = minutes(5)
CALM = {"stabilization": "5m", "peak_memory": "1m", "work_window": "1m", "demand_window": "15s"}


class Woken:
    """The passes of one model; a test wakes them one by one."""

    def __init__(self, desk: Desk, passes: Passes, ended: asyncio.Event) -> None:
        self.desk = desk
        self._passes = passes
        self._ended = ended

    @property
    def group(self) -> BalancerGroup:
        return self._passes.balancers

    async def once(self) -> None:
        await self.desk.leases.renew_all()
        self._ended.clear()
        self._passes.wakes.now(f"model {CHAT}")
        async with asyncio.timeout(30):
            await self._ended.wait()
        self.desk.clock.move(15)

    async def ended_by_itself(self) -> None:
        """Wait for a pass that nobody here has woken."""
        self._ended.clear()
        async with asyncio.timeout(30):
            await self._ended.wait()

    async def passes_for(self, length: timedelta) -> None:
        for _ in range(int(length / seconds(15))):
            await self.once()

    async def is_about_to_release(self) -> None:
        """Demand has been for one node for a whole window, seen from the first figures on."""
        self.desk.feed.arrivals = None
        await self.passes_for(2 * WINDOW)
        self.desk.feed.arrivals = 0.01
        await self.passes_for(WINDOW)
        assert await self.ready() == 2

    async def ready(self) -> int:
        return sum(node.state is State.READY for node in await self.desk.fleet())


@asynccontextmanager
async def woken(directory: Path, *balancers: Balancer) -> AsyncIterator[Woken]:
    """Two nodes that serve."""
    store = open_store(directory)
    parts = await life(store)
    parts.cloud.rentable = (offer(),)
    clock, leases = parts.clock, parts.leases
    await leases.acquire(CHAT)
    market = MarketFeed(parts.cloud, store, clock)
    await market.refresh()
    config = Config.model_validate(
        {
            "schema": 1,
            "cloud": {"owner": OWNER, "url": "http://127.0.0.1:1", "key_file": "/k"},
            "timings": {"start_caution": "0s"},
        }
    )
    chat = policy(scaling=CALM, nodes={"min": 1, "max": 2})
    desk = Desk(store, clock, parts.cloud, market, leases, AirFeed(), config, chat)
    (directory / "policies").mkdir()
    book = PolicyBook(directory / "policies")
    book.remember(chat)
    wakes, ended = Wakes(), asyncio.Event()
    wakes.every(f"model {CHAT}", timedelta(hours=1))  # no scheduler runs: a test wakes
    await wakes.wait(f"model {CHAT}")
    passes = Passes(
        store=store,
        balancers=BalancerGroup(
            balancers, clock.boot_s, Patience(grace=timedelta(milliseconds=50))
        ),
        clock=clock,
        clock_jump=config.timings.clock_jump,
        book=book,
        wakes=wakes,
        reconciler=desk.reconciler,
        runner=parts.runner,
        metrics=Metrics(),
        health=Health(),
        ended=ended.set,
    )
    desk.feed.arrivals = 500.0
    while len(await desk.fleet()) < 2:
        await desk.once()
    await desk.be(State.READY)
    try:
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(passes.serve(CHAT, tasks))
            yield Woken(desk, passes, ended)
            serving.cancel()
    finally:
        await store.close()


@pytest.mark.parametrize("by", [seconds(10), -minutes(1)])
async def test_a_clock_that_jumps_holds_scale_in_for_one_window(
    tmp_path: Path, by: timedelta
) -> None:
    async with woken(tmp_path) as there:
        await there.is_about_to_release()

        there.desk.clock.jump(by)
        with capture_logs() as said:
            await there.passes_for(WINDOW - seconds(15))
        held = await there.ready()
        await there.passes_for(2 * WINDOW)

        assert held == 2
        assert await there.ready() == 1
        (jumped,) = [line for line in said if line["event"] == "clock_jumped"]
        assert (jumped["model"], jumped["by_s"]) == (CHAT, by.total_seconds())


@pytest.mark.parametrize("by", [seconds(1)])
async def test_a_clock_that_is_set_right_by_a_little_holds_nothing(
    tmp_path: Path, by: timedelta
) -> None:
    async with woken(tmp_path) as there:
        await there.is_about_to_release()

        there.desk.clock.jump(by)
        with capture_logs() as said:
            await there.passes_for(seconds(30))

        assert await there.ready() == 1
        assert [line for line in said if line["event"] == "clock_jumped"] == []


async def test_the_next_pass_comes_when_a_silent_balancer_is_waited_for_no_longer(
    tmp_path: Path,
) -> None:
    there, silent = Edge("there"), Edge("silent")
    async with woken(tmp_path, there, silent) as passes:
        await passes.group.welcome([CHAT], passes.desk.store)
        silent.is_silent = True

        await passes.once()

        await passes.ended_by_itself()
