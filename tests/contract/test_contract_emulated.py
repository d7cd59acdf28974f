"""Each answer that the real cloud may give to an open question, and each way it may fail us.

Only the emulator can be told to; the client must come out right whichever way.
"""

from __future__ import annotations

import pytest

from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.credentials import Password, SecretFile
from autoscaler.domain.machine import OperationState, PowerState
from autoscaler.errors import (
    AuthFailed,
    AutoscalerError,
    CloudUnavailable,
    Forbidden,
    OutcomeUnknown,
    OutOfStock,
    PaymentRequired,
    QuotaExceeded,
    Rejected,
)
from tests.contract.parties import Admin, Party
from tests.contract.test_contract_writing import (
    cheapest,
    finished,
    gone,
    new_name,
    request,
    running,
)

pytestmark = pytest.mark.xdist_group("contract")


# switches: open questions, each answered both ways


async def test_a_running_machine_that_cannot_be_deleted_is_stopped_first(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.switch(delete_running="refused")
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    machine = await running(emulator, emulated, wanted.name)

    with pytest.raises(Rejected):
        await emulated.delete(machine.id)
    await emulated.stop(machine.id)

    async def off() -> bool | None:
        found = await emulated.machine(machine.id)
        return True if found and found.power is PowerState.STOPPED else None

    await emulator.eventually(off, 150)
    await emulated.delete(machine.id)
    assert await gone(emulator, emulated, machine.id)


@pytest.mark.parametrize("answer", ["refused", "ok"])
async def test_two_machines_of_one_name_are_refused_or_both_listed(
    answer: str, emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.switch(duplicate_names=answer)
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    await running(emulator, emulated, wanted.name)

    if answer == "refused":
        # a name is sent once: who has it already is ours, so that nothing is proven by the refusal
        with pytest.raises(OutcomeUnknown, match="exists"):
            await emulated.create(wanted)
        return
    await emulated.create(wanted)

    async def twins() -> bool | None:
        return True if len((await emulated.inventory()).named(wanted.name)) == 2 else None

    assert await emulator.eventually(twins, 60)


async def test_a_finished_operation_that_is_dropped_once_read_is_none_afterwards(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.switch(finished_operations="dropped")
    created = await emulated.create(request(await cheapest(emulated)))

    first = await finished(emulator, emulated, created)

    assert first.state is OperationState.SUCCEEDED
    assert await emulated.operation(created.operation_id) is None


async def test_a_paged_list_is_read_to_its_end(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.switch(list="paged")
    offer = await cheapest(emulated)
    names = {new_name() for _ in range(3)}
    for name in names:
        await emulated.create(request(offer, name))

    async def listed() -> bool | None:
        inventory = await emulated.inventory()
        assert inventory.complete
        return True if names <= {machine.name for machine in inventory.machines} else None

    assert await emulator.eventually(listed, 60)


async def test_where_network_wide_rules_are_refused_one_for_a_machine_is_made(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.switch(network_rules="refused")
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    machine = await running(emulator, emulated, wanted.name)

    with pytest.raises(Rejected):
        await emulated.ensure_firewall_rule("ct1-wide", ["198.51.100.7/32"], [8000])
    await emulated.ensure_firewall_rule(
        wanted.name, ["198.51.100.7/32"], [8000], machine_id=machine.id
    )

    async def listed() -> str | None:
        found = [each.id for each in await emulated.firewall_rules() if each.name == wanted.name]
        return found[0] if found else None

    await emulated.delete_firewall_rule(await emulator.eventually(listed, 60))


async def test_a_create_answer_without_the_machines_id_is_completed_by_the_operation(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.switch(create_id="no")
    wanted = request(await cheapest(emulated))

    created = await emulated.create(wanted)
    operation = await finished(emulator, emulated, created)

    assert created.machine_id is None
    assert operation.machine_id == (await running(emulator, emulated, wanted.name)).id


@pytest.mark.parametrize("answer", ["http", "operation"])
async def test_a_used_up_quota_is_told_from_missing_stock(
    answer: str, emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.switch(quota=answer)
    offer = await cheapest(emulated)
    await admin.quota(offer.gpu or "", 0)

    if answer == "http":
        with pytest.raises(QuotaExceeded):
            await emulated.create(request(offer))
        return
    failed = await finished(emulator, emulated, await emulated.create(request(offer)))
    assert (failed.state, failed.code) == (OperationState.FAILED, "quota_exceeded")


async def test_a_refused_kind_of_key_is_a_rejection(emulated: MkinfCloud, admin: Admin) -> None:
    await admin.switch(ed25519_keys="refused")

    with pytest.raises(Rejected):
        await emulated.create(request(await cheapest(emulated)))


# faults: reading


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("drop_before", {}),
        ("drop_after", {"count": 2}),
        ("status", {"code": 429, "count": 2}),
        ("status", {"code": 500, "count": 2}),
        ("status", {"code": 504}),
        ("html", {}),
        ("huge", {"size_mb": 9}),
        ("huge", {"size_mb": 64, "gzip": 1}),
    ],
)
async def test_reading_outlives_a_fault(
    kind: str, fields: dict[str, object], emulated: MkinfCloud, admin: Admin
) -> None:
    await admin.fault(kind, call="list_vms", **fields)

    assert (await emulated.inventory()).complete


async def test_cut_json_makes_an_inventory_incomplete(emulated: MkinfCloud, admin: Admin) -> None:
    await admin.fault("cut_json", call="list_vms")

    inventory = await emulated.inventory()

    assert not inventory.complete
    assert "not JSON" in inventory.why_incomplete


async def test_a_call_that_hangs_ends(emulator: Party, admin: Admin) -> None:
    await admin.fault("hang", call="list_vms", count=5)
    hasty = emulator.cloud(answer_timeout_s=0.2, tries=2)

    with pytest.raises(CloudUnavailable, match="timed out"):
        await hasty.inventory()
    await hasty.close()


async def test_a_late_answer_is_none(emulator: Party, admin: Admin) -> None:
    await admin.fault("delay", call="list_vms", delay_s=2)
    hasty = emulator.cloud(answer_timeout_s=0.2, tries=1)

    with pytest.raises(CloudUnavailable, match="timed out"):
        await hasty.inventory()
    await hasty.close()


@pytest.mark.parametrize("kind", ["list_loops", "bad_item"])
async def test_a_list_that_does_not_add_up_is_incomplete_and_shows_the_rest(
    kind: str, emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.switch(list="paged" if kind == "list_loops" else "whole")
    offer = await cheapest(emulated)
    names = [new_name() for _ in range(3)]
    for name in names:
        await emulated.create(request(offer, name))
        await running(emulator, emulated, name)
    await admin.fault(kind)

    inventory = await emulated.inventory()

    assert not inventory.complete
    assert inventory.machines
    assert (await emulated.inventory()).complete


async def test_an_unknown_state_exists(emulated: MkinfCloud, emulator: Party, admin: Admin) -> None:
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    machine = await running(emulator, emulated, wanted.name)
    await admin.fault("odd_state", count=2)

    seen = (await emulated.inventory()).by_id(machine.id)

    assert seen is not None
    assert seen.power is PowerState.UNKNOWN


async def test_a_running_machine_without_an_address_has_none(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.fault("no_address")
    wanted = request(await cheapest(emulated))
    await finished(emulator, emulated, await emulated.create(wanted))

    async def seen() -> bool | None:
        machines = (await emulated.inventory()).named(wanted.name)
        return True if [m for m in machines if m.power is PowerState.RUNNING] else None

    await emulator.eventually(seen, 60)
    (machine,) = (await emulated.inventory()).named(wanted.name)
    assert machine.address is None


async def test_one_404_is_only_one_404(emulated: MkinfCloud, emulator: Party, admin: Admin) -> None:
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    machine = await running(emulator, emulated, wanted.name)
    await admin.fault("flicker", call="get_vm")

    assert await emulated.machine(machine.id) is None
    assert await emulated.machine(machine.id) is not None


# faults: creating and deleting


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("drop_before", {}),
        ("drop_after", {}),
        ("status", {"code": 500, "after": 1}),
        ("status", {"code": 504}),
        ("html", {"after": 1}),
        ("cut_json", {}),
        ("huge", {"size_mb": 64, "gzip": 1}),
    ],
)
async def test_a_create_without_an_understood_answer_is_unknown_and_made_at_most_once(
    kind: str, fields: dict[str, object], emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    wanted = request(await cheapest(emulated))
    await admin.fault(kind, call="create_vm", **fields)

    with pytest.raises(OutcomeUnknown):
        await emulated.create(wanted)

    assert (await admin.names()).count(wanted.name) <= 1


async def test_a_lost_create_is_found_by_its_name(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    wanted = request(await cheapest(emulated))
    await admin.fault("drop_after", call="create_vm")

    with pytest.raises(OutcomeUnknown):
        await emulated.create(wanted)

    assert (await running(emulator, emulated, wanted.name)).name == wanted.name


async def test_a_create_that_hangs_ends_in_time(emulator: Party, admin: Admin) -> None:
    hasty = emulator.cloud(create_timeout_s=0.6)
    wanted = request(await cheapest(hasty))
    await admin.fault("hang", call="create_vm")

    with pytest.raises(OutcomeUnknown, match="timed out"):
        await hasty.create(wanted)
    await hasty.close()


@pytest.mark.parametrize(
    ("code", "failure"),
    [(401, AuthFailed), (402, PaymentRequired), (403, Forbidden), (429, CloudUnavailable)],
)
async def test_a_refused_create_made_nothing(
    code: int, failure: type[AutoscalerError], emulated: MkinfCloud, admin: Admin
) -> None:
    wanted = request(await cheapest(emulated))
    await admin.fault("status", call="create_vm", code=code)

    with pytest.raises(failure):
        await emulated.create(wanted)

    assert wanted.name not in await admin.names()


@pytest.mark.parametrize(
    ("kind", "code"), [("out_of_stock", "out_of_stock"), ("create_fails", "internal_error")]
)
async def test_a_create_that_fails_later_says_why(
    kind: str, code: str, emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.fault(kind)

    failed = await finished(
        emulator, emulated, await emulated.create(request(await cheapest(emulated)))
    )

    assert (failed.state, failed.code) == (OperationState.FAILED, code)


async def test_a_machine_that_a_failed_create_left_is_seen_and_goes(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.fault("failed_vm_left")
    wanted = request(await cheapest(emulated))

    failed = await finished(emulator, emulated, await emulated.create(wanted))
    machine = await running(emulator, emulated, wanted.name)

    assert failed.state is OperationState.FAILED
    await emulated.delete(machine.id)
    assert await gone(emulator, emulated, machine.id)


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "html", "cut_json"])
async def test_a_delete_whose_answer_is_lost_is_sent_again_and_works(
    kind: str, emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    machine = await running(emulator, emulated, wanted.name)
    await admin.fault(kind, call="delete_vm")

    try:
        await emulated.delete(machine.id)
    except AutoscalerError:
        await emulated.delete(machine.id)

    assert await gone(emulator, emulated, machine.id)


@pytest.mark.parametrize("kind", ["delete_ignored", "delete_fails"])
async def test_a_delete_that_lies_is_not_believed(
    kind: str, emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    machine = await running(emulator, emulated, wanted.name)
    await admin.fault(kind)

    await emulated.delete(machine.id)

    assert (await emulated.inventory()).by_id(machine.id) is not None
    await emulated.delete(machine.id)
    assert await gone(emulator, emulated, machine.id)


async def test_an_operation_that_never_ends_is_under_way_and_its_machine_is_seen(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.fault("operation_stuck", call="create_vm")
    wanted = request(await cheapest(emulated))

    created = await emulated.create(wanted)

    await running(emulator, emulated, wanted.name)
    operation = await emulated.operation(created.operation_id)
    assert operation is not None
    assert operation.state is OperationState.IN_PROGRESS


async def test_an_operation_that_succeeds_without_a_machine_shows_none(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.fault("no_vm")
    wanted = request(await cheapest(emulated))

    done = await finished(emulator, emulated, await emulated.create(wanted))

    assert done.state is OperationState.SUCCEEDED
    assert not (await emulated.inventory()).named(wanted.name)


async def test_an_os_disk_that_a_deleted_machine_left_is_listed_and_goes(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    await admin.fault("os_disk_left")
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    machine = await running(emulator, emulated, wanted.name)
    await emulated.delete(machine.id)
    await gone(emulator, emulated, machine.id)

    (left,) = [disk for disk in await emulated.disks() if disk.id in machine.disk_ids]
    assert left.name == f"OS-disk-{machine.id}"
    await emulated.delete_disk(left.id)

    async def swept() -> bool | None:
        return None if left.id in {disk.id for disk in await emulated.disks()} else True

    assert await emulator.eventually(swept, 60)


async def test_a_machine_that_vanished_is_absent_from_a_complete_inventory(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    wanted = request(await cheapest(emulated))
    await emulated.create(wanted)
    machine = await running(emulator, emulated, wanted.name)

    await admin.vanish(machine.id)

    assert await gone(emulator, emulated, machine.id)


async def test_stock_that_was_said_may_not_be_there(
    emulated: MkinfCloud, emulator: Party, admin: Admin
) -> None:
    offer = await cheapest(emulated)
    standing = offer
    await admin.stock(offer, 0)
    try:
        await admin.fault("stock_said")
        told = [each for each in await emulated.offers() if each.key == offer.key]
        assert told[0].in_stock
        try:
            failed = await finished(emulator, emulated, await emulated.create(request(offer)))
        except OutOfStock:
            return
        assert (failed.state, failed.code) == (OperationState.FAILED, "out_of_stock")
    finally:
        await admin.stock(standing, 4)


# the credential


async def test_a_revoked_key_is_refused_and_works_again_when_restored(
    emulator: Party, admin: Admin
) -> None:
    cloud = emulator.cloud()
    await cloud.inventory()
    await admin.credentials("revoke")

    with pytest.raises(AuthFailed):
        await cloud.inventory()
    await admin.credentials("restore")

    async def back() -> bool | None:
        try:
            return (await cloud.inventory()).complete
        except AuthFailed:
            return None

    assert await emulator.eventually(back, 10)
    await cloud.close()


async def test_a_password_signs_in_and_expired_tokens_are_renewed(
    emulator: Party, admin: Admin
) -> None:
    assert emulator.password_file is not None
    cloud = emulator.cloud(Password("operator@example.com", SecretFile(emulator.password_file)))
    await cloud.inventory()

    for _ in range(3):
        await admin.credentials("expire")
        assert (await cloud.inventory()).complete
    await cloud.close()


async def test_a_wrong_password_is_refused(emulator: Party) -> None:
    cloud = emulator.cloud(Password("nobody@example.com", SecretFile(emulator.key_file)))

    with pytest.raises(AuthFailed):
        await cloud.inventory()
    await cloud.close()
