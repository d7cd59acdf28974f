"""A VM's life as callers see it."""

from __future__ import annotations

import pytest

from tests.emulator.rig import KEY, Opens, Rig, order


async def test_a_create_is_answered_at_once_and_ends_running(cloud: Rig) -> None:
    begun = await cloud.create()

    operation = begun.body["operation"]
    assert operation["state"] == "IN_PROGRESS"
    assert operation["result"] is None
    assert operation["completed_at"] == ""
    assert operation["metadata"]["request"]["name"] == "as1-llama-7f3a9c"

    await cloud.pass_s(30)

    ended = await cloud.operation(begun)
    vm = await cloud.vm(operation["metadata"]["id"])
    assert ended["state"] == "SUCCEEDED"
    assert ended["result"] == {
        "id": vm["id"],
        "name": "as1-llama-7f3a9c",
        "state": "STATE_RUNNING",
    }
    assert vm["state"] == "STATE_RUNNING"


async def test_a_new_vm_goes_through_defining_and_paused(cloud: Rig) -> None:
    await cloud.create()
    states = []
    for _ in range(21):
        await cloud.pass_s(1)
        states += [vm["state"] for vm in (await cloud.call("GET", "P/vms")).body["items"]]

    assert list(dict.fromkeys(states)) == ["STATE_DEFINING", "STATE_PAUSED", "STATE_RUNNING"]


async def test_get_and_list_do_not_show_a_vm_at_once(cloud: Rig) -> None:
    begun = await cloud.create()
    vm_id = begun.body["operation"]["metadata"]["id"]

    early = await cloud.call("GET", f"P/vms/{vm_id}")
    listed = await cloud.names()
    await cloud.pass_s(6)

    assert early.status == 404
    assert early.body["code"] == "not_found"
    assert listed == []
    assert (await cloud.call("GET", f"P/vms/{vm_id}")).status == 200
    assert await cloud.names() == ["as1-llama-7f3a9c"]


async def test_a_vm_has_every_documented_field_and_its_oddities(cloud: Rig) -> None:
    vm = await cloud.vm(await cloud.running())

    assert set(vm) == {
        *("id", "project_id", "type", "state", "ssh_destination", "created_at", "updated_at"),
        *("name", "location", "commitment_period", "commitment_end", "disks"),
        *("network_interfaces", "host_channel_adapters", "virtualization_features"),
        *("instance_template_id", "instance_group_id", "reservation_id"),
    }
    assert vm["ssh_destination"] == ":0"
    assert vm["project_id"] != cloud.project
    assert vm["created_at"] == "2026-02-03T10:15:00Z"
    (disk,) = vm["disks"]
    assert disk["name"] == f"OS-disk-{vm['id']}"
    assert (disk["location"], disk["size"], disk["block_size"]) == ("vaeq-cu", "128GiB", 0)
    assert (disk["attachment_type"], disk["mode"]) == ("os", "read-write")


async def test_the_public_address_is_empty_before_it_is_told(cloud: Rig) -> None:
    begun = await cloud.create()
    vm_id = begun.body["operation"]["metadata"]["id"]
    addresses = []
    for _ in range(50):
        await cloud.pass_s(0.5)
        for vm in (await cloud.call("GET", "P/vms")).body["items"]:
            ips = [ip for face in vm["network_interfaces"] for ip in face["ips"]]
            addresses += [ip["public_ipv4"]["address"] for ip in ips]

    assert addresses[0] == ""
    assert addresses[-1].startswith("127.20.0.")
    assert (await cloud.vm(vm_id))["network_interfaces"][0]["ips"][0]["public_ipv4"]["type"] == (
        "dynamic"
    )


async def test_the_machine_gets_its_script_key_and_figures(cloud: Rig) -> None:
    await cloud.running(type="l40s-48gb.2x", shutdown_script="#!/bin/sh\ntrue\n")

    ((spec, ssh_after_s),) = cloud.machines.booted

    assert (spec.gpu, spec.gpus, spec.vcpu, spec.ram_gb) == ("l40s", 2, 16, 294)
    assert spec.startup_script == "#!/bin/bash\nset -eu\n"
    assert spec.shutdown_script == "#!/bin/sh\ntrue\n"
    assert spec.authorized_key == KEY
    assert 20 <= ssh_after_s <= 60


async def test_a_cpu_type_has_no_gpu_and_boots_the_plain_image(cloud: Rig) -> None:
    await cloud.running(type="c1a.2x", image="ubuntu22.04")

    ((spec, _),) = cloud.machines.booted

    assert (spec.gpu, spec.gpus) == (None, 0)


async def test_durations_shrink_with_the_time_factor(open_cloud: Opens) -> None:
    fast = await open_cloud(time_factor=60.0)

    await fast.running()

    ((_, ssh_after_s),) = fast.machines.booted
    assert 20 / 60 <= ssh_after_s <= 1.0


