"""The store is lost while nodes serve: a fresh daemon with config, authority and cloud key takes them all over."""

from __future__ import annotations

import asyncio
import shutil
import signal

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import World

pytestmark = pytest.mark.e2e

THREE = {"min": 3, "max": 4}
AUTHORITY = {"ssh": {"host_authority": "host_authority"}}


class Clients:
    """Requests all the while, one after the other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.whole = 0
        self.failed: list[str] = []

    async def ask(self) -> None:
        """Ask until cancelled."""
        while True:
            answer = await self._world.ask(stream=True, tokens=4)
            if answer.whole:
                self.whole += 1
            else:
                self.failed.append(str(answer))


async def lost(there: World) -> None:
    """The daemon's host dies, and its disk with it; a fresh one starts."""
    await there.end("daemon", signal.SIGKILL)
    shutil.rmtree(there.directory / "state")
    there.socket.unlink()
    await there.spawn("daemon", "run", "--config", "config.toml")


async def held(there: World) -> str:
    """Wait until the sweep is held; why it is."""
    why: list[str] = []

    async def is_held() -> bool:
        trouble = (await there.get("/api/v1/status"))["trouble"]
        why.extend(text for text in trouble if "are unknown" in text)
        return bool(why)

    await there.until(is_held, "the sweep is held")
    return why[0]


async def test_a_fresh_daemon_takes_over_every_serving_node_and_no_request_fails(
    world: Build,
) -> None:
    there = await world(AUTHORITY, nodes=THREE)
    before = await there.ready(3)
    await _signed(there, 3)
    clients = Clients(there)
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(clients.ask()) for _ in range(3)]
        await lost(there)
        why = await held(there)
        said = await there.command("adopt", "--yes")
        after = await there.ready(3)
        so_far = clients.whole

        async def more() -> bool:
            return clients.whole > so_far + 10

        await there.until(more, "requests go on")
        for task in asking:
            task.cancel()

    assert "`autoscaler adopt` takes them over" in why
    assert (said.code, said.err) == (0, ""), said
    assert said.out.count("proven by our authority") == 3
    kept = ("name", "model", "machine_id", "usd_per_hour", "type")
    assert [[n[k] for k in kept] for n in after] == [[n[k] for k in kept] for n in before]
    assert clients.failed == []
    assert await there.calls("delete_vm") == []
    assert len(await there.created_names()) == 3
    stories = [e for e in await there.events() if e["kind"] == "node_adopted"]
    assert len(stories) == 3
    assert all(e["actor"] not in ("", "daemon") for e in stories)


async def _signed(there: World, count: int) -> None:
    """Wait until so many machines have their certificate."""

    async def all_have() -> bool:
        found = there.directory.glob("machines/**/.autoscaler/host_certificate")
        return len(list(found)) == count

    await there.until(all_have, f"{count} machines have a certificate")
