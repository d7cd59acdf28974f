"""Wakes: they set events and nothing else, and they never pile up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from autoscaler.wakes import Wakes

OFTEN = timedelta(milliseconds=10)
NEVER = timedelta(days=1)


@pytest.fixture
async def wakes() -> AsyncIterator[Wakes]:
    made = Wakes()
    yield made
    made.stop()


async def is_set(wakes: Wakes, name: str) -> bool:
    try:
        async with asyncio.timeout(0):
            await wakes.wait(name)
    except TimeoutError:
        return False
    return True


async def test_the_first_wake_comes_at_once_and_then_at_its_interval(wakes: Wakes) -> None:
    wakes.every("pass", OFTEN)

    async with asyncio.timeout(5):
        for _ in range(4):
            await wakes.wait("pass")


async def test_wakes_that_come_while_a_round_runs_are_one(wakes: Wakes) -> None:
    wakes.every("pass", NEVER)
    await wakes.wait("pass")
    for _ in range(100):
        wakes.now("pass")

    assert [await is_set(wakes, "pass") for _ in range(3)] == [True, False, False]


async def test_a_wake_out_of_turn_needs_no_interval(wakes: Wakes) -> None:
    waiting = asyncio.ensure_future(wakes.wait("policies"))
    await asyncio.sleep(0)
    wakes.now("policies")

    async with asyncio.timeout(5):
        await waiting


async def test_one_that_is_asked_for_once_comes_once(wakes: Wakes) -> None:
    wakes.every("pass", NEVER)
    await wakes.wait("pass")
    wakes.once("pass", NEVER)
    wakes.once("pass", OFTEN)

    async with asyncio.timeout(5):
        await wakes.wait("pass")

    assert not await is_set(wakes, "pass")


async def test_what_is_forgotten_is_set_no_more(wakes: Wakes) -> None:
    wakes.every("pass", OFTEN)
    await wakes.wait("pass")
    wakes.forget("pass")
    wakes.now("pass")
    wakes.forget("pass")

    assert not await is_set(wakes, "pass")


async def test_another_interval_replaces_the_first(wakes: Wakes) -> None:
    wakes.every("pass", OFTEN)
    wakes.every("pass", NEVER)
    await wakes.wait("pass")

    assert not await is_set(wakes, "pass")


async def test_a_loop_that_was_held_up_makes_up_for_one_wake_only(wakes: Wakes) -> None:
    wakes.every("pass", timedelta(milliseconds=100))
    await wakes.wait("pass")
    time.sleep(1.05)  # noqa: ASYNC251 - the loop is held up: that is what is tested

    async with asyncio.timeout(5):
        await wakes.wait("pass")
    assert not await is_set(wakes, "pass")


async def test_stopping_twice_is_no_error(wakes: Wakes) -> None:
    wakes.every("pass", OFTEN)
    wakes.stop()
    wakes.stop()
