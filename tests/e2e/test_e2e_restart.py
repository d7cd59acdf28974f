"""The daemon goes away, in order or not: nodes serve on, and the next one takes all up.

What dies in the middle of a launch is in `tests/crash`, at each point of it.
"""

from __future__ import annotations

import asyncio
import signal

import pytest

from autoscaler.nodes.keys import private_key, public_line
from tests.e2e.conftest import Build

pytestmark = pytest.mark.e2e

ONE = {"min": 1, "max": 2}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_nodes_serve_without_a_daemon_and_the_next_one_takes_them_up(
    world: Build, signum: signal.Signals
) -> None:
    there = await world(nodes=ONE)
    (node,) = await there.ready()
    running = asyncio.create_task(there.ask(stream=True, tokens=200))

    code = await there.end("daemon", signum)
    alone = [await there.ask() for _ in range(3)]
    key = there.directory / "state" / "ssh_key"
    key.rename(key.with_name("ssh_key.old"))  # it is rotated so: the next daemon makes another
    await there.start_daemon()
    after = await there.ask()

    assert code == (0 if signum is signal.SIGTERM else -signum)
    assert (await running).whole
    assert [answer.node for answer in (*alone, after)] == [node["name"]] * 4
    await there.ready()
    (again,) = await there.nodes()
    assert (again["name"], again["ready_at"]) == (node["name"], node["ready_at"])
    assert len(await there.created_names()) == 1
    assert await there.calls("delete_vm") == []
    (kept,) = there.directory.glob("machines/**/.ssh/authorized_keys")
    line = public_line(private_key(key))

    async def is_let_in() -> bool:
        return [one for one in kept.read_text().splitlines() if one.startswith("ssh-")] == [line]

    await there.until(is_let_in, "the node lets in the new client key, and no other")


async def test_a_restarted_gateway_serves_the_same_nodes_at_once(world: Build) -> None:
    there = await world(nodes=ONE)
    (node,) = await there.ready()

    await there.end("gateway", signal.SIGKILL)
    await there.end("daemon")
    await there.start_gateway()
    answer = await there.ask()

    assert (answer.whole, answer.node) == (True, node["name"])


async def test_a_daemon_killed_while_it_drains_finishes_the_drain(world: Build) -> None:
    there = await world(nodes=ONE)
    (node,) = await there.ready()
    (stream,) = await there.streams(1, tokens=400)
    assert (await there.command("retire", "chat", "--yes")).code == 0
    await there.in_state(node["name"], "draining")

    await there.end("daemon", signal.SIGKILL)
    await there.start_daemon()

    assert (await stream).whole
    await there.is_empty()
    assert len(await there.created_names()) == 1
