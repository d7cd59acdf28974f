"""The store is lost while nodes serve: a fresh daemon with config, authority and cloud key takes them all over."""

from __future__ import annotations

import asyncio
import shutil
import signal

import asyncssh
import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import World
from tests.world.files import Table

pytestmark = pytest.mark.e2e

THREE = {"min": 3, "max": 4}
AUTHORITY: Table = {"reach": "tls", "ssh": {"host_authority": "host_authority"}}


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


BOX = """#!/bin/bash
docker run --detach --name mine --gpus all --publish 8000:8000 vllm/vllm-openai:v0.8.5 \\
    --model test/chat --served-model-name test/chat --host 0.0.0.0 --port 8000
"""
PATIENT = {"zero_after": "90s", "stabilization": "90s", "peak_memory": "90s"}


async def rented(there: World) -> str:
    """A VM that a person rents, whose server he starts himself; the host key that it has, as he reads it there."""
    ours = asyncssh.read_private_key(there.directory / "state/ssh_key")
    (there.directory / "ours.pub").write_bytes(ours.export_public_key())
    (there.directory / "box.sh").write_text(BOX)
    said = await there.command(
        "cloud", "create", "box", "--type", "a40.1x", "--location", "us-northcentral1-a",
        "--ssh-public-key", "ours.pub", "--startup-script", "box.sh", "--yes",
    )  # fmt: skip
    assert said.code == 0, said

    async def has_a_key() -> bool:
        return len(list(there.directory.glob("machines/**/ssh_host_ed25519_key.pub"))) == 1

    await there.until(has_a_key, "the VM has a host key")
    (path,) = there.directory.glob("machines/**/ssh_host_ed25519_key.pub")
    return str(asyncssh.read_public_key(path).get_fingerprint())


async def test_a_vm_that_a_person_rented_joins_and_goes_when_its_model_does(world: Build) -> None:
    there = await world(nodes={"min": 0, "max": 2}, scaling=PATIENT)
    key = await rented(there)
    other = asyncssh.generate_private_key("ssh-ed25519").get_fingerprint()

    async def shows_its_key() -> bool:
        said = await there.command("adopt", "box", "--model", "chat", "--yes")
        assert said.code == 2
        return "--host-key is missing" in said.err

    await there.until(shows_its_key, "the VM answers")
    wrong = await there.command("adopt", "box", "--model", "chat", "--host-key", other, "--yes")
    right = await there.command("adopt", "box", "--model", "chat", "--host-key", key, "--yes")
    (node,) = await there.ready()
    answer = await there.ask()
    await there.command("retire", "chat", "--yes")
    await there.is_empty()

    assert "which is not the key given: nothing was sent" in wrong.err
    assert (right.code, right.err) == (0, "")
    assert f"It shows host key {key}" in right.out
    assert "DELETED with its system disk" in right.out
    assert (answer.whole, answer.node) == (True, node["name"])
    assert await there.created_names() == ["box"]
    deleted = {call["name"] for call in await there.calls("delete_vm")}
    assert deleted - {""} == {"box"}  # asked once more when it was gone, it has no name
