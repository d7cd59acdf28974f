"""A cloud that loses answers, lies, lags and refuses: nothing is rented twice, nothing is forgotten, all heals."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import World

pytestmark = pytest.mark.e2e

ONE = {"min": 1, "max": 2}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUMXQBxV2i2SPYCcVAyGgCxBzHyCq7xTFeAXmEsjLNY t"


async def _serves_with_one_machine(there: World) -> None:
    """Wait until the fleet is as wanted: one node, one machine, and it answers."""

    async def settled() -> bool:
        open_nodes = [
            n for n in await there.nodes() if n["state"] not in ("gone", "lost", "cancelled")
        ]
        machines = await there.machines()
        return [n["state"] for n in open_nodes] == ["ready"] and [m["name"] for m in machines] == [
            n["name"] for n in open_nodes
        ]

    await there.until(settled, "one node, one machine")
    assert (await there.ask()).whole
    sent = Counter(await there.created_names())
    assert set(sent.values()) == {1}, f"a name was sent twice: {sent}"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("drop_after", {"call": "create_vm", "count": 1}),
        ("drop_before", {"call": "create_vm", "count": 1}),
        ("status", {"call": "create_vm", "code": 502, "after": 1}),
        ("cut_json", {"call": "create_vm"}),
        ("no_vm", {}),
        ("failed_vm_left", {}),
        ("list_lag", {"lag_s": 400}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_create_that_goes_wrong_rents_no_second_machine_under_its_name(
    cloud: World, kind: str, options: dict[str, object]
) -> None:
    await cloud.fault(kind, **options)
    cloud.write_policy(nodes=ONE, deadlines={"creating": "6s"})
    await cloud.start_daemon()

    await _serves_with_one_machine(cloud)

    assert await cloud.struck(kind)


async def test_a_machine_that_comes_long_after_its_lost_answer_is_given_back(cloud: World) -> None:
    await cloud.fault("late", call="create_vm", late_s=1200)
    cloud.config_edits = {"timings": {"settling_time": "3s"}}
    cloud.write_policy(nodes=ONE)
    await cloud.start_daemon()
    await cloud.ready()

    async def came() -> bool:
        return len(await cloud.calls("create_vm")) >= 2 and await _vms_ever(cloud) >= 2

    await cloud.until(came, "the late machine has come")
    await _serves_with_one_machine(cloud)


async def _vms_ever(there: World) -> int:
    return int((await there.admin("GET", "/snapshot"))["counters"].get("vm_created", 0))


@pytest.mark.parametrize("kind", ["delete_ignored", "delete_fails"])
async def test_a_delete_that_does_not_delete_is_asked_for_until_the_machine_is_gone(
    world: Build, kind: str
) -> None:
    there = await world(nodes=ONE)
    (node,) = await there.ready()
    await there.fault(kind, count=2)

    assert (await there.command("retire", "chat", "--yes")).code == 0
    await there.is_empty()

    assert len(await there.calls("delete_vm")) >= 3
    receipt = (await there.events(node=node["name"]))[-1]["detail"]
    assert "deletes sent: " in receipt


async def test_a_cloud_that_says_too_many_requests_is_obeyed_and_the_launch_still_comes(
    cloud: World,
) -> None:
    await cloud.fault("status", code=429, retry_after=1, rate=0.3)
    cloud.write_policy(nodes=ONE)
    await cloud.start_daemon()

    await _serves_with_one_machine(cloud)
    await cloud.clear_faults()


async def test_a_cloud_that_fails_for_a_while_costs_no_request_and_no_machine(
    world: Build,
) -> None:
    there = await world(nodes=ONE)
    (node,) = await there.ready()
    await there.fault("status", code=503, count=30)

    async def over() -> bool:
        assert (await there.ask()).whole
        return await there.struck("status") >= 30

    await there.until(over, "the cloud fails no more", timeout=60)

    await _serves_with_one_machine(there)
    assert [n["name"] for n in await there.nodes()] == [node["name"]]
    assert 'cloud_calls_total{call="inventory",outcome="unavailable"}' in await there.metrics()


@pytest.mark.parametrize("kind", ["list_empty", "flicker", "odd_state", "bad_item"])
async def test_an_absurd_listing_closes_no_node(world: Build, kind: str) -> None:
    there = await world(nodes=ONE, scaling={"stabilization": "1s"})
    (node,) = await there.ready()

    await there.fault(kind, count=2)

    async def told() -> bool:
        return await there.struck(kind) >= 2

    await there.until(told, "the listing was absurd")
    await _serves_with_one_machine(there)
    assert [n["name"] for n in await there.nodes()] == [node["name"]]


async def test_a_stranger_and_an_orphan_are_told_apart(world: Build) -> None:
    there = await world(nodes=ONE)
    await there.ready()
    orphan, stranger = "as1-testtest-aaaabbbbccccd-1-test-chat", "somebody-elses"
    for name in (orphan, stranger):
        await _rent(there, name)

    async def swept() -> bool:
        return orphan not in {machine["name"] for machine in await there.machines()}

    await there.until(swept, "the orphan is deleted")
    assert stranger in {machine["name"] for machine in await there.machines()}
    assert not [c for c in await there.calls("delete_vm") if c["name"] == stranger]


async def _rent(there: World, name: str) -> None:
    """Rent a machine behind the daemon's back."""
    body = {
        "name": name,
        "type": "l40s-48gb.1x",
        "location": "us-east1-a",
        "image": "ubuntu22.04-nvidia-pcie-docker",
        "ssh_public_key": KEY,
    }
    key = (there.directory / "access-key").read_text().strip()
    url = f"{there.cloud['url']}/projects/{there.cloud['project_id']}/vms"
    headers = {"Authorization": f"Bearer {key}"}
    async with there.session.post(url, json=body, headers=headers) as answer:
        assert answer.status < 300, await answer.text()
