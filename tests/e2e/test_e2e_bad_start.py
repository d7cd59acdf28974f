"""What is wrong from the start: a message that says what to do, and nothing lost."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import World
from tests.world.files import toml
from tests.world.small_disk import SmallDisk

pytestmark = pytest.mark.e2e

ONE = {"min": 1, "max": 2}


async def _ends_with(there: World, *words: str) -> None:
    """Start a daemon that cannot run: it ends by itself and says why, without a trace."""
    await there.spawn("refused", "run", "--config", "config.toml")
    assert await there.exit_code("refused") != 0
    log = there.log_of("refused")
    for word in words:
        assert word in log, log
    assert "Traceback" not in log, log


async def test_a_wrong_key_rents_nothing_and_the_status_says_so(cloud: World) -> None:
    (cloud.directory / "wrong").write_text("mk_wrong\n")
    (cloud.directory / "wrong").chmod(0o600)
    cloud.config_edits = {"cloud": {"key_file": "wrong"}}
    cloud.write_policy(nodes=ONE)
    cloud.write_config()
    await cloud.spawn("daemon", "run", "--config", "config.toml")

    async def told() -> bool:
        trouble = " ".join((await cloud.get("/api/v1/status"))["trouble"])
        return "401" in trouble or "credential" in trouble or "key" in trouble

    await cloud.until(told, "the status tells of the key")
    async with cloud.session.get(f"{cloud.serve}/readyz") as answer:
        assert answer.status == 503
    assert await cloud.created_names() == []
    assert "mk_wrong" not in cloud.log_of("daemon")


async def test_a_revoked_key_keeps_nodes_serving_and_heals(world: Build) -> None:
    there = await world(nodes=ONE)
    (node,) = await there.ready()

    await there.admin("POST", "/credentials/revoke")
    assert (await there.ask()).node == node["name"]
    await there.admin("POST", "/credentials/restore")

    assert (await there.command("retire", "chat", "--yes")).code == 0
    await there.is_empty()


async def test_a_key_that_others_may_read_and_one_that_is_not_there_are_refused(
    cloud: World,
) -> None:
    cloud.write_policy()
    cloud.write_config()
    key = cloud.directory / "access-key"

    key.chmod(0o644)
    await _ends_with(cloud, "access-key", "chmod 600")
    key.chmod(0o600)
    cloud.config_edits = {"cloud": {"key_file": "nowhere"}}
    cloud.write_config()
    await _ends_with(cloud, "nowhere")


async def test_a_port_in_use_is_said_and_the_store_stays_usable(cloud: World) -> None:
    cloud.write_policy()
    cloud.write_config()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", cloud.serve_port))
        taken.listen()
        await _ends_with(cloud, f"127.0.0.1:{cloud.serve_port}", "name another port")
    await cloud.start_daemon()


async def test_a_second_daemon_on_one_state_ends_with_a_message(world: Build) -> None:
    there = await world(nodes=ONE)
    await there.ready()

    await _ends_with(there, "one daemon holds one store", str(there.pid("daemon")))

    assert (await there.ask()).whole
    assert (await there.command("status")).code == 0


async def test_mistakes_in_config_and_policies_are_all_told_at_once(cloud: World) -> None:
    cloud.write_policy("one", model="test/one", aliases=[], nodes={"min": 5, "max": 2})
    cloud.write_policy("two", model="test/two", aliases=[], engin="vllm")
    cloud.write_config()

    await _ends_with(cloud, "one.toml", "two.toml", "engin", "max 2 is below min 5")

    config = cloud.config() | {"limit": {}}
    (cloud.directory / "config.toml").write_text(toml(config))
    await _ends_with(cloud, "config.toml", "limit", "limits")


async def test_a_policy_that_no_offer_can_satisfy_is_explained_offer_by_offer(
    world: Build,
) -> None:
    there = await world(nodes=ONE, facts={"params_b": 900.0})

    async def thought() -> bool:
        return bool((await there.get("/api/v1/explain?model=chat"))["plan"]["passed_over"])

    await there.until(thought, "a pass has looked at the offers")
    said = await there.command("explain", "chat")
    for offer in ("l40s-48gb.1x@us-east1-a", "a100.1x@us-northcentral1-a"):
        (line,) = [line for line in said.out.splitlines() if offer in line]
        assert "memory" in line or "fit" in line or "GB" in line, line
    assert await there.created_names() == []


async def test_with_a_full_disk_nothing_is_rented_deletes_go_on_and_all_heals(
    cloud: World,
) -> None:
    disk = SmallDisk(cloud.directory / "state")
    cloud.config_edits = {"timings": {"lease_renew": "1s"}}  # the first to notice
    await cloud.fault("delete_ignored", count=1000)
    cloud.write_policy(nodes=ONE)
    cloud.write_policy("other", model="test/other", aliases=["other"])
    await cloud.start_daemon(*disk.prefix)
    (node,) = await cloud.ready()
    assert (await cloud.command("retire", "chat", "--yes")).code == 0
    await cloud.in_state(node["name"], "terminating")

    disk.fill(cloud.pid("daemon"))

    async def said() -> bool:
        trouble = (await cloud.get("/api/v1/status"))["trouble"]
        return any("the store could not commit" in text for text in trouble)

    async def is_gone() -> bool:
        return not await cloud.machines()

    async def is_told_of_room() -> bool:
        return "autoscaler_store_failing 0" in await cloud.metrics()

    await cloud.until(said, "the daemon says that it cannot record")
    held = asyncio.create_task(cloud.ask("other"))
    await cloud.clear_faults()
    await cloud.until(is_gone, "the machine is given back all the same")
    assert await cloud.created_names() == [node["name"]]
    assert "autoscaler_store_failing 1" in await cloud.metrics()

    disk.empty(cloud.pid("daemon"))
    assert (await held).whole, cloud.logs()
    await cloud.in_state(node["name"], "gone")
    await cloud.until(is_told_of_room, "the alert ends by itself")
    assert len(await cloud.created_names()) == 2
