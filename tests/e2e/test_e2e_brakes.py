"""The brakes: `audit` tells who accounts for what, `panic` deletes all that is ours and proves it absent."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.connect import open_client
from autoscaler.cloud.mkinf.values import VmRequest
from autoscaler.config import CloudSettings
from autoscaler.domain.ids import ModelName, new_intent_id, node_name
from tests.e2e.conftest import Build
from tests.e2e.world import DEADLINE_S, World
from tests.world.processes import Said, die_with_parent

pytestmark = pytest.mark.e2e

OWNER = "testtest"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUMXQBxV2i2SPYCcVAyGgCxBzHyCq7xTFeAXmEsjLNY t"


def client(there: World) -> MkinfClient:
    """A hand on the cloud that no daemon knows of."""
    return open_client(
        CloudSettings(
            url=there.cloud["url"],
            project=there.cloud["project_id"],
            key_file=Path(there.cloud["key_file"]),
            owner=OWNER,
            requests_per_s=200,
            in_flight=16,
        )
    )


def our_name(owner: str = OWNER) -> str:
    return node_name("as1", owner, new_intent_id(), 1, ModelName("test/chat"))


async def rent(hand: MkinfClient, name: str) -> str:
    """Make a VM behind the daemon's back; its id."""
    operation = await hand.create_vm(
        VmRequest(
            name=name,
            type="l40s-48gb.1x",
            location="us-east1-a",
            image="ubuntu22.04-nvidia-pcie-docker",
            ssh_public_key=KEY,
            startup_script="#!/bin/bash\ntrue\n",
        )
    )
    assert operation.resource_id is not None
    return operation.resource_id


async def by_flags(there: World, command: str, *arguments: str, owner: str = OWNER) -> Said:
    """As from another host: without a config, with a key and the owner mark."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "autoscaler", command, "--url", there.cloud["url"],
        "--project", there.cloud["project_id"], "--key-file", str(there.cloud["key_file"]),
        "--owner", owner, *arguments,
        cwd=there.directory, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    return Said(process.returncode or 0, out.decode(), err.decode())


async def names(there: World) -> set[str]:
    return {str(vm["name"]) for vm in await there.machines()}


async def test_an_audit_tells_accounted_from_disowned_from_unknown(world: Build) -> None:
    # the orphan must outlive a slow machine's commands
    there = await world({"timings": {"orphan_grace": "10m"}}, nodes={"min": 1, "max": 2})
    (node,) = await there.ready()

    fine = await there.command("audit")
    remote = await by_flags(there, "audit", "--daemon", there.serve, "--json")
    others = await by_flags(there, "audit", "--daemon", there.serve, owner="somebody")
    async with client(there) as hand:
        await rent(hand, orphan := our_name())
        await rent(hand, our_name("somebody"))

        async def is_listed() -> bool:
            return len(await hand.vms()) == 3

        await there.until(is_listed, "the cloud lists all three")
    bad = await there.command("audit", "--json")
    await there.end("daemon")
    unknown = await there.command("audit")

    assert (fine.code, fine.err) == (0, ""), fine
    assert "accounted" in fine.out
    assert "as1-testtest-serve" in fine.out
    assert max(len(line) for line in fine.out.splitlines() if "accounted" in line) <= 80
    assert remote.code == 0, remote
    assert {item["kind"] for item in remote.json["items"]} == {"vm", "disk", "rule"}
    assert remote.json["items"][0]["name"] == node["name"]
    assert float(remote.json["items"][0]["usd_per_hour"]) > 0
    assert others.code == 5, others
    assert "its daemon is of as1-testtest" in others.out
    assert bad.code == 4, bad
    disowned = {i["name"] for i in bad.json["items"] if i["verdict"] == "disowned"}
    assert orphan in disowned
    assert bad.json["foreign"] == 1
    assert node["name"] not in disowned
    assert unknown.code == 5, unknown
    assert "no daemon answers" in unknown.out


async def test_panic_stops_the_daemon_and_leaves_nothing_of_ours(world: Build) -> None:
    there = await world(nodes={"min": 2, "max": 3})
    await there.ready(2)
    async with client(there) as hand:
        await rent(hand, stranger := "somebodys-box")
        await rent(hand, foreign := our_name("somebody"))

    refused = await there.command("panic")
    assert refused.code != 0
    assert len(await names(there)) == 4

    said = await there.command("panic", "--yes")

    assert said.code == 0, said
    assert "proven absent" in said.out
    assert "paused test/chat" in said.out
    assert await names(there) == {stranger, foreign}
    assert (await there.model())["mode"] == "paused"
    assert len(await there.created_names()) == 4

    async def audit_is_calm() -> bool:
        return (await there.command("audit")).code == 0

    await there.until(audit_is_calm, "nothing is disowned")


async def test_panic_can_be_broken_off_and_begun_again_through_a_cloud_that_lies(
    cloud: World,
) -> None:
    cloud.write_config()
    await cloud.admin("PUT", "/switches", delete_running="refused")
    async with client(cloud) as hand:
        ids = [await rent(hand, our_name()) for _ in range(4)]
        await cloud.fault("list_lag", lag_s=200)
        await rent(hand, our_name())

        async def all_run() -> bool:
            return {vm.state for vm in await hand.vms()} == {"RUNNING"}

        await cloud.until(all_run, "the VMs run")
        await hand.act_on_vm(ids[0], "STOP")
    await cloud.fault("drop_after", call="delete_vm", count=2)
    await cloud.fault("status", code=503, rate=0.1)
    await cloud.fault("delete_ignored", count=2)
    await cloud.fault("delete_fails", count=1)
    await cloud.fault("os_disk_left", count=1)

    await cloud.spawn("panic", "panic", "--yes", "--config", "config.toml")

    async def has_begun() -> bool:
        return bool(await cloud.calls("delete_vm"))

    await cloud.until(has_begun, "it deletes")
    await asyncio.sleep(0)
    assert await cloud.end("panic", signal.SIGINT) in (130, 0), cloud.logs()
    assert "Run it again" in cloud.log_of("panic")

    said = await cloud.command("panic", "--yes", "--json")

    assert said.code == 0, (said, cloud.logs())
    assert said.json["proven_absent"] is True
    assert await names(cloud) == set()
    assert (await cloud.admin("GET", "/snapshot"))["disks"] == []
    assert await cloud.billing() == []
