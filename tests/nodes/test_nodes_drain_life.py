"""Drains that could go wrong for a long time, step by step: silent engines, wedged ones, dead ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoscaler.domain.node import Node, State
from tests.nodes.life_parts import MODEL, Life, intent_id, life, node, open_store, policy


@pytest.fixture
async def alive(tmp_path: Path) -> AsyncIterator[Life]:
    store = open_store(tmp_path)
    yield await life(store)
    await store.close()


async def draining(alive: Life, number: int = 0) -> Node:
    """A node that served and was given back."""
    row = await alive.add(node(intent=intent_id(number)))
    row = await alive.until(row.name, State.READY)
    after = replace(row, state=State.DRAINING, since=alive.clock.now(), reason="idle")
    await alive.store.update(alive.leases.current(MODEL), row, after)
    return after


async def later(alive: Life, seconds: float) -> None:
    alive.clock.move(seconds)
    await alive.leases.renew_all()


async def test_a_silent_engine_behind_a_balancer_that_may_hide_streams_waits_for_the_deadline(
    alive: Life,
) -> None:
    alive.policies[MODEL] = policy(engine="embedding")
    alive.balancer.counts_old_processes = False
    row = await draining(alive)

    before = await alive.steps(row.name, 20)
    await later(alive, 1800)

    assert before.state is State.DRAINING
    assert (await alive.until(row.name, State.GONE)).state is State.GONE


async def test_a_silent_engine_is_given_back_at_once_where_nothing_can_hide(alive: Life) -> None:
    alive.policies[MODEL] = policy(engine="embedding")
    row = await draining(alive)

    assert (await alive.steps(row.name, 8)).state is State.TERMINATING


async def told(alive: Life, row: Node, kind: str) -> list[str]:
    events = await alive.store.events(node=row.name)
    return [f"{event.cause}; {event.detail}" for event in events if event.kind == kind]


async def test_a_wedged_drain_is_told_at_its_deadline_and_again_every_hour(alive: Life) -> None:
    row = await draining(alive)
    alive.balancer.place(row.name, 2)
    await alive.steps(row.name, 5)
    before = (await told(alive, row, "drain_overdue"), alive.runner.overdue_drains)

    await later(alive, 1800)
    await alive.steps(row.name, 5)
    once = await told(alive, row, "drain_overdue")
    overdue = alive.runner.overdue_drains
    await later(alive, 3600)
    await alive.steps(row.name, 5)
    twice = await told(alive, row, "drain_overdue")
    alive.balancer.place(row.name, 0)
    await alive.until(row.name, State.TERMINATING)

    assert before == ([], 0)
    assert overdue == 1
    assert len(once) == 1
    assert "2 in flight; in flight: balancers 2, engine 0" in once[0]
    assert len(twice) == 2
    assert alive.runner.overdue_drains == 0


async def test_an_engine_that_died_with_requests_in_flight_is_not_waited_for(alive: Life) -> None:
    row = await draining(alive)
    for number in (1, 2):  # others serve on: it is not us
        other = await alive.add(node(intent=intent_id(number)))
        await alive.until(other.name, State.READY)
    alive.balancer.place(row.name, 2)
    await alive.steps(row.name, 3)
    alive.prober.ill = "the server refuses connections"
    server = alive.balancer.servers[row.name]
    alive.balancer.servers[row.name] = replace(server, check_fails=True)

    for _ in range(20):
        await alive.step(row.name)
        alive.runner.judge()
    given_up = await alive.get(row.name)

    assert given_up.state is State.TERMINATING
    assert "a balancer's check fails" in (given_up.failure or "")


async def test_one_witness_alone_ends_no_drain(alive: Life) -> None:
    row = await draining(alive)
    alive.balancer.place(row.name, 2)
    alive.prober.ill = "no answer"

    for _ in range(40):
        await alive.step(row.name)
        alive.runner.judge()

    assert (await alive.get(row.name)).state is State.DRAINING
