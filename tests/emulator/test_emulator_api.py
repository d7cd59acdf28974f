"""The other endpoints: account, catalogue, disks, network, usage; and the emulator's own."""

from __future__ import annotations

from typing import Any

import pytest

from autoscaler.emulator.settings import Project
from tests.emulator.rig import ACCESS_KEY, PASSWORD, Opens, Rig, rule

EMAIL = "operator@example.com"


async def sign_in(cloud: Rig, password: str = PASSWORD) -> tuple[int, Any]:
    body = {"grant_type": "password", "email": EMAIL, "password": password}
    answer = await cloud.call("POST", "/auth/token", body, key=None)
    return answer.status, answer.body


async def refresh(cloud: Rig, token: str) -> tuple[int, Any]:
    body = {"grant_type": "refresh_token", "refresh_token": token}
    answer = await cloud.call("POST", "/auth/token", body, key=None)
    return answer.status, answer.body


# -- who may call


@pytest.mark.parametrize("key", [None, "wrong"])
async def test_nothing_opens_without_a_credential(cloud: Rig, key: str | None) -> None:
    answer = await cloud.call("GET", "P/vms", key=key)

    assert answer.status == 401
    assert answer.body == {"status": 401, "message": "Unauthorized"}


async def test_an_unknown_route_is_not_implemented(cloud: Rig) -> None:
    for method, path in (("GET", "/nothing"), ("PUT", "P/vms"), ("GET", "P/vms/x/consoles")):
        answer = await cloud.call(method, path)
        assert (answer.status, answer.body["status"]) == (501, 501)


async def test_the_password_opens_a_session_with_the_documented_shape(cloud: Rig) -> None:
    status, token = await sign_in(cloud)

    assert status == 200
    assert token.keys() == {"access_token", "refresh_token", "expires_in", "token_type"}
    assert (token["expires_in"], token["token_type"]) == (3600, "bearer")
    assert (await cloud.call("GET", "P/vms", key=token["access_token"])).status == 200
    assert (await sign_in(cloud, "wrong"))[0] == 401


async def test_a_grant_may_come_as_a_form(cloud: Rig) -> None:
    form = {"grant_type": "password", "email": EMAIL, "password": PASSWORD}
    async with cloud.client.post(f"{cloud.base}/v0.1/auth/token", data=form) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("body", [{}, {"grant_type": "magic"}, ["grant_type"]])
async def test_an_odd_grant_is_a_bad_request(cloud: Rig, body: object) -> None:
    assert (await cloud.call("POST", "/auth/token", body, key=None)).status == 400


async def test_an_access_token_expires(cloud: Rig) -> None:
    _, token = await sign_in(cloud)

    cloud.clock.move(3599)
    in_time = await cloud.call("GET", "P/vms", key=token["access_token"])
    cloud.clock.move(2)
    too_late = await cloud.call("GET", "P/vms", key=token["access_token"])

    assert (in_time.status, too_late.status) == (200, 401)


async def test_a_token_tells_its_life_on_the_callers_clock(open_cloud: Opens) -> None:
    cloud = await open_cloud(time_factor=60.0)

    assert (await sign_in(cloud))[1]["expires_in"] == 60


async def test_refresh_tokens_rotate_and_late_reuse_ends_the_session(cloud: Rig) -> None:
    _, first = await sign_in(cloud)

    status, second = await refresh(cloud, first["refresh_token"])
    cloud.clock.move(5)
    in_grace, _ = await refresh(cloud, first["refresh_token"])
    cloud.clock.move(10)
    reused, _ = await refresh(cloud, first["refresh_token"])
    after, _ = await refresh(cloud, second["refresh_token"])

    assert (status, in_grace, reused, after) == (200, 200, 401, 401)
    assert (await cloud.call("GET", "P/vms", key=second["access_token"])).status == 401
    assert (await sign_in(cloud))[0] == 200


