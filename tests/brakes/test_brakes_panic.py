"""Panic deletes all that is ours, nothing else, and ends only when absence is proven."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.brakes.creates import Creates
from autoscaler.brakes.ours import look
from autoscaler.brakes.panic import Progress
from autoscaler.brakes.silence import Silence
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Disk, FirewallRule, Inventory, OperationState, PowerState
from autoscaler.domain.money import Money
from autoscaler.errors import CloudUnavailable, EndpointMissing, OutcomeUnknown, Rejected
from tests.brakes.parts import (
    NOON,
    OURS,
    PRICES,
    Clock,
    LyingCloud,
    create_of,
    machine,
    name,
    panic_of,
)


@pytest.fixture
def cloud() -> LyingCloud:
    return LyingCloud(Clock())


async def test_gone_takes_three_listings_over_the_confirming_time_and_a_404(
    cloud: LyingCloud,
) -> None:
    cloud.add(name())

    await panic_of(cloud).run()

    assert cloud.vms == {}
    assert cloud.clock.passed_s - 1000 >= 60
    assert cloud.calls[0] == ("delete", f"id-{name()}")
    assert ("get", f"id-{name()}") in cloud.calls


async def test_only_names_of_our_whole_form_are_touched(cloud: LyingCloud) -> None:
    strangers = (
        name(1, owner="somebody"),
        name(1, prefix="as2"),
        "as1-testtest-mybox",
        "as1-testtest",
        "x" + name(2),
        "somebodys-box",
    )
    cloud.add(name(), *strangers)

    await panic_of(cloud).run()

    assert {vm.name for vm in cloud.vms.values()} == set(strangers)
    assert cloud.touched() == {f"id-{name()}"}


async def test_a_refused_delete_is_followed_by_a_stop_and_another_delete(cloud: LyingCloud) -> None:
    cloud.add(name())
    cloud.refuses_running = True

    await panic_of(cloud).run()

    kinds = [kind for kind, _ in cloud.calls]
    assert kinds[:3] == ["delete", "stop", "delete"]


async def test_a_delete_that_came_to_nothing_is_repeated_and_the_vm_stopped_in_the_end(
    cloud: LyingCloud,
) -> None:
    cloud.add(name())
    cloud.deletes = ["ignored", "ignored", "ignored"]

    await panic_of(cloud).run()

    kinds = [kind for kind, _ in cloud.calls]
    assert kinds[:4] == ["delete", "delete", "stop", "delete"]
    assert cloud.vms == {}


async def test_a_list_that_is_not_whole_proves_nothing(cloud: LyingCloud) -> None:
    cloud.add(name())
    cloud.deletes = ["ignored"] * 6
    cloud.lists = [None, *[partly] * 40]

    await panic_of(cloud).run()

    assert cloud.vms == {}
    assert cloud.clock.passed_s - 1000 >= 40 * 5 + 60


async def test_a_vm_that_comes_back_after_its_proof_is_deleted_again(cloud: LyingCloud) -> None:
    cloud.add(name(0), name(1))
    cloud.deletes = [None, *["ignored"] * 6]
    cloud.appears = {80.0: machine(name(0))}
    seen: list[Progress] = []

    await panic_of(cloud, seen.append).run()

    assert cloud.vms == {}
    assert any(progress.proven == 1 for progress in seen if progress.elapsed_s < 80)
    assert cloud.clock.passed_s - 1000 >= 80 + 60


async def test_a_vm_that_no_list_shows_is_not_gone_while_its_id_is_known(
    cloud: LyingCloud,
) -> None:
    cloud.add(name())
    cloud.lists = [None, *[hidden] * 30]
    cloud.deletes = ["ignored"] * 12

    await panic_of(cloud).run()

    assert cloud.vms == {}


async def test_a_vm_that_no_whole_list_has_shown_yet_is_not_missed(cloud: LyingCloud) -> None:
    cloud.add(name())
    cloud.lists = [partly] * 30

    await panic_of(cloud).run()

    assert cloud.vms == {}


def test_silence_takes_three_listings_over_the_confirming_time() -> None:
    hasty, sparse, broken, whole = (Silence(timedelta(seconds=60)) for _ in range(4))
    for at_s in (0.0, 20.0, 40.0, 59.0):
        hasty.heard(False, at_s)
    for at_s in (0.0, 100.0, 100.0):  # the same listing twice
        sparse.heard(False, at_s)
    for at_s, any_listed in ((0.0, False), (30.0, True), (31.0, False), (90.0, False)):
        broken.heard(any_listed, at_s)
    for at_s in (0.0, 30.0, 60.0):
        whole.heard(False, at_s)

    assert [s.is_proven for s in (hasty, sparse, broken, whole)] == [False, False, False, True]


async def test_a_create_under_way_is_waited_for_and_its_vm_deleted(cloud: LyingCloud) -> None:
    cloud.ops = [create_of(name(), OperationState.IN_PROGRESS)]
    cloud.appears = {400.0: machine(name())}
    seen: list[Progress] = []

    await panic_of(cloud, seen.append).run()

    assert cloud.vms == {}
    assert ("delete", f"id-{name()}") in cloud.calls
    assert any(progress.coming == 1 for progress in seen)


async def test_a_create_that_never_brings_a_vm_is_given_up_at_the_settling_time(
    cloud: LyingCloud,
) -> None:
    await panic_of(cloud, creating=[name()]).run()

    assert 600 <= cloud.clock.passed_s - 1000 < 700


async def test_a_create_that_failed_or_was_deleted_since_holds_nothing_up(
    cloud: LyingCloud,
) -> None:
    gone = MachineId("id-gone")
    cloud.ops = [
        create_of(name(0), OperationState.FAILED),
        create_of(name(1), OperationState.SUCCEEDED, machine_id=gone),
        create_of("", OperationState.SUCCEEDED, kind="DELETE", machine_id=gone, request_name=None),
    ]

    await panic_of(cloud).run()

    assert cloud.clock.passed_s - 1000 < 200


async def test_a_create_that_no_operation_could_tell_of_is_waited_for_too(
    cloud: LyingCloud,
) -> None:
    for unread in ({"operations_unread": 1_000}, {"lists_operations": False}):
        blind = replace(cloud, clock=Clock(), vms={}, calls=[], **unread)
        blind.appears = {500.0: machine(name())}

        panic = panic_of(blind)
        await panic.run()

        assert ("delete", f"id-{name()}") in blind.calls
        assert panic.left() == []  # no system disk is left that only operations could tell of


async def test_a_disk_that_only_operations_could_tell_of_is_named_when_they_are_not_listed(
    cloud: LyingCloud,
) -> None:
    cloud.lists_operations = False
    cloud.spare_disks = [Disk("d1", "OS-disk-somebodys", 128, "us-east1-a")]

    panic = panic_of(cloud)
    await panic.run()

    assert [line for line in panic.left() if "OS-disk-somebodys" in line]
    assert cloud.touched() == set()


async def test_a_create_that_operations_tell_of_only_once_is_remembered(cloud: LyingCloud) -> None:
    """A look beforehand was told of it; its VM is listed much later."""
    cloud.tells_once = True
    cloud.ops = [create_of(name(), OperationState.SUCCEEDED)]
    cloud.appears = {400.0: machine(name())}
    creates = Creates(cloud, OURS)
    await look(cloud, OURS, PRICES, NOON, creates)
    assert cloud.ops == []

    await panic_of(cloud, creates=creates).run()

    assert cloud.vms == {}


async def test_a_vm_that_only_its_disk_shows_is_asked_for_and_deleted(cloud: LyingCloud) -> None:
    cloud.add(name(), "somebodys")
    cloud.lists = [hidden] * 20
    cloud.spare_disks = [
        Disk(f"d-{each}", f"OS-disk-id-{each}", 128, "us-east1-a") for each in (name(), "somebodys")
    ]

    await panic_of(cloud).run()

    assert list(cloud.vms) == ["id-somebodys"]


async def test_operations_that_are_listed_again_end_the_waiting(cloud: LyingCloud) -> None:
    cloud.operations_unread = 30

    panic = panic_of(cloud)
    await panic.run()

    assert panic.left() == []
    assert cloud.clock.passed_s - 1000 < 600


async def test_our_system_disks_and_rules_go_last_and_nobody_elses(cloud: LyingCloud) -> None:
    cloud.add(name())
    cloud.spare_disks = [
        Disk("d1", f"OS-disk-id-{name()}", 128, "us-east1-a"),
        Disk("d2", "OS-disk-somebodys", 128, "us-east1-a"),
        Disk("d3", "as1-testtest-cache", 200, "us-east1-a"),
        Disk("d4", f"OS-disk-id-{name(1)}", 200, "us-east1-a", (MachineId("id-somebodys"),)),
    ]
    cloud.ops = [create_of(name(1), OperationState.FAILED, machine_id=MachineId(f"id-{name(1)}"))]
    cloud.rules = [
        FirewallRule("r1", "as1-testtest-serve", ("198.51.100.7/32",), ("8000",), active=True),
        FirewallRule("r2", "as1-somebody-serve", ("198.51.100.8/32",), ("8000",), active=True),
        FirewallRule("r3", "as1-testtest-office", ("198.51.100.8/32",), ("22",), active=True),
    ]
    panic = panic_of(cloud)

    await panic.run()

    assert [disk.id for disk in cloud.spare_disks] == ["d2", "d3", "d4"]
    assert [rule.id for rule in cloud.rules] == ["r2", "r3"]
    assert cloud.calls[0][0] == "delete"
    assert panic.left() == []
    for by_hand in ("as1-testtest-cache", f"OS-disk-id-{name(1)}", "as1-testtest-office"):
        assert by_hand in " ".join(panic.notes)


async def test_a_living_daemons_rule_is_left(cloud: LyingCloud) -> None:
    cloud.rules = [FirewallRule("r1", "as1-testtest-serve", (), ("8000",), active=True)]

    await panic_of(cloud, with_rules=False).run()

    assert cloud.touched() == set()


async def test_what_cannot_be_listed_is_not_proven_absent(cloud: LyingCloud) -> None:
    cloud.lists_disks = False
    panic = panic_of(cloud)

    await panic.run()

    assert panic.left() == ["disks: this cloud does not list them"]


async def test_a_cloud_without_a_delete_call_is_an_error_and_no_endless_loop(
    cloud: LyingCloud,
) -> None:
    cloud.add(name())
    cloud.deletes = [EndpointMissing("DELETE vms: 501")]

    with pytest.raises(EndpointMissing):
        await panic_of(cloud).run()


async def test_broken_off_it_says_what_is_left_and_begun_again_it_goes_on(
    cloud: LyingCloud,
) -> None:
    cloud.add(name(0), name(1))
    cloud.deletes = [None, Rejected("409: busy")]
    stop = asyncio.Event()

    def after_first(progress: Progress) -> None:
        if progress.elapsed_s > 0:
            stop.set()

    first = panic_of(cloud, after_first)
    running = asyncio.create_task(first.run())
    await stop.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert any(name(1) in line for line in first.left())

    await panic_of(cloud).run()

    assert cloud.vms == {}


async def test_money_left_and_saved_follow_the_listing(cloud: LyingCloud) -> None:
    cloud.add(name(0), name(1))
    cloud.deletes = [None, "ignored"]
    seen: list[Progress] = []

    await panic_of(cloud, seen.append).run()

    assert seen[0].usd_per_hour == Money.of("2.20")
    assert any((p.usd_per_hour, p.saved_per_hour) == (Money.of("1.10"),) * 2 for p in seen)
    assert seen[-1].saved_per_hour == Money.of("2.20")
    assert seen[-1].proven == 2


def partly(whole: Inventory) -> Inventory:
    return replace(whole, machines=(), complete=False)


def hidden(whole: Inventory) -> Inventory:
    return replace(whole, machines=())


LISTINGS = st.sampled_from(
    [None, None, hidden, CloudUnavailable("503"), lambda whole: replace(whole, complete=False)]
)
DELETES = st.sampled_from(
    [None, "ignored", Rejected("409"), OutcomeUnknown("timed out"), CloudUnavailable("503")]
)


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(0, 5),
    powers=st.lists(st.sampled_from(list(PowerState)), min_size=5, max_size=5),
    lists=st.lists(LISTINGS, max_size=12),
    deletes=st.lists(DELETES, max_size=15),
    refuses=st.booleans(),
    late_s=st.one_of(st.none(), st.integers(0, 500)),
)
def test_whatever_the_cloud_does_it_ends_only_when_nothing_of_ours_is_left(
    count: int,
    powers: list[PowerState],
    lists: list[object],
    deletes: list[AssertionError],
    refuses: bool,
    late_s: int | None,
) -> None:
    cloud = LyingCloud(Clock(), refuses_running=refuses)
    for number in range(count):
        cloud.add(name(number), power=powers[number])
    cloud.add("somebodys-box")
    if late_s is not None:
        cloud.ops = [create_of(name(9), OperationState.IN_PROGRESS)]
        cloud.appears = {float(late_s): machine(name(9))}
    cloud.lists = list(lists)  # type: ignore[arg-type]  # as drawn
    cloud.deletes = list(deletes)  # type: ignore[arg-type]  # as drawn
    panic = panic_of(cloud)

    asyncio.run(panic.run())

    assert [vm.name for vm in cloud.vms.values()] == ["somebodys-box"]
    assert panic.left() == []
    assert "id-somebodys-box" not in cloud.touched()
