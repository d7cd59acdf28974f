"""Machines that do not go: accepted deletes that come to nothing, clouds that do not list, balancers that are away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from autoscaler.domain.node import Node, State
from autoscaler.errors import CloudUnavailable, Rejected
from tests.nodes.life_parts import MODEL, TIMINGS, Life, life, minutes, node, open_store


@pytest.fixture
async def alive(tmp_path: Path) -> AsyncIterator[Life]:
    store = open_store(tmp_path)
    yield await life(store)
    await store.close()


async def ending(alive: Life) -> Node:
    """A node that served, left its balancers and is to be deleted."""
    row = await alive.add(node())
    row = await alive.until(row.name, State.READY)
    after = replace(row, state=State.DRAINING, since=alive.clock.now(), reason="idle")
    await alive.store.update(alive.leases.current(MODEL), row, after)
    return await alive.until(row.name, State.TERMINATING)


async def test_the_meter_stops_within_a_minute_of_the_machine_and_never_before_it(
    alive: Life,
) -> None:
    row = await ending(alive)
    while alive.cloud.vms:
        await alive.step(row.name)
    ended = alive.clock.now()

    gone = await alive.until(row.name, State.GONE)

    assert gone.gone_at is not None
    assert ended <= gone.gone_at <= ended + minutes(1)
    assert gone.gone_at < gone.since  # the proof took longer


async def test_a_running_machine_whose_deletes_come_to_nothing_is_stopped_first(
    alive: Life,
) -> None:
    alive.cloud.deletes_work = False
    row = await ending(alive)
    alive.pause_s = 15

    await alive.steps(row.name, 8)

    done = [what for what, _ in alive.cloud.calls if what != "create"]
    assert done[:4] == ["delete", "delete", "stop", "delete"]


async def test_a_stop_that_is_refused_keeps_no_delete_back(alive: Life) -> None:
    async def refuse(machine_id: str) -> None:
        alive.cloud.calls.append(("stop", machine_id))
        raise Rejected("no such action")

    alive.cloud.deletes_work = False
    alive.cloud.stop = refuse  # type: ignore[method-assign]  # the cloud of air is the network's edge
    row = await ending(alive)
    alive.pause_s = 15

    await alive.steps(row.name, 8)

    assert len(alive.cloud.sent("stop")) >= 1
    assert len(alive.cloud.sent("delete")) > 2


async def test_a_machine_whose_id_is_known_is_deleted_while_nothing_is_listed(
    alive: Life,
) -> None:
    row = await ending(alive)
    alive.cloud.unreadable = CloudUnavailable("502")

    await alive.steps(row.name, 2)

    assert alive.cloud.sent("delete") == [row.machine_id]


async def test_a_delete_that_is_stuck_behind_a_silent_balancer_is_told(alive: Life) -> None:
    row = await ending(alive)
    alive.balancer.silent = True
    alive.clock.move(TIMINGS.delete_alarm.total_seconds())
    await alive.leases.renew_all()

    with capture_logs() as logs:
        await alive.steps(row.name, 5)

    stuck = [entry for entry in logs if entry["event"] == "delete_stuck"]
    assert [entry["why"] for entry in stuck] == ["a balancer still lists it"]