async def test_one_seed_gives_one_course_of_things(open_cloud: Opens) -> None:
    first, second, other = [await open_cloud(seed=seed) for seed in (5, 5, 6)]
    for cloud in (first, second, other):
        await cloud.create("before")  # an earlier call shifts nothing
        await cloud.running("probe")

    waits = [
        {spec.name: round(after, 6) for spec, after in one.machines.booted}
        for one in (first, second, other)
    ]

    assert waits[0] == waits[1] != waits[2]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": None}, "name"),
        ({"type": None}, "type"),
        ({"location": None}, "location"),
        ({"image": None}, "image"),
        ({"ssh_public_key": None}, "ssh_public_key"),
        ({"type": "h100.1x"}, "type"),
        ({"location": "eu-moon1-a"}, "location"),
        ({"image": "windows"}, "image"),
        ({"image": "ubuntu22.04-nvidia-sxm-docker"}, "image"),
        ({"image": "ubuntu22.04-nvidia-pcie-docker:1999-01-01"}, "image"),
        ({"type": "c1a.2x", "location": "us-southcentral1-a", "image": "ubuntu22.04"}, "image"),
        ({"location": "us-northcentral1-a"}, "type"),
        ({"name": "Ümlaut"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"ssh_public_key": "ssh-ed25519 AAAA"}, "ssh_public_key"),
        ({"ssh_public_key": "ssh-rsa " + KEY.split()[1]}, "ssh_public_key"),
        ({"ssh_public_key": "not a key"}, "ssh_public_key"),
        ({"startup_script": "#!/bin/bash\n" + "x" * 65536}, "startup_script"),
        ({"startup_script": "#!/bin/bash\necho ü\n"}, "startup_script"),
        ({"startup_script": "echo hi\n"}, "startup_script"),
        ({"shutdown_script": "echo hi\n"}, "shutdown_script"),
        ({"disks": [{"disk_id": "none", "mode": "sideways"}]}, "disks"),
    ],
)
async def test_a_wrong_create_is_a_bad_request_that_names_the_field(
    cloud: Rig, changes: dict[str, object], word: str
) -> None:
    answer = await cloud.call("POST", "P/vms", order(**changes))  # type: ignore[arg-type]

    assert answer.status == 400
    assert answer.body["code"] == "bad_request"
    assert word in answer.body["message"]
    assert set(answer.body) == {"code", "message", "error_id", "reason"}


async def test_a_body_that_is_no_json_is_a_bad_request(cloud: Rig) -> None:
    headers = {"Authorization": "Bearer made-up-access-key"}
    url = f"{cloud.base}/v0.1/projects/{cloud.project}/vms"
    async with cloud.client.post(url, data=b'{"name": "x"', headers=headers) as answer:
        assert answer.status == 400


async def test_an_image_may_be_named_with_its_tag(cloud: Rig) -> None:
    assert (await cloud.create(image="ubuntu22.04-nvidia-pcie-docker:2023-11-16")).status == 200


async def test_a_deleted_vm_goes_from_get_first_and_from_the_list_later(cloud: Rig) -> None:
    vm_id = await cloud.running()

    begun = await cloud.call("DELETE", f"P/vms/{vm_id}")
    deleting = await cloud.vm(vm_id)
    only_listed = False
    for _ in range(100):
        await cloud.pass_s(0.2)
        gone = (await cloud.call("GET", f"P/vms/{vm_id}")).status == 404
        only_listed |= gone and await cloud.names() == ["as1-llama-7f3a9c"]

    assert begun.body["operation"]["metadata"]["operation_name"] == "DELETE"
    assert deleting["state"] == "STATE_DELETING"
    assert only_listed
    assert await cloud.names() == []
    assert (await cloud.operation(begun))["state"] == "SUCCEEDED"
    assert cloud.machines.told == ["power_off", "destroy"]
    assert (await cloud.call("GET", "P/disks")).body["items"] == []


async def test_a_second_delete_is_a_conflict_and_then_not_found(cloud: Rig) -> None:
    vm_id = await cloud.running()
    await cloud.call("DELETE", f"P/vms/{vm_id}")

    again = await cloud.call("DELETE", f"P/vms/{vm_id}")
    await cloud.pass_s(25)
    late = await cloud.call("DELETE", f"P/vms/{vm_id}")

    assert (again.status, late.status) == (409, 404)


async def test_a_vm_deleted_while_it_is_made_never_runs(cloud: Rig) -> None:
    begun = await cloud.create()
    await cloud.pass_s(3)
    vm_id = begun.body["operation"]["metadata"]["id"]

    assert (await cloud.call("DELETE", f"P/vms/{vm_id}")).status == 200
    await cloud.pass_s(30)

    assert cloud.machines.booted == []
    assert (await cloud.operation(begun))["result"]["code"] == "cancelled"
    assert await cloud.names() == []


