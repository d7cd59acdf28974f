"""Every fault, seen by the caller who suffers it."""

from __future__ import annotations

import json

import aiohttp
import pytest

from autoscaler.emulator.faults import KINDS, FaultInvalid, Stage, parse_fault
from autoscaler.emulator.machine import BOOT_FAULTS
from tests.emulator.rig import Opens, Rig, order

NAME = "as1-llama-7f3a9c"


# -- orders


def test_an_order_reads_as_the_command_line_writes_it() -> None:
    fault = parse_fault("status@create_vm:code=504,after=1,count=2,name=as1-.*")

    assert (fault.kind, fault.call, fault.count, fault.name) == ("status", "create_vm", 2, "as1-.*")
    assert (fault.option("code"), fault.option("after"), fault.option("retry_after")) == (504, 1, 0)


def test_an_order_strikes_once_unless_it_has_a_rate() -> None:
    assert parse_fault("hang").count == 1
    assert parse_fault("hang:rate=0.5").count is None
    assert parse_fault("hang:rate=0.5,count=3").count == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("explode", "drop_before"),
        ("hang:colour=red", "rate"),
        ("hang:rate=2", "rate"),
        ("hang:rate=0", "rate"),
        ("hang:count=0", "count"),
        ("hang:count=many", "count"),
        ("hang:count", "key=value"),
        ("delay:delay_s=-1", "delay_s"),
        ("status:code=9999", "code"),
        ("hang:name=(", "name"),
    ],
)
def test_a_bad_order_is_refused_with_what_is_allowed(text: str, word: str) -> None:
    with pytest.raises(FaultInvalid, match=word):
        parse_fault(text)


async def test_orders_are_listed_struck_counted_and_taken_back(cloud: Rig) -> None:
    added = await cloud.call("POST", "/_emulator/faults", {"kind": "status", "code": 500})
    other = await cloud.call("POST", "/_emulator/faults", {"kind": "hang", "call": "specs"})
    await cloud.call("GET", "P/vms")
    told = (await cloud.call("GET", "/_emulator/faults")).body
    taken_back = await cloud.call("DELETE", f"/_emulator/faults/{other.body['id']}")

    assert added.status == 201
    assert [fault["kind"] for fault in told["faults"]] == ["hang"]
    assert told["struck"] == {"status": 1}
    assert taken_back.status == 200
    assert (await cloud.call("GET", "/_emulator/faults")).body["faults"] == []
    assert (await cloud.call("DELETE", "/_emulator/faults/99")).status == 404
    assert (await cloud.call("POST", "/_emulator/faults", {"kind": "nope"})).status == 400


async def test_every_kind_is_described(cloud: Rig) -> None:
    told = (await cloud.call("GET", "/_emulator/faults/kinds")).body

    assert told.keys() == KINDS.keys()
    assert {kind for kind in KINDS if KINDS[kind].stage is Stage.BOOT} >= BOOT_FAULTS


async def test_a_fault_aims_at_one_call_and_one_name(cloud: Rig) -> None:
    await cloud.fault("status@create_vm:code=500,name=bad-.*,rate=1")

    assert (await cloud.create("good-1")).status == 200
    assert (await cloud.create("bad-1")).status == 500
    assert (await cloud.create("bad-2")).status == 500
    assert (await cloud.call("GET", "P/vms")).status == 200


async def test_a_rate_strikes_about_that_often_and_a_seed_repeats_it(open_cloud: Opens) -> None:
    runs = []
    for _ in range(2):
        cloud = await open_cloud()
        await cloud.fault("status:code=500,rate=0.5")
        runs.append([(await cloud.call("GET", "P/specs")).status for _ in range(40)])

    assert runs[0] == runs[1]
    assert 8 <= runs[0].count(500) <= 32


# -- around any call


async def test_drop_before_cuts_the_connection_and_nothing_has_happened(cloud: Rig) -> None:
    await cloud.fault("drop_before@create_vm")

    with pytest.raises(aiohttp.ClientError):
        await cloud.create()
    await cloud.pass_s(10)

    assert await cloud.names() == []