async def test_credentials_can_be_revoked_restored_and_expired(cloud: Rig) -> None:
    _, token = await sign_in(cloud)

    await cloud.call("POST", "/_emulator/credentials/revoke")
    revoked = (await cloud.call("GET", "P/vms")).status
    await cloud.call("POST", "/_emulator/credentials/restore")
    restored = (await cloud.call("GET", "P/vms")).status
    await cloud.call("POST", "/_emulator/credentials/expire")
    expired = (await cloud.call("GET", "P/vms", key=token["access_token"])).status

    assert (revoked, restored, expired) == (401, 200, 401)
    assert (await refresh(cloud, token["refresh_token"]))[0] == 200
    assert (await cloud.call("POST", "/_emulator/credentials/frame")).status == 404


async def test_a_key_opens_its_own_project_only(open_cloud: Opens) -> None:
    other = Project(id="11111111-2222-4333-8444-555555555555", name="research", upstream_id="u2")
    cloud = await open_cloud(projects=(Project(), other))
    await cloud.running("mine")
    _, token = await sign_in(cloud)

    assert (await cloud.call("GET", f"/projects/{other.id}/vms")).status == 403
    assert (await cloud.call("GET", "/projects/none/vms")).status == 404
    by_session = await cloud.call("GET", f"/projects/{other.id}/vms", key=token["access_token"])
    assert by_session.body == {"items": []}
    by_key, by_token = [
        (await cloud.call("GET", "/projects", key=key)).body
        for key in (ACCESS_KEY, token["access_token"])
    ]
    assert [one["name"] for one in by_key] == ["serving"]
    assert [one["name"] for one in by_token] == ["serving", "research"]


async def test_organizations_and_projects_are_bare_arrays(cloud: Rig) -> None:
    (organization,) = (await cloud.call("GET", "/organizations")).body
    (project,) = (await cloud.call("GET", "/projects")).body
    billing = await cloud.call("GET", f"/organizations/{organization['id']}/billing")

    assert organization.keys() == {"id", "name", "stripe_customer_id"}
    assert project.keys() == {"id", "name", "version", "organization_id"}
    assert project["organization_id"] == organization["id"]
    assert billing.body["url"].startswith("https://")
    assert (await cloud.call("GET", "/organizations/other/billing")).status == 404


# -- what may be rented


async def test_availabilities_are_filtered_by_comma_lists(cloud: Rig) -> None:
    query = {"product_name": "l40s-48gb.1x,a100-80gb.8x", "location": "us-east1-a"}

    items = (await cloud.call("GET", "P/availabilities", **query)).body["items"]

    assert items == [
        {"type": "a100-80gb.8x", "location": "us-east1-a", "available": False},
        {"type": "l40s-48gb.1x", "location": "us-east1-a", "available": True},
    ]


async def test_specs_have_the_documented_shape_and_lack_the_sxm_type(cloud: Rig) -> None:
    specs = {one["product_name"]: one for one in (await cloud.call("GET", "P/specs")).body["items"]}
    offered = (await cloud.call("GET", "P/availabilities")).body["items"]

    assert specs["l40s-48gb.1x"] == {
        "product_name": "l40s-48gb.1x",
        "description": "NVIDIA L40S",
        "cpu_cores": 8,
        "cpu_type": "vCPU",
        "memory_gb": 147,
        "memory_type": "ram",
        "disk_gb": 128,
        "disk_type": "SSD",
        "num_gpu": 1,
        "gpu_type": "L40S-48GB",
    }
    assert specs["c1a.2x"]["num_gpu"] == 0
    assert "a100-80gb-sxm-ib.8x" in {one["type"] for one in offered} - specs.keys()
    east = (await cloud.call("GET", "P/specs", location="us-east1-a")).body["items"]
    assert "a40.1x" not in {one["product_name"] for one in east}