async def test_stop_and_start_give_another_address_and_run_the_script_again(cloud: Rig) -> None:
    vm_id = await cloud.running()
    before = cloud.machines.booted[0][0].address

    stopping = await cloud.call("PATCH", f"P/vms/{vm_id}", {"action": "STOP"})
    state_then = (await cloud.vm(vm_id))["state"]
    await cloud.pass_s(91)
    off = await cloud.vm(vm_id)
    starting = await cloud.call("PATCH", f"P/vms/{vm_id}", {"action": "START"})
    await cloud.pass_s(30)

    assert state_then == "STATE_SHUTDOWN"
    assert off["state"] == "STATE_SHUTOFF"
    assert (await cloud.operation(stopping))["state"] == "SUCCEEDED"
    assert (await cloud.operation(starting))["state"] == "SUCCEEDED"
    assert (await cloud.vm(vm_id))["state"] == "STATE_RUNNING"
    assert len(cloud.machines.booted) == 2
    assert cloud.machines.booted[1][0].address != before


async def test_a_vm_stays_shutdown_as_long_as_its_shutdown_script_runs(cloud: Rig) -> None:
    vm_id = await cloud.running()
    cloud.machines.off.clear()

    await cloud.call("PATCH", f"P/vms/{vm_id}", {"action": "STOP"})
    cloud.clock.move(60)
    while_it_runs = (await cloud.vm(vm_id))["state"]
    cloud.machines.off.set()
    await cloud.emulator.settled()
    await cloud.pass_s(1)

    assert while_it_runs == "STATE_SHUTDOWN"
    assert (await cloud.vm(vm_id))["state"] == "STATE_SHUTOFF"


async def test_reset_keeps_the_address_and_boots_again(cloud: Rig) -> None:
    vm_id = await cloud.running()

    begun = await cloud.call("PATCH", f"P/vms/{vm_id}", {"action": "RESET"})
    await cloud.pass_s(10)

    assert (await cloud.operation(begun))["state"] == "SUCCEEDED"
    first, second = (spec.address for spec, _ in cloud.machines.booted)
    assert first == second
    assert cloud.machines.told == ["kill"]


async def test_a_machine_killed_while_it_boots_does_not_run_on(cloud: Rig) -> None:
    begun = await cloud.create()
    cloud.machines.on.clear()
    cloud.clock.move(30)
    vm_id = begun.body["operation"]["metadata"]["id"]
    assert (await cloud.vm(vm_id))["state"] == "STATE_RUNNING"

    await cloud.call("POST", "/_emulator/vms/as1-llama-7f3a9c/kill")
    cloud.machines.on.set()
    await cloud.emulator.settled()

    assert len(cloud.machines.booted) == 1
    assert not cloud.machines.running


@pytest.mark.parametrize("action", ["START", "EXPLODE"])
async def test_an_action_that_does_not_fit_is_a_bad_request(cloud: Rig, action: str) -> None:
    vm_id = await cloud.running()

    assert (await cloud.call("PATCH", f"P/vms/{vm_id}", {"action": action})).status == 400


async def test_a_machine_that_ends_by_itself_is_shut_off(cloud: Rig) -> None:
    vm_id = await cloud.running()

    cloud.machines.running.clear()
    await cloud.pass_s(31)

    assert (await cloud.vm(vm_id))["state"] == "STATE_SHUTOFF"


async def test_a_machine_that_cannot_be_started_has_crashed(cloud: Rig) -> None:
    cloud.machines.fails_to_boot = True

    vm_id = await cloud.running()

    assert (await cloud.vm(vm_id))["state"] == "STATE_CRASHED"
    assert (await cloud.snapshot())["counters"]["machine_failed"] == 1


async def test_the_list_can_be_filtered(cloud: Rig) -> None:
    await cloud.create("one")
    await cloud.create("two", type="l40s-48gb.2x")
    await cloud.pass_s(30)

    async def names(**query: str) -> list[str]:
        items = (await cloud.call("GET", "P/vms", **query)).body["items"]
        return [vm["name"] for vm in items]

    assert await names(names="two,three") == ["two"]
    assert await names(types="l40s-48gb.1x") == ["one"]
    assert await names(locations="us-northcentral1-a") == []
    assert await names(states="STATE_RUNNING") == ["one", "two"]
    assert await names(states="shutoff") == []


async def test_disks_are_attached_at_create_and_outlive_the_vm(cloud: Rig) -> None:
    made = await cloud.call(
        "POST", "P/disks", {"name": "weights", "size": "200GiB", "location": "us-east1-a"}
    )
    disk_id = made.body["operation"]["metadata"]["id"]
    vm_id = await cloud.running(disks=[{"disk_id": disk_id, "mode": "read-only"}])

    disks = (await cloud.vm(vm_id))["disks"]
    await cloud.call("DELETE", f"P/vms/{vm_id}")
    await cloud.pass_s(30)

    assert [disk["attachment_type"] for disk in disks] == ["os", "data"]
    (left,) = (await cloud.call("GET", "P/disks")).body["items"]
    assert (left["id"], left["attached_to"]) == (disk_id, [])


async def test_closing_kills_every_machine(cloud: Rig) -> None:
    await cloud.running()

    await cloud.emulator.close()

    assert cloud.machines.closed
    assert not cloud.machines.running