async def test_drop_after_loses_the_answer_of_what_has_happened(cloud: Rig) -> None:
    await cloud.fault("drop_after@create_vm")

    with pytest.raises(aiohttp.ClientError):
        await cloud.create()
    await cloud.pass_s(10)

    assert await cloud.names() == [NAME]
    (operation,) = (await cloud.call("GET", "P/vms/operations")).body["items"]
    assert operation["metadata"]["request"]["name"] == NAME


@pytest.mark.parametrize("kind", ["delay:delay_s=3", "delay:delay_s=3,after=1", "hang"])
async def test_a_slow_answer_outlasts_an_impatient_caller(cloud: Rig, kind: str) -> None:
    await cloud.fault(kind)
    timeout = aiohttp.ClientTimeout(total=0.05)
    headers = {"Authorization": "Bearer made-up-access-key"}
    url = f"{cloud.base}/v0.1/projects/{cloud.project}/vms"

    with pytest.raises(TimeoutError):
        async with cloud.client.post(url, json=order(), headers=headers, timeout=timeout):
            pass
    created_by_then = "vm_created" in (await cloud.snapshot())["counters"]
    await cloud.pass_s(700)

    assert created_by_then == (kind != "delay:delay_s=3")
    assert (await cloud.snapshot())["counters"]["vm_created"] == 1


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (401, {"status": 401, "message": "Unauthorized"}),
        (402, {"message": "no valid card", "url": "https://billing.example/card"}),
        (429, None),
        (500, None),
        (502, b"upstream error\n"),
        (504, b"upstream error\n"),
    ],
)
async def test_a_status_comes_in_the_form_that_belongs_to_it(
    cloud: Rig, code: int, body: object
) -> None:
    await cloud.fault(f"status:code={code},retry_after=7")

    answer = await cloud.create()
    await cloud.pass_s(10)

    assert answer.status == code
    assert answer.headers["Retry-After"] == "7"
    assert answer.body == body or body is None
    assert await cloud.names() == []


async def test_a_status_may_come_after_the_effect(cloud: Rig) -> None:
    await cloud.fault("status@create_vm:code=504,after=1")

    answer = await cloud.create()
    await cloud.pass_s(10)

    assert answer.status == 504
    assert await cloud.names() == [NAME]


async def test_a_gateway_answers_in_html(cloud: Rig) -> None:
    await cloud.fault("html:code=200")

    answer = await cloud.call("GET", "P/vms")

    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.body.startswith(b"<html>")


async def test_json_is_cut_in_half_after_the_effect(cloud: Rig) -> None:
    await cloud.fault("cut_json@create_vm")

    with pytest.raises(json.JSONDecodeError):
        await cloud.create()
    await cloud.pass_s(10)

    assert await cloud.names() == [NAME]


@pytest.mark.parametrize("gzip", [0, 1])
async def test_a_huge_body_comes_plain_or_inflated(cloud: Rig, gzip: int) -> None:
    await cloud.fault(f"huge:size_mb=2,gzip={gzip}")

    answer = await cloud.call("GET", "P/vms")

    assert len(answer.body["items"][0]) == 2_000_000


async def test_a_replayed_create_makes_two_where_names_may_be_double(cloud: Rig) -> None:
    await cloud.switch(duplicate_names="ok")
    await cloud.fault("replay@create_vm")

    await cloud.create()
    await cloud.pass_s(10)

    assert await cloud.names() == [NAME, NAME]


async def test_a_late_create_happens_after_the_caller_gave_up(cloud: Rig) -> None:
    await cloud.fault("late@create_vm:late_s=300")

    with pytest.raises(aiohttp.ClientError):
        await cloud.create()
    await cloud.pass_s(290)
    before = await cloud.names()
    await cloud.pass_s(30)

    assert before == []
    assert await cloud.names() == [NAME]


# -- lists


async def test_a_stale_list_is_the_one_from_when_the_fault_was_ordered(cloud: Rig) -> None:
    await cloud.running("old")
    await cloud.fault("list_stale:count=2")
    vm_id = await cloud.running("new")

    assert await cloud.names() == ["old"]
    assert await cloud.names() == ["old"]
    assert await cloud.names() == ["old", "new"]
    assert (await cloud.vm(vm_id))["name"] == "new"