async def test_images_and_locations(cloud: Rig) -> None:
    images = (await cloud.call("GET", "P/images")).body["items"]
    one = await cloud.call("GET", f"P/images/{images[0]['id']}")

    assert images[0].keys() == {"id", "name", "description", "tags", "created_at", "locations"}
    assert one.body == images[0]
    assert (await cloud.call("GET", "P/images/none")).status == 404
    query = {"product_group": "a100-80gb-sxm-ib"}
    (for_sxm,) = (await cloud.call("GET", "P/images", **query)).body["items"]
    assert "sxm" in for_sxm["name"]
    locations = (await cloud.call("GET", "P/locations")).body
    assert locations == {"items": ["us-east1-a", "us-northcentral1-a", "us-southcentral1-a"]}


async def test_stock_goes_down_and_comes_back(cloud: Rig) -> None:
    stock: dict[str, object] = {"type": "l40s-48gb.1x", "location": "us-east1-a", "count": 1}
    await cloud.call("PUT", "/_emulator/stock", stock)
    first = await cloud.running("first")

    second = await cloud.create("second")
    await cloud.pass_s(10)
    await cloud.call("DELETE", f"P/vms/{first}")
    await cloud.pass_s(30)
    third = await cloud.create("third")
    await cloud.pass_s(30)

    states = [(await cloud.operation(one))["state"] for one in (second, third)]
    assert states == ["FAILED", "SUCCEEDED"]
    for change in ({"type": "x"}, {"location": "x"}, {"count": -1}):
        assert (await cloud.call("PUT", "/_emulator/stock", {**stock, **change})).status == 400
    for body in ({"family": "x", "count": 1}, {"family": "l40s"}):
        assert (await cloud.call("PUT", "/_emulator/quota", body)).status == 400


# -- operations


async def test_operations_are_listed_by_resource_state_and_time(cloud: Rig) -> None:
    begun = await cloud.create("first")
    await cloud.pass_s(60)
    await cloud.create("second")
    vm_id = begun.body["operation"]["metadata"]["id"]

    async def names(**query: str) -> list[str]:
        items = (await cloud.call("GET", "P/vms/operations", **query)).body["items"]
        return [item["metadata"]["request"]["name"] for item in items]

    assert await names() == ["first", "second"]
    assert await names(resource_id=vm_id) == ["first"]
    assert await names(state="IN_PROGRESS") == ["second"]
    assert await names(lower_time_bound="2026-02-03T10:15:30Z") == ["second"]
    bad = await cloud.call("GET", "P/vms/operations", lower_time_bound="yesterday")
    assert bad.status == 400
    assert (await cloud.call("GET", "P/vms/operations/none")).status == 404


async def test_an_operation_stands_in_its_own_list_only(cloud: Rig) -> None:
    begun = await cloud.create()
    operation_id = begun.body["operation"]["operation_id"]

    assert (await cloud.call("GET", f"P/disks/operations/{operation_id}")).status == 404
    assert (await cloud.call("GET", "P/disks/operations")).body == {"items": []}


# -- disks


