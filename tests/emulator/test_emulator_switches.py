"""Every open question about the real cloud, answered both ways."""

from __future__ import annotations

import base64

import pytest

from autoscaler.emulator.switches import CHOICES, QUESTIONS, Switches, parse_switch
from tests.emulator.rig import Opens, Rig, rule

RSA_KEY = "ssh-rsa " + base64.b64encode(b"\x00\x00\x00\x07ssh-rsa\x00\x00\x00\x01\x03").decode()


def test_every_switch_has_a_question_and_its_first_choice_by_default() -> None:
    defaults = Switches().as_dict()

    assert defaults == {name: choices[0] for name, choices in CHOICES.items()}
    assert QUESTIONS.keys() == CHOICES.keys()


@pytest.mark.parametrize(
    ("text", "word"),
    [("meter", "name=value"), ("colour=red", "delete_running"), ("meter=never", "existence")],
)
def test_a_bad_switch_is_refused_with_what_is_allowed(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_switch(text)


async def test_switches_are_told_and_set_while_it_runs(cloud: Rig) -> None:
    told = (await cloud.call("GET", "/_emulator/switches")).body
    await cloud.switch(meter="existence")

    assert told["meter"]["value"] == "running"
    assert told["meter"]["choices"] == ["running", "existence"]
    assert (await cloud.snapshot())["switches"]["meter"] == "existence"
    assert (await cloud.call("PUT", "/_emulator/switches", {"meter": "x"})).status == 400
    assert (await cloud.call("PUT", "/_emulator/switches", ["meter"])).status == 400


@pytest.mark.parametrize(("answer", "status"), [("ok", 200), ("refused", 400)])
async def test_delete_running(cloud: Rig, answer: str, status: int) -> None:
    await cloud.switch(delete_running=answer)
    vm_id = await cloud.running()

    assert (await cloud.call("DELETE", f"P/vms/{vm_id}")).status == status


async def test_delete_running_refused_is_cured_by_a_stop(cloud: Rig) -> None:
    await cloud.switch(delete_running="refused")
    vm_id = await cloud.running()

    await cloud.call("PATCH", f"P/vms/{vm_id}", {"action": "STOP"})
    await cloud.pass_s(91)
    assert (await cloud.call("DELETE", f"P/vms/{vm_id}")).status == 200
    await cloud.pass_s(30)

    assert await cloud.names() == []


@pytest.mark.parametrize(("answer", "status"), [("refused", 409), ("ok", 200)])
async def test_duplicate_names(cloud: Rig, answer: str, status: int) -> None:
    await cloud.switch(duplicate_names=answer)
    await cloud.create("twin")

    assert (await cloud.create("twin")).status == status


@pytest.mark.parametrize(("answer", "statuses"), [("kept", [200, 200]), ("dropped", [200, 404])])
async def test_finished_operations(cloud: Rig, answer: str, statuses: list[int]) -> None:
    await cloud.switch(finished_operations=answer)
    begun = await cloud.create()
    path = f"P/vms/operations/{begun.body['operation']['operation_id']}"
    unfinished = [(await cloud.call("GET", path)).status for _ in range(2)]
    await cloud.pass_s(30)

    read = [(await cloud.call("GET", path)).status for _ in range(2)]

    assert unfinished == [200, 200]
    assert read == statuses
    listed = (await cloud.call("GET", "P/vms/operations")).body["items"]
    assert len(listed) == (1 if answer == "kept" else 0)


async def test_list_whole_and_paged(open_cloud: Opens) -> None:
    cloud = await open_cloud(page_size=2)
    for name in "abcde":
        await cloud.create(name)
    await cloud.pass_s(10)

    whole = (await cloud.call("GET", "P/vms")).body
    await cloud.switch(list="paged")
    pages: list[list[str]] = []
    token = ""
    while token or not pages:
        page = (await cloud.call("GET", "P/vms", next_token=token)).body
        pages.append([vm["name"] for vm in page["items"]])
        token = page["next_page_token"]
    limited = (await cloud.call("GET", "P/vms", limit="3")).body["items"]

    assert "next_page_token" not in whole
    assert len(whole["items"]) == 5
    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    assert len(limited) == 3
    assert (await cloud.call("GET", "P/vms", next_token="rubbish")).status == 400


async def test_a_vm_that_goes_between_two_pages_hides_no_other(open_cloud: Opens) -> None:
    cloud = await open_cloud(page_size=2)
    await cloud.switch(list="paged")
    for name in "abcde":
        await cloud.create(name)
    await cloud.pass_s(30)

    first = (await cloud.call("GET", "P/vms")).body
    await cloud.call("POST", "/_emulator/vms/a/vanish")
    await cloud.call("POST", "/_emulator/vms/b/vanish")
    second = (await cloud.call("GET", "P/vms", next_token=first["next_page_token"])).body
    backwards = (await cloud.call("GET", "P/vms", sort="desc")).body
    rest = await cloud.call("GET", "P/vms", sort="desc", next_token=backwards["next_page_token"])

    assert [vm["name"] for vm in second["items"]] == ["c", "d"]
    assert [vm["name"] for vm in backwards["items"]] == ["e", "d"]
    assert [vm["name"] for vm in rest.body["items"]] == ["c"]


@pytest.mark.parametrize(("answer", "status"), [("ok", 200), ("refused", 400)])
async def test_network_rules(cloud: Rig, answer: str, status: int) -> None:
    await cloud.switch(network_rules=answer)
    vm_id = await cloud.running()

    wide = await cloud.call("POST", "P/vpc/firewall-rules", await rule(cloud))
    narrow = await cloud.call("POST", "P/vpc/firewall-rules", await rule(cloud, to=vm_id))

    assert (wide.status, narrow.status) == (status, 200)


@pytest.mark.parametrize("answer", ["yes", "no"])
async def test_create_id(cloud: Rig, answer: str) -> None:
    await cloud.switch(create_id=answer)

    begun = await cloud.create()

    polled = await cloud.operation(begun)
    assert bool(begun.body["operation"]["metadata"]["id"]) == (answer == "yes")
    assert polled["metadata"]["id"]


@pytest.mark.parametrize(("answer", "bills_while_off"), [("running", False), ("existence", True)])
async def test_meter(cloud: Rig, answer: str, bills_while_off: bool) -> None:
    await cloud.switch(meter=answer)
    vm_id = await cloud.running()
    await cloud.call("PATCH", f"P/vms/{vm_id}", {"action": "STOP"})
    await cloud.pass_s(91)

    async def vm_usd() -> float:
        (vm,) = [one for one in (await cloud.bill())["items"] if one["kind"] == "vm"]
        return float(vm["usd"])

    before = await vm_usd()
    await cloud.pass_s(3600)

    assert (await vm_usd() > before) is bills_while_off
    kinds = {one["kind"] for one in (await cloud.bill())["still_billing"]}
    assert kinds == ({"vm", "disk"} if bills_while_off else {"disk"})


@pytest.mark.parametrize("answer", ["http", "operation"])
async def test_quota(cloud: Rig, answer: str) -> None:
    await cloud.switch(quota=answer)
    await cloud.call("PUT", "/_emulator/quota", {"family": "l40s", "count": 1})
    await cloud.create("first")

    second = await cloud.create("second")
    other_family = await cloud.create("third", type="a100-80gb.1x")
    await cloud.pass_s(10)

    assert other_family.status == 200
    if answer == "http":
        assert second.status == 403
        assert "quota" in second.body["message"]
    else:
        assert "quota" in (await cloud.operation(second))["result"]["code"]


@pytest.mark.parametrize(("answer", "status"), [("ok", 200), ("refused", 400)])
async def test_ed25519_keys(cloud: Rig, answer: str, status: int) -> None:
    await cloud.switch(ed25519_keys=answer)

    assert (await cloud.create("a")).status == status
    assert (await cloud.create("b", ssh_public_key=RSA_KEY)).status == 200


@pytest.mark.parametrize(("answer", "factor"), [("gpu_hours", 2), ("vm_hours", 1)])
async def test_usage_quantity(cloud: Rig, answer: str, factor: int) -> None:
    await cloud.switch(usage_quantity=answer)
    vm_id = await cloud.running(type="l40s-48gb.2x")
    cloud.clock.move(3600)
    await cloud.call("DELETE", f"P/vms/{vm_id}")
    cloud.clock.move(24 * 3600)

    items = (await cloud.call("GET", "P/usage")).body["items"]

    (vm,) = [item for item in items if item["resource_type"] == "l40s-48gb.2x"]
    assert vm["billable_metric"] == answer.replace("_", "-")
    assert vm["quantity"] == pytest.approx(factor, rel=0.02)
