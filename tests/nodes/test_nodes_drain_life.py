"""Drains that could go wrong for a long time, step by step: silent engines, wedged ones, dead ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoscaler.domain.node import Node, State
from tests.nodes.life_parts import MODEL, Life, life, node, open_store, policy


@pytest.fixture
async def alive(tmp_path: Path) -> AsyncIterator[Life]:
    store = open_store(tmp_path)
    yield await life(store)
    await store.close()


async def draining(alive: Life) -> Node:
    """A node that served and was given back."""
    row = await alive.add(node())
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