async def test_a_disks_life(cloud: Rig) -> None:
    body = {"name": "weights", "size": "200GiB", "location": "us-east1-a", "block_size": 4096}
    made = await cloud.call("POST", "P/disks", body)
    disk_id = made.body["operation"]["metadata"]["id"]
    operation_path = f"P/disks/operations/{made.body['operation']['operation_id']}"
    vm_id = await cloud.running()

    attachment = {"disk_id": disk_id, "mode": "read-write", "attachment_type": "data"}
    path = f"P/vms/{vm_id}"
    attached = await cloud.call("POST", f"{path}/attach-disks", {"attach_disks": [attachment]})
    twice = await cloud.call("POST", f"{path}/attach-disks", {"attach_disks": [attachment]})
    in_use = await cloud.call("DELETE", f"P/disks/{disk_id}")
    on_vm = len((await cloud.vm(vm_id))["disks"])
    detached = await cloud.call("POST", f"{path}/detach-disks", {"detach_disks": [disk_id]})
    grown = await cloud.call("PATCH", f"P/disks/{disk_id}", {"size": "1TiB"})
    shrunk = await cloud.call("PATCH", f"P/disks/{disk_id}", {"size": "1GiB"})
    disk = (await cloud.call("GET", f"P/disks/{disk_id}")).body
    deleted = await cloud.call("DELETE", f"P/disks/{disk_id}")

    assert (await cloud.call("GET", operation_path)).body["state"] == "SUCCEEDED"
    assert [attached.status, detached.status, grown.status, deleted.status] == [200] * 4
    assert [twice.status, in_use.status, shrunk.status] == [400] * 3
    assert on_vm == 2
    assert (disk["size"], disk["attached_to"]) == ("1TiB", [])
    assert (await cloud.call("GET", f"P/disks/{disk_id}")).status == 404
    none = {"detach_disks": [disk_id]}
    assert (await cloud.call("POST", f"{path}/detach-disks", none)).status == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"size": "0GiB"}, 400),
        ({"size": "11TiB"}, 400),
        ({"size": "200"}, 400),
        ({"type": "floppy"}, 400),
        ({"location": "mars"}, 400),
        ({"name": "taken"}, 409),
    ],
)
async def test_a_wrong_disk_is_refused(cloud: Rig, change: dict[str, str], status: int) -> None:
    body = {"name": "new", "size": "10GiB", "location": "us-east1-a"}
    await cloud.call("POST", "P/disks", {**body, "name": "taken"})

    assert (await cloud.call("POST", "P/disks", {**body, **change})).status == status


async def test_a_disk_of_another_place_cannot_be_attached(cloud: Rig) -> None:
    body = {"name": "far", "size": "10GiB", "location": "us-northcentral1-a"}
    made = await cloud.call("POST", "P/disks", body)
    disk_id = made.body["operation"]["metadata"]["id"]

    assert (await cloud.create(disks=[{"disk_id": disk_id}])).status == 400
    assert (await cloud.create(disks=[{"disk_id": "none"}])).status == 404
    too_many = [{"disk_id": str(number)} for number in range(17)]
    assert (await cloud.create(disks=too_many)).status == 400


# -- the network


async def test_a_network_has_a_subnet_in_each_location(cloud: Rig) -> None:
    (network,) = (await cloud.call("GET", "P/vpc/networks")).body["items"]
    subnets = (await cloud.call("GET", "P/vpc/subnets")).body["items"]
    vm = await cloud.vm(await cloud.running())

    assert network.keys() == {"id", "name", "cidr", "gateway", "subnets"}
    assert network["subnets"] == [subnet["id"] for subnet in subnets]
    assert subnets[0].keys() == {"id", "name", "cidr", "location", "vpc_network_id"}
    assert vm["network_interfaces"][0]["network"] == network["id"]


async def allows(cloud: Rig, port: int = 8000, source: str = "198.51.100.7") -> bool:
    query = {"vm": "as1-llama-7f3a9c", "port": str(port), "source": source}
    answer = await cloud.call("GET", "/_emulator/firewall/allows", **query)
    assert answer.status == 200, answer.body
    return bool(answer.body["allows"])


async def test_a_serving_port_is_closed_until_its_rule_is_active(cloud: Rig) -> None:
    await cloud.running()
    made = await cloud.call("POST", "P/vpc/firewall-rules", await rule(cloud))
    rule_id = made.body["operation"]["metadata"]["id"]

    pending = await allows(cloud)
    await cloud.pass_s(3)
    told = (await cloud.call("GET", f"P/vpc/firewall-rules/{rule_id}")).body

    assert not pending
    assert told["state"] == "active"
    assert await allows(cloud)
    assert not await allows(cloud, port=8001)
    assert not await allows(cloud, source="198.51.100.8")
    assert await allows(cloud, port=22, source="203.0.113.1")
    assert await allows(cloud, source="172.27.1.1")
    assert (await cloud.snapshot())["counters"]["port_without_rule"] == 3