async def test_a_list_may_be_partial_or_empty(cloud: Rig) -> None:
    for name in ("a", "b", "c", "d"):
        await cloud.create(name)
    await cloud.pass_s(10)

    await cloud.fault("list_partial:keep=0.5")
    await cloud.fault("list_empty")

    assert await cloud.names() == []
    assert await cloud.names() == ["a", "b"]
    assert await cloud.names() == ["a", "b", "c", "d"]


async def test_a_page_token_may_lead_in_circles(open_cloud: Opens) -> None:
    cloud = await open_cloud(page_size=1)
    await cloud.switch(list="paged")
    for name in ("a", "b"):
        await cloud.create(name)
    await cloud.pass_s(10)
    await cloud.fault("list_loops:rate=1")

    first = (await cloud.call("GET", "P/vms")).body
    second = (await cloud.call("GET", "P/vms", next_token=first["next_page_token"])).body

    assert first == second


async def test_a_flicker_hides_one_vm_once(cloud: Rig) -> None:
    vm_id = await cloud.running("a")
    await cloud.running("b")
    await cloud.fault("flicker@get_vm")
    await cloud.fault("flicker@list_vms:name=a")

    assert (await cloud.call("GET", f"P/vms/{vm_id}")).status == 404
    assert (await cloud.call("GET", f"P/vms/{vm_id}")).status == 200
    assert await cloud.names() == ["b"]
    assert await cloud.names() == ["a", "b"]


async def test_a_state_may_be_unknown_and_an_item_malformed(cloud: Rig) -> None:
    vm_id = await cloud.running()
    await cloud.fault("odd_state@get_vm")
    await cloud.fault("bad_item")

    assert (await cloud.vm(vm_id))["state"] == "STATE_FROBNICATING"
    items = (await cloud.call("GET", "P/vms")).body["items"]
    assert len(items) == 2
    assert any(item["id"] is None for item in items)


# -- creates


@pytest.mark.parametrize(
    ("fault", "code"), [("out_of_stock", "out_of_stock"), ("create_fails", "internal_error")]
)
async def test_a_create_may_fail_after_it_was_accepted(cloud: Rig, fault: str, code: str) -> None:
    await cloud.fault(fault)

    begun = await cloud.create()
    await cloud.pass_s(30)

    ended = await cloud.operation(begun)
    assert (begun.status, ended["state"], ended["result"]["code"]) == (200, "FAILED", code)
    assert "message" in ended["result"]
    assert await cloud.names() == []
    assert (await cloud.bill())["items"] == []


async def test_a_rival_takes_what_was_listed_and_gives_it_back(cloud: Rig) -> None:
    await cloud.fault("rival:hold_s=100")

    async def is_listed() -> bool:
        query = {"product_name": "l40s-48gb.1x", "location": "us-east1-a"}
        (item,) = (await cloud.call("GET", "P/availabilities", **query)).body["items"]
        return bool(item["available"])

    listed_before = await is_listed()
    begun = await cloud.create()
    await cloud.pass_s(10)
    listed_then = await is_listed()
    await cloud.pass_s(100)

    assert (listed_before, listed_then, await is_listed()) == (True, False, True)
    assert (await cloud.operation(begun))["result"]["code"] == "out_of_stock"


async def test_a_failed_create_may_leave_a_vm_that_bills(cloud: Rig) -> None:
    await cloud.fault("failed_vm_left")

    begun = await cloud.create()
    await cloud.pass_s(30)

    assert (await cloud.operation(begun))["state"] == "FAILED"
    assert await cloud.names() == [NAME]
    assert {one["kind"] for one in (await cloud.bill())["still_billing"]} == {"vm", "disk"}


async def test_a_succeeded_create_may_have_made_nothing(cloud: Rig) -> None:
    await cloud.fault("no_vm")

    begun = await cloud.create()
    await cloud.pass_s(30)

    assert (await cloud.operation(begun))["state"] == "SUCCEEDED"
    assert await cloud.names() == []
    assert (await cloud.bill())["still_billing"] == []


