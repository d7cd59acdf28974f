"""An audit tells what a living daemon accounts for from what nobody does, and doubts the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from autoscaler.brakes.audit import Audit, Outcome, Verdict, judge
from autoscaler.brakes.ours import Holdings, Kind, look
from autoscaler.brakes.witness import Address, NoWitness, ask, daemon_url
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Disk, FirewallRule, OperationState
from autoscaler.domain.money import Money
from autoscaler.errors import ConfigError
from autoscaler.nodes.inventory import Owner
from tests.brakes.parts import (
    FRESH,
    NOON,
    OURS,
    PRICES,
    Clock,
    LyingCloud,
    Told,
    create_of,
    name,
    telling,
    witness,
)


async def held(cloud: LyingCloud) -> Holdings:
    return await look(cloud, OURS, PRICES, NOON)


@pytest.fixture
def cloud() -> LyingCloud:
    return LyingCloud(Clock())


def verdicts(found: Audit) -> dict[str, Verdict]:
    return {line.thing.name: line.verdict for line in found.lines}


async def test_only_what_carries_our_mark_is_listed_with_its_price(cloud: LyingCloud) -> None:
    cloud.add(name(0), name(1, owner="somebody"), "somebodys-box", "as1-testtest-mybox")
    cloud.spare_disks = [
        Disk("d1", f"OS-disk-id-{name(0)}", 128, "x", (MachineId(f"id-{name(0)}"),)),
        Disk("d2", "data", 100, "x"),
        Disk("d3", "as1-testtest-cache", 100, "x"),
        Disk("d4", "OS-disk-long-gone", 128, "x"),
    ]
    cloud.rules = [
        FirewallRule("r1", "as1-testtest-serve", (), ("8000",), active=True),
        FirewallRule("r2", "as1-testtes-serve", (), ("8000",), active=True),
        FirewallRule("r3", "as1-testtest-office", (), ("22",), active=True),
        FirewallRule("r4", "as1-somebody-serve", (), ("8000",), active=True),
    ]

    found = await held(cloud)

    assert [(t.kind, t.id, t.is_ours) for t in found.things] == [
        (Kind.VM, f"id-{name(0)}", True),
        (Kind.VM, "id-as1-testtest-mybox", False),
        (Kind.DISK, "d1", True),
        (Kind.DISK, "d3", False),
        (Kind.RULE, "r1", True),
        (Kind.RULE, "r3", False),
    ]
    assert found.things[0].usd_per_hour == Money.of("1.10")
    assert found.usd_per_hour == Money.of("2.21")
    assert (found.foreign, found.foreign_rest, found.strangers) == (1, 1, 1)
    assert [stray.id for stray in found.strays] == ["d4"]


async def test_a_disk_left_by_a_vm_that_an_operation_still_names_is_ours(cloud: LyingCloud) -> None:
    gone = MachineId("gone")
    cloud.ops = [create_of(name(), OperationState.SUCCEEDED, machine_id=gone)]
    cloud.spare_disks = [Disk("d1", "OS-disk-gone", 128, "x")]

    assert [t.id for t in (await held(cloud)).things] == ["d1"]


async def test_what_a_cloud_does_not_list_is_said_and_no_failure(cloud: LyingCloud) -> None:
    cloud.lists_disks = cloud.lists_operations = False

    assert list((await held(cloud)).unseen) == [Kind.DISK, Kind.CREATE]


async def test_all_accounted_for_is_calm(cloud: LyingCloud) -> None:
    cloud.add(name(0), name(1))
    cloud.rules = [FirewallRule("r1", "as1-testtest-serve", (), ("8000",), active=True)]

    found = judge(
        await held(cloud),
        witness(
            nodes={name(0): MachineId(f"id-{name(0)}"), name(1): None},
            rules=frozenset({"as1-testtest-serve"}),
        ),
    )

    assert found.outcome is Outcome.ACCOUNTED
    assert set(verdicts(found).values()) == {Verdict.ACCOUNTED}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({}, "does not know it"),
        ({"orphans": {MachineId(f"id-{name()}"): None}}, "orphan"),
        ({"closed": {MachineId(f"id-{name()}"): name()}}, "takes it for gone"),
        ({"nodes": {name(): MachineId("a-twin")}}, "does not know it"),
    ],
)
async def test_what_no_open_row_claims_is_disowned(
    cloud: LyingCloud, told: dict[str, Any], why: str
) -> None:
    cloud.add(name())

    found = judge(await held(cloud), witness(**told))

    assert found.outcome is Outcome.DISOWNED
    assert why in found.lines[0].why


async def test_a_disk_whose_vm_is_gone_is_disowned(cloud: LyingCloud) -> None:
    cloud.spare_disks = [Disk("d1", "OS-disk-gone", 128, "x")]

    found = judge(await held(cloud), witness(closed={MachineId("gone"): name()}))

    assert verdicts(found) == {"OS-disk-gone": Verdict.DISOWNED}


async def test_without_a_daemon_all_is_unknown_also_when_there_is_nothing(
    cloud: LyingCloud,
) -> None:
    assert judge(await held(cloud), None, "none").outcome is Outcome.UNKNOWN
    cloud.add(name())
    assert judge(await held(cloud), None, "none").lines[0].verdict is Verdict.UNKNOWN


# the daemon's word


@pytest.fixture
async def daemon() -> AsyncIterator[Told]:
    async with telling() as told:
        yield told


async def test_a_fresh_daemon_of_ours_is_believed(daemon: Told) -> None:
    rows = [
        {"name": name(0), "machine_id": "m0", "state": "ready"},
        {"name": name(1), "machine_id": None, "state": "creating"},
        {"name": name(2), "machine_id": None, "state": "planned"},
    ]
    daemon.body = {**FRESH, "nodes": rows}

    believed = await ask([Address("http://127.0.0.1:9"), Address(daemon.url)], OURS, "p1")

    assert believed.accounts_for(name(0), "m0")
    assert not believed.accounts_for(name(0), "another")
    assert believed.accounts_for(name(1), "m1")
    assert believed.creating == {name(1)}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({**FRESH, "owner": "somebody"}, "is of as1-somebody"),
        ({**FRESH, "prefix": "as2"}, "is of as2-testtest"),
        ({**FRESH, "project": "p2"}, "in project p2"),
        ({**FRESH, "project": None}, "in project None"),
        ({**FRESH, "swept_age_s": None}, "stale: swept never"),
        ({**FRESH, "swept_age_s": 181.0}, "stale"),
        ({**FRESH, "swept_age_s": -7200.0}, "stale"),
        ({**FRESH, "swept_age_s": 2000.0, "sweep_s": 9000.0}, "stale"),
        ({"hello": "world"}, "no autoscaler"),
        ([], "no autoscaler"),
        (b"<html>", "no autoscaler"),
        (b" " * (33 * 1024 * 1024), "larger"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_any_other_daemon_is_no_witness(daemon: Told, body: object, why: str) -> None:
    daemon.body = body

    with pytest.raises(NoWitness, match=why):
        await ask([Address(daemon.url)], OURS, "p1")


async def test_nobody_there_is_no_witness(daemon: Told) -> None:
    daemon.status = 404

    with pytest.raises(NoWitness, match="404"):
        await ask([Address(daemon.url)], OURS, "p1")
    with pytest.raises(NoWitness, match="no daemon answers"):
        await ask([Address("http://127.0.0.1:9")], Owner("as1", "testtest"), "p1")
    with pytest.raises(NoWitness, match="--daemon"):
        await ask([], OURS, "p1")


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:9110",
        "ftp://127.0.0.1",
        "http://gpu-gateway:9110",
        "http://user:secret@127.0.0.1:9110",
        "http://127.0.0.1:9110/?token=1",
        "http://127.0.0.1:port",
        "",
    ],
)
def test_a_url_that_would_be_wrong_to_ask_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--daemon"):
        daemon_url(text)
