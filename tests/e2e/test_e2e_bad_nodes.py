"""Machines that are not what they should be: each is found out, told, given back, and not rented for ever."""

from __future__ import annotations

import pytest

from tests.e2e.world import MODEL, World

pytestmark = pytest.mark.e2e

ONE = {"min": 1, "max": 2}
FAST = {"creating": "15s", "booting": "3s", "verifying": "5s"}


@pytest.mark.parametrize(
    ("fault", "reason", "saved", "tries"),
    [
        ("script_exits_1", "verify: ", True, 3),
        ("script_hangs", "deadline: still verifying", True, 1),
        ("host_key_changed", "host-key: ", False, 1),
        ("wrong_gpus", "verify: ", True, 1),
        ("health_ok_generation_garbage", "verify: ", True, 1),
        ("no_ssh", "deadline: still booting", False, 1),
    ],
)
async def test_a_bad_machine_fails_with_its_reason_and_launches_stop(
    cloud: World, fault: str, reason: str, saved: bool, tries: int
) -> None:
    await cloud.fault(fault, count=10)
    cloud.write_policy(
        nodes=ONE,
        deadlines=FAST,
        retries={"same_failure_limit": tries},
        hardware={"types": ["*.2x"]},  # one GPU too few is one
    )
    await cloud.start_daemon()

    await _launches_stop(cloud)
    await cloud.is_empty()

    assert len(await cloud.created_names()) == tries
    assert await cloud.machines() == []
    assert not any(node["verified_at"] for node in await cloud.nodes())
    node = (await cloud.nodes())[0]
    said = await cloud.command("events", node["name"], "--json")
    story = said.json
    assert said.code == 0
    failed = next(event for event in story if event["state"] == "failed")
    assert failed["cause"].startswith(reason), failed["cause"]
    details = [event["detail"] for event in story if event["kind"] == "node_diagnosed"]
    assert any(details) or not saved, story
    if saved:
        told = await cloud.command("events", node["name"])
        assert details[0].splitlines()[-1].split()[-1] in told.out
        assert len(told.out.splitlines()) > details[0].count("\n")
    explained = await cloud.command("explain", "chat")
    assert "autoscaler resume" in explained.out
    figures = await cloud.metrics()
    kind = reason.partition(":")[0]
    assert f'autoscaler_node_failures_total{{kind="{kind}",model="{MODEL}"}} {tries}.0' in figures
    assert f'autoscaler_launches_stopped{{model="{MODEL}"}} 1.0' in figures
    mismatches = tries if kind == "host-key" else 0
    assert f"autoscaler_host_key_mismatches_total {mismatches}.0" in figures


async def test_after_a_person_has_resumed_the_model_launches_are_tried_again(
    cloud: World,
) -> None:
    await cloud.fault("script_exits_1", count=1)
    cloud.write_policy(nodes=ONE, deadlines=FAST, retries={"same_failure_limit": 1})
    await cloud.start_daemon()
    await _launches_stop(cloud)

    assert (await cloud.command("resume", "chat", "--yes")).code == 0

    await cloud.ready()
    assert len(await cloud.created_names()) == 2


async def _launches_stop(there: World) -> None:
    async def stopped() -> bool:
        plan = (await there.get("/api/v1/explain?model=chat"))["plan"]
        return any("in a row failed alike" in note for note in plan["notes"])

    await there.until(stopped, "launches stop", timeout=60)