async def test_an_operation_may_be_stuck_while_its_vm_runs(cloud: Rig) -> None:
    await cloud.fault("operation_stuck@create_vm")

    begun = await cloud.create()
    await cloud.pass_s(300)

    assert (await cloud.operation(begun))["state"] == "IN_PROGRESS"
    assert (await cloud.vm(begun.body["operation"]["metadata"]["id"]))["state"] == "STATE_RUNNING"


async def test_a_vm_may_be_stuck_in_defining_and_can_still_be_deleted(cloud: Rig) -> None:
    await cloud.fault("stuck_defining")

    vm_id = await cloud.running()
    await cloud.pass_s(300)
    stuck = (await cloud.vm(vm_id))["state"]
    await cloud.call("DELETE", f"P/vms/{vm_id}")
    await cloud.pass_s(30)

    assert stuck == "STATE_DEFINING"
    assert await cloud.names() == []


async def test_a_create_may_be_slow(cloud: Rig) -> None:
    await cloud.fault("slow_create:factor=10")

    vm_id = await cloud.running()
    after_30_s = (await cloud.vm(vm_id))["state"]
    await cloud.pass_s(200)

    assert after_30_s != "STATE_RUNNING"
    assert (await cloud.vm(vm_id))["state"] == "STATE_RUNNING"


async def test_lists_may_lag_far_behind_a_create(cloud: Rig) -> None:
    await cloud.fault("list_lag:lag_s=300")

    begun = await cloud.create()
    await cloud.pass_s(290)
    succeeded = (await cloud.operation(begun))["state"]
    seen = await cloud.names()
    await cloud.pass_s(20)

    assert (succeeded, seen) == ("SUCCEEDED", [])
    assert await cloud.names() == [NAME]


# -- boots


@pytest.mark.parametrize("kind", sorted(BOOT_FAULTS))
async def test_a_boot_fault_reaches_the_machine_once(cloud: Rig, kind: str) -> None:
    await cloud.fault(f"{kind}:name=sick")

    for name in ("well", "sick", "after"):
        await cloud.running(name)

    struck = {spec.name: spec.boot_faults for spec, _ in cloud.machines.booted}
    assert struck == {"well": frozenset(), "sick": {kind}, "after": frozenset()}


async def test_a_boot_may_be_slow(cloud: Rig) -> None:
    await cloud.fault("slow_boot:factor=10")

    await cloud.running()

    ((_, ssh_after_s),) = cloud.machines.booted
    assert 200 <= ssh_after_s <= 600


async def test_a_vm_may_run_and_never_have_an_address(cloud: Rig) -> None:
    await cloud.fault("no_address")

    vm_id = await cloud.running()
    await cloud.pass_s(300)

    vm = await cloud.vm(vm_id)
    assert vm["state"] == "STATE_RUNNING"
    assert vm["network_interfaces"][0]["ips"][0]["public_ipv4"]["address"] == ""


@pytest.mark.parametrize("reused", [False, True])
async def test_an_address_is_reused_only_by_fault(cloud: Rig, reused: bool) -> None:
    first = await cloud.running("first")
    await cloud.call("DELETE", f"P/vms/{first}")
    await cloud.pass_s(30)
    if reused:
        await cloud.fault("address_reused")

    await cloud.running("second")

    addresses = {spec.address for spec, _ in cloud.machines.booted}
    assert len(addresses) == (1 if reused else 2)


# -- a running VM


@pytest.mark.parametrize(
    ("kind", "state"), [("crash", "STATE_CRASHED"), ("power_off", "STATE_SHUTOFF")]
)
async def test_a_running_vm_may_die(cloud: Rig, kind: str, state: str) -> None:
    await cloud.fault(f"{kind}:after_s=60")

    vm_id = await cloud.running()
    alive = (await cloud.vm(vm_id))["state"]
    await cloud.pass_s(60)

    assert (alive, (await cloud.vm(vm_id))["state"]) == ("STATE_RUNNING", state)
    assert not cloud.machines.running


async def test_a_running_vm_may_vanish(cloud: Rig) -> None:
    await cloud.fault("vanish:after_s=60")

    vm_id = await cloud.running()
    await cloud.pass_s(60)

    assert (await cloud.call("GET", f"P/vms/{vm_id}")).status == 404
    assert await cloud.names() == []
    assert (await cloud.bill())["still_billing"] == []
    assert not cloud.machines.running