async def test_a_rule_can_be_changed_and_deleted(cloud: Rig) -> None:
    await cloud.running()
    made = await cloud.call("POST", "P/vpc/firewall-rules", await rule(cloud))
    path = f"P/vpc/firewall-rules/{made.body['operation']['metadata']['id']}"
    await cloud.pass_s(3)

    change = {
        "name": "wider",
        "protocols": ["tcp", "udp"],
        "sources": [{"cidr": "198.51.100.0/24"}],
        "destination_ports": ["8000-8010"],
    }
    changed = await cloud.call("PATCH", path, change)
    await cloud.pass_s(3)
    wider = await allows(cloud, port=8010, source="198.51.100.99")
    (listed,) = (await cloud.call("GET", "P/vpc/firewall-rules")).body["items"]
    await cloud.call("DELETE", path)
    closed_at_once = not await allows(cloud)
    await cloud.pass_s(3)

    assert changed.status == 200
    assert wider
    assert (listed["name"], listed["protocols"]) == ("wider", ["tcp", "udp"])
    assert closed_at_once
    assert (await cloud.call("GET", path)).status == 404
    operations = (await cloud.call("GET", "P/vpc/firewall-rules/operations")).body["items"]
    assert [one["metadata"]["operation_name"] for one in operations] == [
        "CREATE",
        "UPDATE",
        "DELETE",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"destination_ports": ["eighty"]},
        {"destination_ports": ["9-3"]},
        {"source_ports": ["0"]},
        {"sources": [{"cidr": "everywhere"}]},
        {"sources": []},
        {"destinations": [{"resource_id": "none"}]},
        {"destinations": [{"resource_id": "x", "cidr": "10.0.0.0/8"}]},
        {"vpc_network_id": "none"},
        {"direction": "sideways"},
        {"action": "deny"},
        {"name": ""},
    ],
)
async def test_a_wrong_rule_is_a_bad_request(cloud: Rig, change: dict[str, object]) -> None:
    body = {**await rule(cloud), **change}

    assert (await cloud.call("POST", "P/vpc/firewall-rules", body)).status == 400


async def test_a_rule_may_name_an_address_range(cloud: Rig) -> None:
    await cloud.running()
    body = await rule(cloud, destinations=[{"cidr": "127.20.0.0/16"}])
    await cloud.call("POST", "P/vpc/firewall-rules", body)
    await cloud.pass_s(3)

    assert await allows(cloud)


# -- money


async def test_the_bill_counts_running_seconds_and_the_disks_whole_life(cloud: Rig) -> None:
    vm_id = await cloud.running()
    cloud.clock.move(3600)
    await cloud.call("DELETE", f"P/vms/{vm_id}")
    await cloud.pass_s(30)
    ended = await cloud.bill()
    await cloud.pass_s(3600)

    vm, disk = ended["items"]
    assert 3600 <= vm["seconds"] <= 3622
    assert float(vm["usd"]) == pytest.approx(1.25 * vm["seconds"] / 3600, abs=1e-6)
    assert disk["seconds"] > vm["seconds"]
    assert float(disk["usd"]) == pytest.approx(0.01664 * disk["seconds"] / 3600, abs=1e-6)
    assert float(ended["usd_total"]) == pytest.approx(float(vm["usd"]) + float(disk["usd"]))
    assert ended["still_billing"] == []
    assert (await cloud.bill())["usd_total"] == ended["usd_total"]


async def test_a_grown_disk_bills_its_new_size_from_then_on(cloud: Rig) -> None:
    body = {"name": "weights", "size": "100GiB", "location": "us-east1-a"}
    made = await cloud.call("POST", "P/disks", body)
    cloud.clock.move(3600)
    path = f"P/disks/{made.body['operation']['metadata']['id']}"
    await cloud.call("PATCH", path, {"size": "200GiB"})
    cloud.clock.move(3600)

    assert float((await cloud.bill())["usd_total"]) == pytest.approx(0.013 + 0.026)


