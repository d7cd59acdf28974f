"""`autoscaler trial`: one VM through its whole life, and the facts of the cloud that it shows."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest

from tests.e2e.world import World
from tests.world.processes import Said, die_with_parent

pytestmark = pytest.mark.e2e

_LIFE_S = 100.0
QUICK = {"boot_prior": "5s"}


async def tried(there: World, *arguments: str) -> Said:
    """Run a trial; it takes a VM's whole life, so it has longer than other commands."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "autoscaler", "trial", "policies/chat.toml", "--yes",
        "--concurrency", "4", *arguments, "--config", "config.toml",
        cwd=there.directory, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    async with asyncio.timeout(_LIFE_S):
        out, err = await process.communicate()
    return Said(process.returncode or 0, out.decode(), err.decode())


def facts(said: Said) -> dict[str, str]:
    return {fact["name"]: fact["status"] for fact in said.json["facts"]}


async def test_a_trial_shows_the_life_the_capacity_and_the_facts_and_leaves_nothing(
    cloud: World,
) -> None:
    await cloud.end("gateway")  # it needs none: it brings its own
    cloud.config_edits = {"limits": {"prove_first": True}}
    cloud.write_policy(mode="shadow", nodes={"min": 0, "max": 2})
    cloud.write_config()

    said = await tried(cloud, "--max-cost", "2", "--load", "2s", "--json")

    assert said.code == 0, (said, cloud.logs())
    assert said.json["state"] == "gone"
    assert said.json["ended_early"] is None
    assert await cloud.machines() == []
    assert len(await cloud.created_names()) == 1
    stages = [bar["stage"].strip() for bar in said.json["waterfall"]]
    order = [s for s in stages if not s.startswith("script")]
    assert order == [
        "planned", "creating", "booting", "verifying", "ready", "draining", "terminating",
    ]  # fmt: skip
    assert any(stage.startswith("script: ") for stage in stages)
    capacity = said.json["capacity"]
    assert capacity["done"] > 0, capacity
    assert capacity["failed"] == 0, capacity
    assert capacity["tokens_per_s"] > 0
    assert 0 < capacity["ttft_p50_s"] <= capacity["ttft_p95_s"]
    assert "left balancers" in said.json["receipt"]
    shown = facts(said)
    assert {name for name, status in shown.items() if status == "unproven"} == {"name_unique"}
    assert set(shown.values()) == {"confirmed", "unproven"}

    # what it showed is kept, and the model is as it was
    await cloud.start_gateway()
    await cloud.start_daemon()
    status = await cloud.get("/api/v1/status")
    assert status["unproven"] == []
    assert (await cloud.model())["mode"] == "shadow"
    again = await tried(cloud)
    assert again.code == 1, again
    assert "stop the daemon" in again.err


async def test_a_cloud_that_refuses_to_delete_what_runs_is_told_and_the_vm_goes(
    cloud: World,
) -> None:
    await cloud.admin("PUT", "/switches", delete_running="refused", create_id="no")
    await cloud.fault("os_disk_left")
    cloud.write_policy()
    cloud.write_config()

    said = await tried(cloud, "--load", "1s", "--json")

    assert said.code == 0, (said, cloud.logs())
    shown = facts(said)
    assert shown["delete_running"] == "refuted"
    assert shown["create_answer"] == "refuted"
    assert shown["disks"] == "refuted"
    assert await cloud.machines() == []


async def test_at_its_cost_a_trial_ends_and_deletes_what_it_has(cloud: World) -> None:
    await cloud.fault("slow_boot", factor=100)
    cloud.write_policy(scaling=QUICK, deadlines={"booting": "10m"})
    cloud.write_config()

    refused = await tried(cloud, "--max-cost", "0.001", "--load", "1s")
    ended = await tried(cloud, "--max-cost", "0.003", "--load", "1s")

    assert refused.code == 2, refused
    assert "--max-cost: found $0.001, the least is" in refused.err
    assert ended.code == 1, (ended, cloud.logs())
    assert "--max-cost $0.003 is reached" in ended.err
    assert len(await cloud.created_names()) == 1
    assert await cloud.machines() == []


async def test_a_trial_that_was_killed_is_taken_up_and_one_broken_off_deletes_its_vm(
    cloud: World,
) -> None:
    cloud.write_policy()
    cloud.write_config()

    async def begin(name: str) -> None:
        await cloud.spawn(
            name, "trial", "policies/chat.toml", "--yes", "--load", "50s",
            "--config", "config.toml",
        )  # fmt: skip

        async def loads() -> bool:
            return "clients ask for" in cloud.log_of(name)

        await cloud.until(loads, "the load has begun", timeout=_LIFE_S / 2)

    await begin("killed")
    await cloud.end("killed", signal.SIGKILL)
    await begin("hurried")
    await cloud.fault("delete_ignored", count=1000)
    cloud.signal("hurried", signal.SIGINT)

    async def ends() -> bool:
        return "interrupted: it ends when" in cloud.log_of("hurried")

    await cloud.until(ends, "the first Ctrl-C was heard")
    cloud.signal("hurried", signal.SIGINT)
    assert await cloud.exit_code("hurried") == 130, cloud.logs()
    (left,) = await cloud.machines()
    assert f"left: {left['name']} ({left['id']})" in cloud.log_of("hurried")
    assert "it bills $1.27/h" in cloud.log_of("hurried")
    assert await cloud.created_names() == [left["name"]]

    await cloud.clear_faults()
    await begin("hung-up")
    cloud.signal("hung-up", signal.SIGHUP)

    assert await cloud.exit_code("hung-up") == 130, cloud.logs()
    assert await cloud.machines() == []


async def test_until_a_delete_is_proven_there_is_one_vm_at_a_time(cloud: World) -> None:
    cloud.config_edits = {"limits": {"prove_first": True}}
    cloud.write_policy(nodes={"min": 2, "max": 3})
    await cloud.start_daemon()
    await cloud.ready(1)
    await asyncio.gather(*(cloud.ask() for _ in range(4)))

    assert len(await cloud.created_names()) == 1
    assert "delete_running" in (await cloud.get("/api/v1/status"))["unproven"]
    log = [json.loads(line) for line in cloud.log_of("daemon").splitlines() if line[:1] == "{"]
    named = {entry["fact"] for entry in log if entry["event"] == "cloud_fact_unproven"}
    assert {"delete_running", "listing_lag", "host_key", "disks"} <= named

    (node,) = await cloud.ready(1)
    assert (await cloud.command("drain", node["name"], "--yes")).code == 0
    await cloud.ready(2)  # its end was the proof
