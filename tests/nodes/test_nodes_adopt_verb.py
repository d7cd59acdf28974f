"""`adopt` over the daemon's socket: what it says beforehand, one at a time, and no stop waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from autoscaler.daemon import Daemon
from autoscaler.nodes.protocol import Coming
from autoscaler.nodes.sweep import ORPHANS_MODEL, model_slugs
from autoscaler.policy import Mode
from autoscaler.serve.adopting import Adoptions
from tests.nodes.adopt_parts import Abandoned, abandoned
from tests.nodes.life_parts import MODEL, TIMINGS, life, open_store

Json = dict[str, Any]  # as the daemon answers


class Socket:
    """The verb on a Unix socket of its own."""

    def __init__(self, left: Abandoned, path: Path) -> None:
        self.left, self.path = left, path
        self.woken: list[str] = []
        config = SimpleNamespace(timings=TIMINGS, ssh=SimpleNamespace(user="ubuntu"))
        daemon = SimpleNamespace(
            config=config,
            sweeper=left.sweeper,
            book=SimpleNamespace(policies=left.life.policies),
            wakes=SimpleNamespace(now=self.woken.append),
        )
        app = web.Application()
        Adoptions(cast(Daemon, daemon), left.adopter).add_to(app)
        self.runner = web.AppRunner(app)

    async def post(self, what: str = "", **body: object) -> Json:
        connector = aiohttp.UnixConnector(str(self.path))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://daemon/api/v1/adopt{what}", json=body) as answer,
        ):
            found: Json = await answer.json()
            return found


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Socket]:
    store = open_store(tmp_path)
    made = await life(store)
    assert await made.leases.acquire(ORPHANS_MODEL)
    there = Socket(abandoned(made, tmp_path), tmp_path / "s")
    await there.runner.setup()
    await web.UnixSite(there.runner, there.path).start()
    yield there
    await there.runner.cleanup()
    await store.close()


async def test_what_would_be_taken_over_is_priced_and_told_and_nothing_changes(
    socket: Socket,
) -> None:
    machine, _ = await socket.left.machine(1)
    _, deaf = await socket.left.machine(2)
    deaf.lets_in = False
    socket.left.life.cloud.add("as1-otherone-aaaaaaaaaaaab-1-llama")
    await socket.left.sweeper.sweep(model_slugs((MODEL,)), None)

    ahead = await socket.post("/preview")

    assert ahead["adoptable"] == [machine.name]
    assert [one["why"] for one in ahead["refused"]] == [
        "203.0.113.2: does not accept our key (yet)"
    ]
    text = "\n".join(ahead["text"])
    assert f"{machine.name}: llama on l40s-48gb.1x@us-east1-a, $1.25/h: proven" in text
    assert "1 to take over, $1.25/h in all, which they cost already" in text
    assert "1 cannot be taken over" in text
    assert "1 with our prefix carry another owner mark (as1-otherone-" in text
    assert await socket.left.rows() == ()


async def test_what_was_adopted_is_told_and_looked_at_at_once(socket: Socket) -> None:
    machine, _ = await socket.left.machine(1)
    socket.left.life.policies[MODEL] = socket.left.life.policies[MODEL].model_copy(
        update={"mode": Mode.SHADOW}
    )

    done = await socket.post()
    again = await socket.post("/preview")

    assert (done["adopted"], done["refused"]) == ([machine.name], [])
    assert done["by"] not in ("", "unknown")
    assert "llama is in shadow here" in done["notes"][0]
    assert socket.woken == ["model llama", "sweep"]
    assert "there is nothing to adopt" in again["text"][0]


async def test_a_stop_of_the_daemon_waits_for_no_adoption(socket: Socket) -> None:
    await socket.left.machine(1)
    socket.left.life.prober.verdict = Coming("health")
    waits, for_ever = asyncio.Event(), asyncio.Event()

    async def wait(seconds: float) -> None:
        waits.set()
        await for_ever.wait()

    socket.left.waiting.sleep = wait  # type: ignore[method-assign]  # the world's clock, at its edge
    asked = asyncio.create_task(socket.post())
    await waits.wait()

    await socket.runner.cleanup()

    with pytest.raises(aiohttp.ClientError):
        await asked
    assert await socket.left.rows() == ()
