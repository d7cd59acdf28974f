"""Each call sends what the API page says, and reads what it shows."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.values import FirewallRule, Operation, RuleRequest, VmRequest
from autoscaler.errors import CloudUnavailable, EndpointMissing, NotFound, OutcomeUnknown
from tests.cloud.answers import CREATED, OPERATION, VM
from tests.cloud.scripted import KEY, ScriptedMkinf, status

REQUEST = VmRequest(
    name="as1-llama-7f3a9c",
    type="l40s-48gb.1x",
    location="us-east1-a",
    image="ubuntu22.04-nvidia-pcie-docker",
    ssh_public_key="ssh-ed25519 AAAA autoscaler",
    startup_script="#!/bin/bash\n",
)


async def test_a_create_sends_its_body_once_and_reads_operation_and_vm_id(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("POST P/vms", CREATED)

    operation = await client.create_vm(REQUEST)

    (sent,) = mkinf.calls("POST P/vms")
    assert sent.body == {
        "name": "as1-llama-7f3a9c",
        "type": "l40s-48gb.1x",
        "location": "us-east1-a",
        "image": "ubuntu22.04-nvidia-pcie-docker",
        "ssh_public_key": "ssh-ed25519 AAAA autoscaler",
        "startup_script": "#!/bin/bash\n",
    }
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert operation.operation_id == "c1a8b0de-1111-4c52-a2f7-6a3c5b9d4404"
    assert operation.resource_id == "9e0a7c44-2222-4f0b-b1a9-7d2e6c8f5505"
    assert operation.request_name == "as1-llama-7f3a9c"


async def test_a_vm_is_read_with_its_addresses_and_disks(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on(f"GET P/vms/{VM['id']}", VM)

    vm = await client.vm(str(VM["id"]))

    assert vm.state == "RUNNING"
    assert vm.public_address == "203.0.113.24"
    assert vm.private_address == "172.27.16.9"
    assert vm.created_at == datetime(2026, 2, 3, 10, 15, tzinfo=UTC)
    assert [disk.id for disk in vm.disks] == ["1c2d3e4f-4444-4a1b-8c6d-5e6f7a8b7707"]


async def test_an_operation_is_read_flat_and_its_script_is_not_kept(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on(f"GET P/vms/operations/{OPERATION['operation_id']}", OPERATION)

    operation = await client.operation(str(OPERATION["operation_id"]))

    assert (operation.state, operation.kind) == ("SUCCEEDED", "CREATE")
    assert "canary-script" not in repr(operation)


async def test_a_vm_list_is_followed_page_by_page(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on(
        "GET P/vms",
        {"items": [VM], "next_page_token": "p2"},
        {"items": [{**VM, "id": "other", "name": "b"}], "next_page_token": ""},
    )

    listing = await client.vms()

    assert [vm.name for vm in listing] == ["as1-llama-7f3a9c", "b"]
    assert listing.complete
    assert [each.query for each in mkinf.calls("GET P/vms")] == [{}, {"next_token": "p2"}]


async def test_delete_and_the_state_actions_send_what_crusoe_takes(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("DELETE P/vms/v1", CREATED)
    mkinf.on("PATCH P/vms/v1", CREATED)

    await client.delete_vm("v1")
    for action in ("START", "STOP", "RESET"):
        await client.act_on_vm("v1", action)

    assert [each.body for each in mkinf.calls("PATCH P/vms/v1")] == [
        {"action": "START"},
        {"action": "STOP"},
        {"action": "RESET"},
    ]
    assert len(mkinf.calls("DELETE P/vms/v1")) == 1


async def test_a_delete_that_is_answered_by_nothing_is_accepted(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("DELETE P/vms/v1", b"", status=204)

    assert await client.delete_vm("v1") is None


async def test_organizations_and_projects_are_bare_arrays(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET /organizations", [{"id": "o1", "name": "acme", "stripe_customer_id": "cus_1"}])
    mkinf.on("GET /projects", [{"id": "p1", "name": "serving", "organization_id": "o1"}])

    assert [each.name for each in await client.organizations()] == ["acme"]
    assert [each.organization_id for each in await client.projects()] == ["o1"]


async def test_availabilities_are_asked_with_both_filters_and_filtered_again(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on(
        "GET P/availabilities",
        {
            "items": [
                {"type": "l40s-48gb.1x", "location": "us-east1-a", "available": True},
                {"type": "a100.1x", "location": "us-east1-a", "available": True},
                {"type": "l40s-48gb.1x", "location": "elsewhere", "available": True},
            ]
        },
    )

    found = await client.availabilities(types=["l40s-48gb.1x", "x"], locations=["us-east1-a"])

    (sent,) = mkinf.calls("GET P/availabilities")
    assert sent.query == {"product_name": "l40s-48gb.1x,x", "location": "us-east1-a"}
    assert [(each.type, each.location) for each in found] == [("l40s-48gb.1x", "us-east1-a")]


async def test_locations_may_be_texts_or_objects(mkinf: ScriptedMkinf, client: MkinfClient) -> None:
    mkinf.on("GET P/locations", {"items": ["us-east1-a", {"name": "eu-1", "id": 4}]})

    assert await client.locations() == ("eu-1", "us-east1-a")


async def test_without_a_locations_endpoint_they_come_from_availabilities(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on(
        "GET P/availabilities",
        {"items": [{"type": "a40.1x", "location": "us-east1-a", "available": False}]},
    )

    assert await client.locations() == ("us-east1-a",)


async def test_without_a_networks_endpoint_they_come_from_the_vms(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms", {"items": [VM]})

    assert [each.id for each in await client.networks()] == ["3e4f5061-6666-4c3d-8e8f-7a8b9c0d9909"]
    assert [each.location for each in await client.subnets()] == ["us-east1-a"]


async def test_without_project_usage_the_organizations_is_asked_for(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET /projects", [])
    mkinf.on("GET /organizations", [{"id": "o1", "name": "acme"}])
    mkinf.on(
        "GET /organizations/o1/usage",
        {"items": [{"date": "2026-02-02", "quantity": 23.5, "resource_type": "l40s-48gb.1x"}]},
    )

    (line,) = await client.usage(date(2026, 2, 1), date(2026, 2, 2), regions=["us-east1"])

    assert line.quantity == Decimal("23.5")
    (sent,) = mkinf.calls("GET /organizations/o1/usage")
    assert sent.query == {
        "start_date": "2026-02-01",
        "end_date": "2026-02-02",
        "regions": "us-east1",
    }


async def test_the_billing_link_is_a_secret(mkinf: ScriptedMkinf, client: MkinfClient) -> None:
    mkinf.on("GET /projects", [{"id": "p", "organization_id": "o1"}])
    mkinf.on("GET /organizations", [{"id": "o1"}])
    mkinf.on("GET /organizations/o1/billing", {"url": "https://pay.example/canary"})

    link = await client.billing_link()

    assert "canary" not in repr(link) + str(link) + f"{link}"
    assert link.reveal() == "https://pay.example/canary"


async def test_an_image_is_looked_for_in_the_list_where_it_cannot_be_asked_for(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/images", {"items": [{"id": "i1", "name": "ubuntu", "locations": ["a"]}]})

    assert (await client.image("ubuntu")).id == "i1"
    with pytest.raises(NotFound, match="no image 'debian'"):
        await client.image("debian")


async def test_a_firewall_rule_is_made_narrow_and_answered_either_way(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    request = RuleRequest("as1-serve", "n1", ("198.51.100.7/32",), ("8000",))
    mkinf.on("POST P/vpc/firewall-rules", CREATED, {"id": "r1", "name": "as1-serve"})

    first = await client.create_firewall_rule(request)
    second = await client.create_firewall_rule(request)

    assert isinstance(first, Operation)
    assert isinstance(second, FirewallRule)
    assert mkinf.calls("POST P/vpc/firewall-rules")[0].body == {
        "name": "as1-serve",
        "action": "allow",
        "direction": "ingress",
        "protocols": ["tcp"],
        "sources": [{"cidr": "198.51.100.7/32"}],
        "source_ports": ["1-65535"],
        "destinations": [{"resource_id": "n1"}],
        "destination_ports": ["8000"],
        "vpc_network_id": "n1",
    }


async def test_disks_are_made_resized_attached_and_deleted(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("POST P/disks", CREATED)
    mkinf.on("PATCH P/disks/d1", CREATED)
    mkinf.on("DELETE P/disks/d1", CREATED)
    mkinf.on("GET P/disks", {"items": [{"id": "d1", "size": "1TiB", "attached_to": ["v1"]}]})

    await client.create_disk("weights", "200GiB", "us-east1-a")
    await client.resize_disk("d1", "300GiB")
    await client.delete_disk("d1")
    (disk,) = await client.disks()

    assert disk.size_gib == 1024
    assert disk.attached_to[0].id == "v1"
    assert mkinf.calls("PATCH P/disks/d1")[0].body == {"size": "300GiB"}


async def test_a_missing_endpoint_says_its_name_its_mark_and_what_to_do(
    client: MkinfClient,
) -> None:
    with pytest.raises(EndpointMissing, match=r"(?s)'vm_delete'.*inferred.*mkinf's console"):
        await client.delete_vm("v1")


async def test_a_404_for_a_vm_is_not_found_but_a_gateways_404_is_no_answer(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("GET P/vms/v1", status(404, {"code": "not_found", "message": "instance not found"}))
    mkinf.on("GET P/vms/v2", status(404, b"<html><title>Not here</title></html>"))

    with pytest.raises(NotFound):
        await client.vm("v1")
    with pytest.raises(CloudUnavailable, match="not the API's own answer"):
        await client.vm("v2")


async def test_a_create_whose_answer_is_not_understood_has_an_unknown_outcome(
    mkinf: ScriptedMkinf, client: MkinfClient
) -> None:
    mkinf.on("POST P/vms", {"operation": {"state": "IN_PROGRESS"}})

    with pytest.raises(OutcomeUnknown, match="operation_id"):
        await client.create_vm(REQUEST)
