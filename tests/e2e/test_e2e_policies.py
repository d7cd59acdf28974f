"""Policies change while the daemon runs: taken up whole, or refused whole, and never taken as a wish for zero."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import World

pytestmark = pytest.mark.e2e

ONE = {"min": 1, "max": 2}


async def _bounds_are(there: World, low: int) -> None:
    async def are() -> bool:
        return bool((await there.model())["min"] == low)

    await there.until(are, f"the least number of nodes is {low}")


async def test_a_changed_file_is_taken_up_by_itself_and_a_bad_one_is_refused_whole(
    world: Build,
) -> None:
    there = await world()
    path = there.write_policy(nodes={"min": 0, "max": 3})
    there.write_policy(nodes=ONE)
    await _bounds_are(there, 1)
    (node,) = await there.ready()

    good = path.read_text()
    path.write_text(good.replace("min", "mim"))

    async def told() -> bool:
        trouble = " ".join((await there.get("/api/v1/status"))["trouble"])
        return "mim" in trouble and "min" in trouble

    await there.until(told, "the status tells of the mistake")
    assert (await there.model())["min"] == 1
    assert (await there.ask()).node == node["name"]
    said = await there.command("validate")
    assert said.code != 0
    assert "chat.toml" in said.err
    async with there.session.get(f"{there.serve}/metrics") as answer:
        assert "autoscaler_policies_valid 0.0" in await answer.text()

    path.write_text(good)

    async def calm() -> bool:
        return not (await there.get("/api/v1/status"))["trouble"]

    await there.until(calm, "the mended file is taken up")


async def test_sighup_reloads_and_a_second_policy_gets_its_own_passes(world: Build) -> None:
    there = await world()
    there.write_policy("other", model="test/other", aliases=["other"], nodes={"min": 0, "max": 1})

    there.signal("daemon", signal.SIGHUP)

    async def two() -> bool:
        return len((await there.get("/api/v1/status"))["models"]) == 2

    async def known() -> bool:
        return (await there.ask("other")).status != 404

    await there.until(two, "both models are served")
    await there.until(known, "the gateway was told of the second one")
    first, second = await asyncio.gather(there.ask("chat"), there.ask("other"))
    assert first.whole
    assert second.whole
    assert first.node != second.node


async def test_a_policy_file_that_vanishes_keeps_its_model_serving(world: Build) -> None:
    there = await world(nodes=ONE)
    (node,) = await there.ready()

    (there.directory / "policies" / "chat.toml").unlink()

    async def told() -> bool:
        trouble = " ".join((await there.get("/api/v1/status"))["trouble"])
        return "vanished" in trouble

    await there.until(told, "the status tells of the missing file")
    assert (await there.ask()).node == node["name"]
    assert [n["state"] for n in await there.nodes()] == ["ready"]
    await there.end("daemon")
    await there.start_daemon()
    assert (await there.ask()).node == node["name"]
    assert [n["state"] for n in await there.nodes()] == ["ready"]
