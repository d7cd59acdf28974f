"""Our meter against the emulator's, over its own usage endpoint: a day of a VM with its disk, and one nobody knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autoscaler.clock import SystemClock
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.credentials import AccessKey
from autoscaler.cloud.mkinf.offers import ImageNames
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.secret import Secret
from autoscaler.domain.node import NodeEvent, State
from autoscaler.domain.offer import OfferKey
from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.meter import Account
from autoscaler.emulator.server import serving
from autoscaler.emulator.settings import Settings
from autoscaler.store.sqlite import SqliteStore
from autoscaler.usage_check import UsageCheck
from tests.nodes.life_parts import MODEL, HandClock, intent_id, node, open_store
from tests.nodes.test_nodes_emulated import NoMachines

FOUR = OfferKey("a40.4x", "us-east1-a")
HOUR = timedelta(hours=1)


class Metered:
    """An emulator, and what it billed yesterday."""

    def __init__(self, emulator: Emulator, cloud: MkinfCloud, store: SqliteStore) -> None:
        self.emulator, self.cloud, self.store = emulator, cloud, store
        self.clock = HandClock()
        self.clock.wall = datetime.now(UTC)
        midnight = self.clock.wall.replace(hour=0, minute=0, second=0, microsecond=0)
        self.began = midnight - timedelta(days=1)

    def bill(self, name: str, hours: float) -> None:
        """A VM of four GPUs with its system disk, on the emulator's books alone."""
        books = self.emulator.cloud.books
        project = next(iter(books.projects))
        type_ = books.catalogue.types[FOUR.type]
        gib = books.catalogue.os_disk_gb
        things = (
            ("vm", FOUR.type, type_.usd_per_hour, type_.gpus),
            ("disk", "persistent-ssd", books.disk_price(gib), gib),
        )
        for kind, resource, usd, units in things:
            id_ = f"{kind}-{name}"
            account = Account(kind, id_, name, project, resource, FOUR.location, usd, units)
            books.meter.open(account, self.began)
            books.meter.set_running(id_, True, self.began)
            books.meter.close(id_, self.began + hours * HOUR)

    async def rent(self, hours: float) -> None:
        """The same on our books."""
        (price, *_) = (
            o.price_per_hour for o in await self.cloud.offers() if o.key.type == FOUR.type
        )
        assert price is not None
        lease = await self.store.acquire(MODEL, "daemon-1", 0.0)
        assert lease is not None
        row = node(
            State.GONE,
            intent=intent_id(1),
            offer=FOUR,
            price_per_hour=price,
            sent_at=self.began,
            gone_at=self.began + hours * HOUR,
        )
        still = replace(row, state=State.TERMINATING)
        event = NodeEvent(self.began, "made", MODEL, row.name, row.state, "test", "test")
        await self.store.insert(lease, still, event)
        await self.store.advance(lease, still, row, event)


@pytest.fixture
async def metered(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Metered]:
    async with AsyncExitStack() as stack:
        settings = Settings(access_key="made-up-access-key")
        emulator = Emulator(settings, NoMachines())
        emulator.cloud.books.switches = replace(
            emulator.cloud.books.switches, usage_quantity=request.param
        )
        await emulator.start()
        stack.push_async_callback(emulator.close)
        base = await stack.enter_async_context(serving(emulator, "127.0.0.1", 0))
        client = MkinfClient(
            MkinfSettings(url=f"{base}/v0.1", project_id=settings.projects[0].id),
            AccessKey(Secret("made-up-access-key")),
            clock=SystemClock(),
        )
        cloud = MkinfCloud(client, load_prices(), ImageNames(), SystemClock())
        stack.push_async_callback(cloud.close)
        store = open_store(tmp_path)
        stack.push_async_callback(store.close)
        yield Metered(emulator, cloud, store)


@pytest.mark.parametrize("metered", ["gpu_hours", "vm_hours"], indirect=True)
async def test_a_day_agrees_with_the_clouds_whatever_it_counts_until_it_bills_one_more(
    metered: Metered,
) -> None:
    metered.bill("ours", 5)
    await metered.rent(5)
    check = UsageCheck(metered.store, metered.cloud, metered.clock, 0.05)

    await check.look()
    agreed = check.last
    metered.bill("unknown", 1)
    await metered.store.set_meta("usage", "{}")
    await check.look()

    assert agreed is not None
    assert agreed.cloud == agreed.ours
    assert not agreed.differs
    assert check.last is not None
    assert check.last.differs
    assert check.last.difference == pytest.approx(0.2)