async def test_usage_is_told_by_whole_days_after_midnight(cloud: Rig) -> None:
    await cloud.running()
    cloud.clock.move(3600)
    same_day = (await cloud.call("GET", "P/usage")).body["items"]
    cloud.clock.move(24 * 3600)

    items = (await cloud.call("GET", "P/usage", resource_types="l40s-48gb.1x")).body["items"]
    (organization,) = (await cloud.call("GET", "/organizations")).body
    path = f"/organizations/{organization['id']}/usage"
    everything = (await cloud.call("GET", path, start_date="2026-02-01")).body["items"]
    elsewhere = (await cloud.call("GET", "P/usage", regions="eu-west1")).body["items"]

    assert same_day == []
    (day,) = items
    assert (day["date"], day["region"]) == ("2026-02-03", "us-east1")
    assert (day["resource_type"], day["billable_metric"]) == ("l40s-48gb.1x", "gpu-hours")
    assert day["quantity"] == pytest.approx(13.75, abs=0.01)
    assert {item["billable_metric"] for item in everything} == {"gpu-hours", "gib-hours"}
    assert elsewhere == []
    for query in ({"start_date": "soon"}, {"start_date": "1999-01-01"}):
        assert (await cloud.call("GET", "P/usage", **query)).status == 400
    assert (await cloud.call("GET", "/organizations/other/usage")).status == 404


# -- the ledger


async def test_the_ledger_tells_who_called_what_and_what_came_of_it(cloud: Rig) -> None:
    await cloud.running()
    await cloud.call("GET", "P/vms", key="wrong")
    calls = (await cloud.call("GET", "/_emulator/ledger", kind="call")).body["events"]
    everything = (await cloud.call("GET", "/_emulator/ledger")).body

    first, last = calls[0], calls[-1]
    assert (first["caller"], first["name"]) == ("access-key", "as1-llama-7f3a9c")
    assert (first["details"]["call"], first["details"]["status"]) == ("create_vm", "200")
    assert (last["caller"], last["details"]["status"]) == ("nobody", "401")
    numbers = [event["seq"] for event in everything["events"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {"call", "vm_created", "vm_running"} <= everything["counters"].keys()
    later = (await cloud.call("GET", "/_emulator/ledger", after=str(numbers[-2]))).body
    assert len(later["events"]) == 1
    limited = (await cloud.call("GET", "/_emulator/ledger", limit="1")).body
    assert (len(limited["events"]), limited["more"]) == (1, True)
    assert (await cloud.call("GET", "/_emulator/ledger", limit="few")).status == 400


async def test_the_ledger_is_bounded_and_says_what_it_dropped(open_cloud: Opens) -> None:
    cloud = await open_cloud(ledger_limit=5)
    for _ in range(8):
        await cloud.call("GET", "P/specs")

    told = (await cloud.call("GET", "/_emulator/ledger")).body

    assert len(told["events"]) == 5
    assert told["dropped"] == 3


async def test_no_answer_of_the_emulator_holds_a_secret(cloud: Rig) -> None:
    _, token = await sign_in(cloud)
    await cloud.call("GET", "P/vms", key=token["access_token"])

    for path in ("snapshot", "ledger", "health", "bill", "faults", "switches"):
        told = str((await cloud.call("GET", f"/_emulator/{path}")).body)
        for secret in (ACCESS_KEY, PASSWORD, token["access_token"], token["refresh_token"]):
            assert secret not in told


async def test_an_unknown_admin_route_is_not_implemented(cloud: Rig) -> None:
    assert (await cloud.call("GET", "/_emulator/nothing")).status == 501


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Host": "evil.example:1"}])
async def test_a_web_page_cannot_use_the_emulators_own_api(
    cloud: Rig, header: dict[str, str]
) -> None:
    async with cloud.client.get(f"{cloud.base}/_emulator/snapshot", headers=header) as answer:
        assert answer.status == 403
