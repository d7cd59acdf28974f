"""The right to act on a model: renewed from when it was sent, and checked before every effect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from autoscaler.domain.ids import ModelName
from autoscaler.errors import LeaseLost
from autoscaler.nodes.leases import Leases
from autoscaler.store.protocol import Lease
from autoscaler.store.sqlite import SqliteStore
from tests.nodes.life_parts import MODEL, HandClock, life, node, open_store

OTHER = ModelName("mistral")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = open_store(tmp_path)
    yield opened
    await opened.close()


async def test_a_lease_is_good_for_twenty_seconds_without_a_renewal(
    store: SqliteStore,
) -> None:
    clock = HandClock()
    leases = Leases(store, "daemon-1", clock)
    await leases.acquire(MODEL)
    clock.move(19.9)
    good = leases.current(MODEL)
    clock.move(0.1)

    with pytest.raises(LeaseLost, match="was not renewed in time"):
        leases.current(MODEL)
    assert good.epoch == 1


async def test_a_jump_of_the_wall_clock_does_not_lengthen_or_end_a_lease(
    store: SqliteStore,
) -> None:
    clock = HandClock()
    leases = Leases(store, "daemon-1", clock)
    await leases.acquire(MODEL)
    clock.jump(timedelta(hours=5))
    leases.current(MODEL)
    clock.jump(timedelta(hours=-10))
    clock.move(20)

    with pytest.raises(LeaseLost):
        leases.current(MODEL)


async def test_the_holder_counts_from_when_it_sent_its_renewal(store: SqliteStore) -> None:
    clock = HandClock()

    class Slow(SqliteStore):
        async def renew(self, lease: Lease, boot_s: float) -> Lease:
            clock.move(15)  # the answer takes its time
            return await SqliteStore.renew(store, lease, boot_s)

    leases = Leases(store, "daemon-1", clock)
    await leases.acquire(MODEL)
    leases._store = Slow.__new__(Slow)

    with pytest.raises(LeaseLost, match=r"shorter than the call \(13 s\)"):
        await leases.fresh(MODEL, 13.0)


async def test_a_fresh_lease_outlasts_the_call(store: SqliteStore) -> None:
    clock = HandClock()
    leases = Leases(store, "daemon-1", clock)
    await leases.acquire(MODEL)
    clock.move(19)

    lease = await leases.fresh(MODEL, 13.0)

    assert lease.good_until_boot_s - clock.boot_s() == 20
    with pytest.raises(LeaseLost, match="no lease is held"):
        await leases.fresh(OTHER, 1.0)
    with pytest.raises(LeaseLost, match="no lease is held"):
        leases.current(OTHER)


async def test_what_was_taken_over_is_lost_and_the_rest_goes_on(store: SqliteStore) -> None:
    clock = HandClock()
    leases = Leases(store, "daemon-1", clock)
    await leases.acquire(MODEL)
    await leases.acquire(OTHER)
    await store.acquire(OTHER, "daemon-2", 0.0)

    lost = await leases.renew_all()

    assert lost == [OTHER]
    assert leases.models == {MODEL}


async def test_epochs_only_grow(store: SqliteStore) -> None:
    epochs = []
    for holder in ("a", "b", "a", "a"):
        lease = await store.acquire(MODEL, holder, 0.0)
        assert lease is not None
        epochs.append(lease.epoch)

    assert epochs == [1, 2, 3, 4]


async def test_no_create_call_is_made_under_a_lease_that_was_taken_over(
    store: SqliteStore,
) -> None:
    """Taken over between the row and the call: the row says that it may have been sent, and it was not."""
    alive = await life(store)
    await alive.add(node())
    request = await alive.launcher.prepare(node(), alive.policies[MODEL])
    await store.acquire(MODEL, "daemon-2", 0.0)

    with pytest.raises(LeaseLost):
        await alive.launcher.create(node(), alive.policies[MODEL], request)

    assert alive.cloud.calls == []
