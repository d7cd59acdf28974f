"""The runner's own tasks against the emulated cloud over HTTP; machines, balancer and prober are of air."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from autoscaler.balance.group import BalancerGroup
from autoscaler.clock import SystemClock
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.credentials import AccessKey
from autoscaler.cloud.mkinf.offers import ImageNames
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.secret import Secret
from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.domain.offer import Market
from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.faults import parse_fault
from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.server import serving
from autoscaler.emulator.settings import Settings
from autoscaler.nodes.launch import Launcher, Scripts
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.reach import PlainReach
from autoscaler.nodes.runner import NodeRunner, Parts
from autoscaler.store.sqlite import SqliteStore
from autoscaler.timings import Timings
from tests.nodes.life_parts import (
    KEY,
    MODEL,
    AirBalancer,
    AirProber,
    OpenGate,
    intent_id,
    node,
    policy,
)

SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDdr0Jv7Y0nC8v9gJt4ZQe1n1S7B9yq2oT3F6l5kT0mA test"
FAST = Timings(
    step=timedelta(milliseconds=50),
    gone_after=timedelta(milliseconds=400),
    in_flight_gap=timedelta(milliseconds=50),
    ssh_retry=timedelta(milliseconds=50),
    delete_retry=timedelta(milliseconds=100),
    delete_retry_max=timedelta(milliseconds=500),
    settling_time=timedelta(seconds=60),
)


class QuickBalancer(AirBalancer):
    @property
    def settle_time(self) -> timedelta:
        return timedelta(milliseconds=50)


@dataclass
class NoMachines:
    """Machines that are only on the books."""

    running: set[str] = field(default_factory=set)

    async def boot(self, spec: MachineSpec, ssh_after_s: float) -> str:
        self.running.add(spec.vm_id)
        return "ssh-ed25519 AAAA"

    async def power_off(self, vm_id: str, timeout_s: float) -> None:
        self.running.discard(vm_id)

    async def kill(self, vm_id: str) -> None:
        self.running.discard(vm_id)

    async def destroy(self, vm_id: str) -> None:
        self.running.discard(vm_id)

    def is_running(self, vm_id: str) -> bool:
        return vm_id in self.running

    async def close(self) -> None:
        self.running.clear()


@dataclass
class Place:
    """A cloud, a store and a balancer that outlive each daemon."""

    emulator: Emulator
    cloud: MkinfCloud
    store: SqliteStore
    market: Market
    balancer: QuickBalancer = field(default_factory=QuickBalancer)
    prober: AirProber = field(default_factory=AirProber)
    clock: SystemClock = field(default_factory=SystemClock)

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[Leases]:
        """A daemon's nodes running until the block ends, as on SIGTERM."""
        leases = Leases(self.store, "daemon", self.clock)
        assert await leases.acquire(MODEL)
        launcher = Launcher(
            self.store,
            self.cloud,
            self.clock,
            leases,
            lambda: self.market,
            lambda node, policy, offer: Scripts("#!/bin/bash\n", "#!/bin/bash\n"),
            OpenGate(),
            SSH_KEY,
            lambda: None,
        )
        runner = NodeRunner(
            Parts(
                store=self.store,
                cloud=self.cloud,
                clock=self.clock,
                leases=leases,
                inventory=InventoryFeed(self.cloud, self.clock),
                balancers=BalancerGroup([self.balancer], self.clock.boot_s),
                prober=self.prober,
                reach=PlainReach(),
                launcher=launcher,
                timings=FAST,
                policies=lambda: {MODEL: policy()},
                market=lambda: self.market,
                changed=lambda before, after: None,
            )
        )

        async def run() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(runner.run(tasks))

        running = asyncio.ensure_future(run())
        try:
            yield leases
        finally:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    async def plan(self, leases: Leases, number: int = 0) -> NodeName:
        now = self.clock.now()
        row = node(intent=intent_id(number), since=now, created_at=now)
        event = NodeEvent(now, "node_planned", MODEL, row.name, row.state, "test", "test")
        await self.store.insert(leases.current(MODEL), row, event)
        return row.name

    async def until(self, name: NodeName, state: State) -> Node:
        async with asyncio.timeout(60):
            while True:
                row = await self.store.node(name)
                if row is not None and row.state is state:
                    return row
                await asyncio.sleep(0.02)

    async def answered(self, name: NodeName) -> None:
        async with asyncio.timeout(60):
            while True:
                row = await self.store.node(name)
                if row is not None and row.machine_id is not None:
                    return
                await asyncio.sleep(0.02)

    async def release(self, leases: Leases, name: NodeName) -> None:
        row = await self.store.node(name)
        assert row is not None
        after = replace(row, state=State.DRAINING, since=self.clock.now(), reason="idle")
        await self.store.update(leases.current(MODEL), row, after)

    async def names(self) -> list[str]:
        return [machine.name for machine in (await self.cloud.inventory()).machines]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        settings = Settings(access_key="made-up-access-key", time_factor=60)
        emulator = Emulator(settings, NoMachines())
        await emulator.start()
        stack.push_async_callback(emulator.close)
        base = await stack.enter_async_context(serving(emulator, "127.0.0.1", 0))
        clock = SystemClock()
        client = MkinfClient(
            MkinfSettings(
                url=f"{base}/v0.1",
                project_id=settings.projects[0].id,
                requests_per_s=1000,
                in_flight=16,
            ),
            AccessKey(Secret("made-up-access-key")),
            clock=clock,
        )
        cloud = MkinfCloud(client, load_prices(), ImageNames(), clock)
        stack.push_async_callback(cloud.close)
        # nobody renews the lease here, so it must outlast the slowest machine
        store = SqliteStore.open(tmp_path / "autoscaler.db", timedelta(hours=1))
        stack.push_async_callback(store.close)
        market = Market(tuple(await cloud.offers()), clock.now())
        assert market.offer(KEY) is not None
        yield Place(emulator, cloud, store, market)


async def test_two_nodes_come_serve_and_go_on_the_emulated_cloud(place: Place) -> None:
    async with place.daemon() as leases:
        names = [await place.plan(leases, number) for number in range(2)]
        for name in names:
            await place.until(name, State.READY)
        serving = set(place.balancer.servers)
        for name in names:
            await place.release(leases, name)
        for name in names:
            await place.until(name, State.GONE)

    assert serving == set(names)
    assert place.balancer.servers == {}
    assert await place.names() == []


async def test_an_answer_lost_on_the_wire_rents_one_machine(place: Place) -> None:
    place.emulator.add_fault(parse_fault("drop_after@create_vm:count=1"))

    async with place.daemon() as leases:
        name = await place.plan(leases)
        await place.until(name, State.READY)

    assert await place.names() == [name]


async def test_stopping_a_daemon_leaves_its_nodes_and_the_next_goes_on(place: Place) -> None:
    async with place.daemon() as leases:
        serving = await place.plan(leases)
        await place.until(serving, State.READY)
        coming = await place.plan(leases, 1)
        await place.answered(coming)  # a call that is cut off is looked for until the settling time
    between = await place.names()
    row = await place.store.node(serving)

    async with place.daemon() as leases:
        await place.until(coming, State.READY)
        await place.release(leases, serving)
        await place.until(serving, State.GONE)

    assert serving in between
    assert row is not None
    assert row.state is State.READY
    assert await place.names() == [coming]