@pytest.mark.parametrize("action", ["kill", "vanish", "power_off"])
async def test_a_vm_can_be_struck_by_hand(cloud: Rig, action: str) -> None:
    await cloud.running()

    struck = await cloud.call("POST", f"/_emulator/vms/{NAME}/{action}")
    await cloud.emulator.settled()

    assert struck.status == 200
    assert not cloud.machines.running
    assert (await cloud.call("POST", f"/_emulator/vms/nobody/{action}")).status == 404
    assert (await cloud.call("POST", f"/_emulator/vms/{NAME}/tickle")).status == 404


# -- stops and deletes


async def test_a_stop_may_hang_in_shutdown_and_the_vm_can_be_deleted(cloud: Rig) -> None:
    await cloud.fault("stuck_shutdown")
    vm_id = await cloud.running()

    begun = await cloud.call("PATCH", f"P/vms/{vm_id}", {"action": "STOP"})
    await cloud.pass_s(300)
    stuck = (await cloud.vm(vm_id))["state"]
    state_of_operation = (await cloud.operation(begun))["state"]
    await cloud.call("DELETE", f"P/vms/{vm_id}")
    await cloud.pass_s(30)

    assert (stuck, state_of_operation) == ("STATE_SHUTDOWN", "IN_PROGRESS")
    assert await cloud.names() == []


@pytest.mark.parametrize(
    ("kind", "ends"), [("delete_ignored", "SUCCEEDED"), ("delete_fails", "FAILED")]
)
async def test_a_delete_may_be_answered_and_the_vm_stays(cloud: Rig, kind: str, ends: str) -> None:
    await cloud.fault(kind)
    vm_id = await cloud.running()

    begun = await cloud.call("DELETE", f"P/vms/{vm_id}")
    await cloud.pass_s(60)
    stays = (await cloud.vm(vm_id))["state"]
    await cloud.call("DELETE", f"P/vms/{vm_id}")
    await cloud.pass_s(30)

    assert (await cloud.operation(begun))["state"] == ends
    assert stays == "STATE_RUNNING"
    assert await cloud.names() == []


async def test_an_os_disk_may_be_left_and_bills_on(cloud: Rig) -> None:
    await cloud.fault("os_disk_left")
    vm_id = await cloud.running()

    await cloud.call("DELETE", f"P/vms/{vm_id}")
    await cloud.pass_s(30)

    (disk,) = (await cloud.call("GET", "P/disks")).body["items"]
    assert disk["name"] == f"OS-disk-{vm_id}"
    assert [one["kind"] for one in (await cloud.bill())["still_billing"]] == ["disk"]
    assert (await cloud.call("DELETE", f"P/disks/{disk['id']}")).status == 200
    assert (await cloud.bill())["still_billing"] == []


# -- stock and clock


async def test_stock_may_be_told_wrong_either_way(cloud: Rig) -> None:
    await cloud.fault("stock_said:type=a100-80gb.8x,rate=1")
    await cloud.fault("stock_denied:type=l40s-48gb.1x,rate=1")

    items = (await cloud.call("GET", "P/availabilities")).body["items"]
    begun = await cloud.create(type="a100-80gb.8x")
    await cloud.pass_s(10)

    told = {(item["type"], item["location"]): item["available"] for item in items}
    assert told["a100-80gb.8x", "us-east1-a"] is True
    assert told["l40s-48gb.1x", "us-east1-a"] is False
    assert (await cloud.operation(begun))["result"]["code"] == "out_of_stock"
    assert (await cloud.create()).status == 200


async def test_a_wrong_clock_shifts_every_time_told_while_it_stands(cloud: Rig) -> None:
    vm_id = await cloud.running()

    await cloud.fault("clock_skew:skew_s=-3600")
    wrong = await cloud.vm(vm_id)
    again = await cloud.vm(vm_id)
    await cloud.call("DELETE", "/_emulator/faults")

    assert wrong["created_at"] == again["created_at"] == "2026-02-03T09:15:00Z"
    assert (await cloud.vm(vm_id))["created_at"] == "2026-02-03T10:15:00Z"
