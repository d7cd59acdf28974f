"""mkinf as a `Cloud`: what follows from its gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import structlog

from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.offers import ImageNames
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.cloud.protocol import Cloud, CreateRequest
from autoscaler.domain.ids import MachineId, NodeName, OperationId
from autoscaler.domain.machine import OperationState, PowerState
from autoscaler.domain.money import Money
from autoscaler.domain.offer import Offer, OfferKey
from autoscaler.errors import CloudUnavailable, ConfigError, EndpointMissing, Rejected, SchemaError
from tests.cloud.answers import CREATED, OPERATION, VM
from tests.cloud.scripted import PROJECT, Connect, FastClock, ScriptedMkinf, cut, status

OFFER = Offer(
    OfferKey("l40s-48gb.1x", "us-east1-a"),
    Money.of("1.26664"),
    gpu="l40s",
    gpus=1,
    gpu_memory_gb=48,
    vcpu=8,
    ram_gb=147,
    disk_gb=128,
    in_stock=True,
    image="ubuntu22.04-nvidia-pcie-docker",
)
REQUEST = CreateRequest(
    NodeName("as1-owner000-abcdefghijklm-1-llama"),
    OFFER,
    "ssh-ed25519 AAAA me",
    "#!/bin/bash\n",
)
RULE = {
    "id": "r1",
    "name": "as1-serve",
    "action": "allow",
    "direction": "ingress",
    "state": "active",
    "protocols": ["tcp"],
    "sources": [{"cidr": "198.51.100.7/32"}],
    "source_ports": ["1-65535"],
    "destinations": [{"resource_id": "n1"}],
    "destination_ports": ["8000"],
    "vpc_network_id": "n1",
}
SOURCES = ["198.51.100.7/32"]


@pytest.fixture
def cloud(connect: Connect, clock: FastClock) -> MkinfCloud:
    return MkinfCloud(connect(), load_prices(), ImageNames(), clock)


@pytest.fixture
def opened(connect: Connect, clock: FastClock) -> Callable[[str | None], MkinfCloud]:
    return lambda project: MkinfCloud(
        connect(project_id=project), load_prices(), ImageNames(), clock
    )


def vms(*ids: str) -> dict[str, object]:
    return {"items": [{**VM, "id": each, "name": f"box-{each}"} for each in ids]}


def test_it_satisfies_the_protocol(cloud: MkinfCloud) -> None:
    as_protocol: Cloud = cloud

    assert as_protocol is cloud


@pytest.mark.parametrize(
    ("said", "power"),
    [
        ("STATE_RUNNING", PowerState.RUNNING),
        ("running", PowerState.RUNNING),
        ("STATE_DEFINING", PowerState.STARTING),
        ("STATE_BLOCKED", PowerState.STARTING),
        ("STATE_SHUTDOWN", PowerState.STOPPING),
        ("SHUTOFF", PowerState.STOPPED),
        ("STATE_STOPPED", PowerState.STOPPED),
        ("STATE_CRASHED", PowerState.BROKEN),
        ("STATE_DELETING", PowerState.DELETING),
        ("STATE_NEW_AND_ODD", PowerState.UNKNOWN),
        (None, PowerState.UNKNOWN),
    ],
)
async def test_every_state_a_machine_may_be_in_is_folded(
    said: str | None, power: PowerState, mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vms", {"items": [{**VM, "state": said}]})

    (machine,) = (await cloud.inventory()).machines

    assert machine.power is power


@pytest.mark.parametrize("address", ["", ":0", "0.0.0.0", "169.254.169.254", "host.example", None])
async def test_an_address_that_is_none_is_none(
    address: str | None, mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    faces = [{"ips": [{"public_ipv4": {"address": address}}]}]
    mkinf.on("GET P/vms", {"items": [{**VM, "network_interfaces": faces}]})

    assert (await cloud.inventory()).machines[0].address is None


async def test_a_listing_that_is_none_is_an_incomplete_inventory(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vms", {"error": "sorry"})

    inventory = await cloud.inventory()

    assert (inventory.complete, inventory.machines) == (False, ())
    assert "field items" in inventory.why_incomplete


async def test_a_doubtful_listing_is_believed_when_what_is_missing_is_gone_singly_too(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vms", vms("a", "b"), {**vms("a"), "cursor": "x"})
    mkinf.on("GET P/vms/b", status(404, {"code": "not_found", "message": "no"}))

    await cloud.inventory()
    second = await cloud.inventory()

    assert second.complete
    assert [machine.id for machine in second.machines] == ["a"]


async def test_a_doubtful_listing_that_left_a_machine_out_is_incomplete_and_shows_it(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vms", vms("a", "b"), {**vms("a"), "cursor": "x"})
    mkinf.on("GET P/vms/b", {**VM, "id": "b", "name": "box-b"})

    await cloud.inventory()
    second = await cloud.inventory()

    assert not second.complete
    assert "box-b (b) was left out" in second.why_incomplete
    assert {machine.id for machine in second.machines} == {"a", "b"}


async def test_a_create_gives_the_operation_and_the_machines_id(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("POST P/vms", CREATED)

    created = await cloud.create(REQUEST)

    assert created.operation_id == "c1a8b0de-1111-4c52-a2f7-6a3c5b9d4404"
    assert created.machine_id == "9e0a7c44-2222-4f0b-b1a9-7d2e6c8f5505"


@pytest.mark.parametrize(
    "bad",
    [
        replace(REQUEST, startup_script="echo hi"),
        replace(REQUEST, startup_script="#!/bin/bash\n# é"),
        replace(REQUEST, startup_script="#!/bin/bash\n" + "x" * 64_000),
        replace(REQUEST, shutdown_script="true"),
        replace(REQUEST, name=NodeName("Not A Name")),
        replace(REQUEST, offer=replace(OFFER, price_per_hour=None)),
        replace(REQUEST, offer=replace(OFFER, unrentable="no location lists it now")),
        replace(REQUEST, offer=replace(OFFER, image=None)),
    ],
)
async def test_what_must_not_be_rented_is_not_sent(
    bad: CreateRequest, mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    with pytest.raises(Rejected):
        await cloud.create(bad)

    assert mkinf.seen == []


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"code": "out_of_stock", "message": "…"}, "out_of_stock"),
        ({"code": "failed", "message": "Not enough capacity"}, "out_of_stock"),
        ({"code": "failed", "message": "Quota for L40S used up"}, "quota_exceeded"),
        ({"code": "internal_error", "message": "oops"}, "internal_error"),
        (None, ""),
    ],
)
async def test_why_an_operation_failed_is_one_word_for_one_thing(
    result: object, code: str, mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vms/operations/o1", {**OPERATION, "state": "FAILED", "result": result})

    operation = await cloud.operation(OperationId("o1"))

    assert operation is not None
    assert (operation.state, operation.code) == (OperationState.FAILED, code)


@pytest.mark.parametrize("state", ["PENDING", "IN_PROGRESS", "QUEUED"])
async def test_an_operation_in_any_other_state_is_under_way(
    state: str, mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vms/operations", {"items": [{**OPERATION, "state": state}]})

    (operation,) = await cloud.operations(datetime(2026, 2, 3, tzinfo=UTC))

    assert operation.state is OperationState.IN_PROGRESS
    assert mkinf.seen[0].query == {"lower_time_bound": "2026-02-03T00:00:00Z"}


async def test_a_delete_refused_because_it_is_under_way_is_accepted(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("DELETE P/vms/v1", status(409, {"message": "busy"}))
    mkinf.on("GET P/vms/v1", {**VM, "state": "STATE_DELETING"}, VM)

    await cloud.delete(MachineId("v1"))
    with pytest.raises(Rejected):
        await cloud.delete(MachineId("v1"))


async def test_a_cloud_without_delete_says_what_to_do(cloud: MkinfCloud) -> None:
    with pytest.raises(EndpointMissing, match="console"):
        await cloud.delete(MachineId("v1"))


async def test_a_rule_as_wanted_is_left_alone(mkinf: ScriptedMkinf, cloud: MkinfCloud) -> None:
    mkinf.on("GET P/vpc/firewall-rules", {"items": [RULE]})

    rule = await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    assert (rule.id, rule.active) == ("r1", True)
    assert {each.method for each in mkinf.seen} == {"GET"}


async def test_a_rule_that_is_open_to_more_is_mended(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vpc/firewall-rules", {"items": [{**RULE, "sources": [{"cidr": "0.0.0.0/0"}]}]})
    mkinf.on("PATCH P/vpc/firewall-rules/r1", CREATED)

    rule = await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    (sent,) = mkinf.calls("PATCH P/vpc/firewall-rules/r1")
    assert sent.body == {"sources": [{"cidr": SOURCES[0]}], "destination_ports": ["8000"]}
    assert not rule.active


NETWORKS = {"items": [{"id": "n1", "name": "default-vpc-network"}]}
MAKING: dict[str, object] = {**OPERATION, "state": "IN_PROGRESS", "result": None}
FIREWALL_OPERATION = f"GET P/vpc/firewall-rules/operations/{MAKING['operation_id']}"


@pytest.mark.parametrize("rules", [{"items": []}, status(404), status(501)])
async def test_a_rule_that_no_list_shows_is_made_once_and_active_when_its_operation_ends(
    mkinf: ScriptedMkinf, cloud: MkinfCloud, clock: FastClock, rules: object
) -> None:
    """Every sweep asks; a rule was made each time, sixty an hour, and none was ever active."""
    mkinf.on("GET P/vpc/firewall-rules", rules)
    mkinf.on("GET P/vpc/networks", NETWORKS)
    mkinf.on("POST P/vpc/firewall-rules", CREATED)
    mkinf.on(FIREWALL_OPERATION, MAKING, {**MAKING, "state": "SUCCEEDED"}, status(404))

    seen = []
    for _ in range(6):
        seen.append((await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])).active)
        clock.ahead_s += 60

    assert seen == [False, False, True, True, True, True]
    assert len(mkinf.calls("POST P/vpc/firewall-rules")) == 1


async def test_a_rule_neither_listed_nor_told_of_counts_as_active_after_the_settling_time(
    mkinf: ScriptedMkinf, cloud: MkinfCloud, clock: FastClock
) -> None:
    mkinf.on("GET P/vpc/networks", NETWORKS)
    mkinf.on("POST P/vpc/firewall-rules", CREATED)
    await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    early = await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])
    clock.ahead_s += 121
    late = await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    assert (early.active, late.active) == (False, True)
    assert len(mkinf.calls("POST P/vpc/firewall-rules")) == 1


async def test_a_rule_whose_operation_failed_is_made_again(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vpc/networks", NETWORKS)
    mkinf.on("POST P/vpc/firewall-rules", CREATED)
    failed = {**MAKING, "state": "FAILED", "result": {"code": "x", "message": "no such network"}}
    mkinf.on(FIREWALL_OPERATION, failed)
    await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    with pytest.raises(CloudUnavailable, match="no such network"):
        await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])
    await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    assert len(mkinf.calls("POST P/vpc/firewall-rules")) == 2


async def test_a_rule_listed_without_a_state_is_active_unless_it_is_being_made(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    bare = {key: value for key, value in RULE.items() if key != "state"}
    mkinf.on("GET P/vpc/firewall-rules", {"items": [bare]}, {"items": []}, {"items": [bare]})
    mkinf.on("GET P/vpc/networks", NETWORKS)
    mkinf.on("POST P/vpc/firewall-rules", CREATED)
    mkinf.on(FIREWALL_OPERATION, MAKING, {**MAKING, "state": "SUCCEEDED"})

    seen = [
        (await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])).active for _ in range(4)
    ]

    assert seen == [True, False, False, True]


async def test_a_cloud_that_refuses_rules_for_a_network_says_what_to_do(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vpc/networks", NETWORKS)
    mkinf.on("POST P/vpc/firewall-rules", {"message": "destination must be a VM"}, status=400)

    with pytest.raises(
        Rejected, match=r"must be a VM.*firewall\.manage = false and open ports 8000"
    ):
        await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])


async def test_a_rule_whose_answer_is_lost_is_looked_for_and_not_made_again(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vpc/firewall-rules", {"items": []}, {"items": []}, {"items": [RULE]})
    mkinf.on("GET P/vpc/networks", {"items": [{"id": "n1"}]})
    mkinf.on("POST P/vpc/firewall-rules", cut)

    for _ in range(2):
        with pytest.raises(CloudUnavailable):
            await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    assert (await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])).id == "r1"
    assert len(mkinf.calls("POST P/vpc/firewall-rules")) == 1


async def test_a_rule_whose_answer_was_lost_and_that_no_list_shows_later_is_made_again(
    mkinf: ScriptedMkinf, cloud: MkinfCloud, clock: FastClock
) -> None:
    mkinf.on("GET P/vpc/firewall-rules", {"items": []})
    mkinf.on("GET P/vpc/networks", {"items": [{"id": "n1"}]})
    mkinf.on("POST P/vpc/firewall-rules", cut)

    for _ in range(3):
        with pytest.raises(CloudUnavailable):
            await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])
    clock.ahead_s += 121
    mkinf.on("POST P/vpc/firewall-rules", CREATED)
    await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    assert len(mkinf.calls("POST P/vpc/firewall-rules")) == 2


async def test_of_twin_rules_one_stays(mkinf: ScriptedMkinf, cloud: MkinfCloud) -> None:
    mkinf.on("GET P/vpc/firewall-rules", {"items": [{**RULE, "id": "r2"}, RULE]})
    mkinf.on("DELETE P/vpc/firewall-rules/r2", CREATED)

    assert (await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])).id == "r1"
    assert len(mkinf.calls("DELETE P/vpc/firewall-rules/r2")) == 1


async def test_an_unreadable_list_of_rules_leads_to_no_second_rule(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET P/vpc/firewall-rules", {"items": [7]})

    with pytest.raises(CloudUnavailable, match="not known"):
        await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])

    assert not mkinf.calls("POST P/vpc/firewall-rules")


async def test_of_several_networks_none_is_guessed(mkinf: ScriptedMkinf, cloud: MkinfCloud) -> None:
    mkinf.on("GET P/vpc/firewall-rules", {"items": []})
    mkinf.on("GET P/vpc/networks", {"items": [{"id": "n1"}, {"id": "n2"}]})

    with pytest.raises(Rejected, match=r"firewall\.manage = false"):
        await cloud.ensure_firewall_rule("as1-serve", SOURCES, [8000])


async def test_a_key_of_another_project_is_noticed(mkinf: ScriptedMkinf, cloud: MkinfCloud) -> None:
    mkinf.on("GET /projects", [{"id": "another"}])

    with pytest.raises(Rejected, match="reaches project another"):
        await cloud.project_id()


async def test_without_a_configured_project_the_only_one_is_taken(
    mkinf: ScriptedMkinf, opened: Callable[[str | None], MkinfCloud]
) -> None:
    mkinf.on("GET /projects", [{"id": PROJECT}])
    mkinf.on("GET P/vms", {"items": []})
    cloud = opened(None)

    assert await cloud.project_id() == PROJECT
    assert (await cloud.inventory()).complete
    assert len(mkinf.calls("GET /projects")) == 1


async def test_without_a_configured_project_several_are_a_question(
    mkinf: ScriptedMkinf, opened: Callable[[str | None], MkinfCloud]
) -> None:
    mkinf.on("GET /projects", [{"id": "a"}, {"id": "b"}])

    with pytest.raises(ConfigError, match=r"cloud\.project"):
        await opened(None).project_id()


async def test_a_project_may_be_configured_by_its_name(
    mkinf: ScriptedMkinf, opened: Callable[[str | None], MkinfCloud]
) -> None:
    mkinf.on("GET /projects", [{"id": "a", "name": "dev"}, {"id": PROJECT, "name": "prod-llm"}])
    mkinf.on("GET P/vms", {"items": []})
    cloud = opened("prod-llm")

    assert (await cloud.inventory()).complete
    assert await cloud.project_id() == PROJECT


@pytest.mark.parametrize("name", ["test", "twins"])
async def test_a_projects_name_that_is_nobodys_or_several_peoples_is_a_question(
    mkinf: ScriptedMkinf, opened: Callable[[str | None], MkinfCloud], name: str
) -> None:
    twins = [{"id": "a", "name": "twins"}, {"id": "b", "name": "twins"}]
    mkinf.on("GET /projects", [*twins, {"id": PROJECT, "name": "prod"}])

    with pytest.raises(ConfigError, match=rf"cloud\.project: .* called '{name}': put an id"):
        await opened(name).project_id()


async def test_where_projects_refuse_the_key_reading_from_the_project_is_the_proof(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    mkinf.on("GET /projects", status(401))
    mkinf.on("GET P/availabilities", {"items": []})

    assert await cloud.project_id() == PROJECT


async def test_usage_is_priced_by_what_its_metric_counts(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    day = {"date": "2026-02-02", "resource_type": "a40.2x", "quantity": 10}
    mkinf.on(
        "GET P/usage",
        {
            "items": [
                {**day, "billable_metric": "gpu-hours"},
                {**day, "billable_metric": "vm-hours"},
                {**day, "billable_metric": "gib-hours", "resource_type": "persistent-disk"},
                {**day, "billable_metric": "gib-hours", "resource_type": "persistent-ssd"},
                {**day, "billable_metric": "mystery"},
            ]
        },
    )

    at = datetime(2026, 2, 3, tzinfo=UTC)
    costs = [line.cost and line.cost.usd for line in await cloud.usage(at, at)]

    assert costs == [Decimal("11.00"), Decimal("22.00"), Decimal("0.0013"), Decimal("0.0013"), None]


async def test_contradicted_prices_are_logged_when_they_change(
    mkinf: ScriptedMkinf, cloud: MkinfCloud
) -> None:
    wrong = {"product_name": "a40.1x", "num_gpu": 2, "gpu_type": "A40-PCIe-48GB"}
    mkinf.on("GET P/availabilities", {"items": []})
    mkinf.on("GET P/images", {"items": []})
    mkinf.on("GET P/specs", {"items": [wrong]})

    with structlog.testing.capture_logs() as logs:
        await cloud.offers()
        await cloud.offers()

    problems = [each["problem"] for each in logs if each["event"] == "price_list_contradicted"]
    assert len([each for each in problems if "a40.1x: specs say 2 GPUs" in each]) == 1


async def test_half_a_catalogue_makes_no_offers(mkinf: ScriptedMkinf, cloud: MkinfCloud) -> None:
    mkinf.on("GET P/availabilities", {"items": []})
    mkinf.on("GET P/specs", {"nothing": 1})

    with pytest.raises(SchemaError, match="specs"):
        await cloud.offers()
