"""What any mkinf must do for who rents: a machine's whole life, a rule's, a disk's."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.values import VmRequest
from autoscaler.cloud.protocol import Created, CreateRequest
from autoscaler.domain.ids import IntentId, MachineId, ModelName, NodeName, node_name
from autoscaler.domain.machine import Machine, Operation, OperationState, PowerState
from autoscaler.domain.offer import Offer
from autoscaler.errors import NotFound, Rejected
from tests.contract.parties import SSH_KEY, Party

pytestmark = pytest.mark.xdist_group("contract")
SCRIPT = "#!/bin/bash\nset -eu\ntrue\n"


def new_name() -> NodeName:
    intent = "".join(secrets.choice("abcdefghijklmnop") for _ in range(13))
    return node_name("ct1", "contract", IntentId(intent), 1, ModelName("contract"))


async def cheapest(cloud: MkinfCloud) -> Offer:
    offers = await cloud.offers()
    return next(offer for offer in offers if offer.in_stock and offer.unrentable is None)


def request(offer: Offer, name: NodeName | None = None) -> CreateRequest:
    return CreateRequest(name or new_name(), offer, SSH_KEY, SCRIPT)


async def finished(party: Party, cloud: MkinfCloud, created: Created) -> Operation:
    async def check() -> Operation | None:
        found = await cloud.operation(created.operation_id)
        return None if found is None or found.state is OperationState.IN_PROGRESS else found

    return await party.eventually(check, 300)


async def running(party: Party, cloud: MkinfCloud, name: str) -> Machine:
    async def check() -> Machine | None:
        machines = (await cloud.inventory()).named(name)
        ready = [m for m in machines if m.power is PowerState.RUNNING and m.address]
        return ready[0] if ready else None

    return await party.eventually(check, 300)


async def gone(party: Party, cloud: MkinfCloud, machine_id: MachineId) -> bool:
    async def check() -> bool | None:
        inventory = await cloud.inventory()
        if not inventory.complete or inventory.by_id(machine_id) is not None:
            return None
        return True if await cloud.machine(machine_id) is None else None

    return await party.eventually(check, 300)


@pytest.fixture
async def renting(writable: Party, cloud: MkinfCloud) -> AsyncIterator[tuple[Party, MkinfCloud]]:
    """A cloud to rent from; what the test leaves of ours goes, whatever happens."""
    yield writable, cloud
    for machine in (await cloud.inventory()).machines:
        if machine.name.startswith("ct1-contract-"):
            await cloud.delete(machine.id)
            await gone(writable, cloud, machine.id)


async def test_a_machine_is_made_seen_stopped_and_deleted(
    renting: tuple[Party, MkinfCloud],
) -> None:
    party, cloud = renting
    wanted = request(await cheapest(cloud))
    since = datetime.now(UTC) - timedelta(hours=1)

    created = await cloud.create(wanted)
    under_way = await cloud.operations(since)
    assert [each for each in under_way if each.request_name == wanted.name]
    operation = await finished(party, cloud, created)
    assert (operation.state, operation.request_name) == (OperationState.SUCCEEDED, wanted.name)
    machine = await running(party, cloud, wanted.name)
    assert machine.id == (created.machine_id or operation.machine_id)
    assert (machine.type, machine.location) == (wanted.offer.key.type, wanted.offer.key.location)
    assert machine.disk_ids

    await cloud.stop(machine.id)

    async def stopped() -> Machine | None:
        found = await cloud.machine(machine.id)
        return found if found and found.power is PowerState.STOPPED else None

    await party.eventually(stopped, 150)
    await cloud.delete(machine.id)
    assert await gone(party, cloud, machine.id)
    await cloud.delete(machine.id)  # unknown is no error
    assert not {each.id for each in await cloud.disks()} & set(machine.disk_ids)


@pytest.mark.parametrize("wrong", ["type", "location", "image", "name", "key"])
async def test_a_request_that_can_never_work_is_rejected_and_makes_nothing(
    wrong: str, renting: tuple[Party, MkinfCloud]
) -> None:
    _, cloud = renting
    offer = await cheapest(cloud)
    good = VmRequest(new_name(), offer.key.type, offer.key.location, offer.image or "", SSH_KEY)
    field = {"key": "ssh_public_key"}.get(wrong, wrong)
    bad = "No Such Thing!"

    with pytest.raises(Rejected):
        await cloud.client.create_vm(replace(good, **{field: bad}))  # type: ignore[arg-type]  # texts

    names = {machine.name for machine in (await cloud.inventory()).machines}
    assert not names & {good.name, bad}


async def test_one_firewall_rule_is_made_verified_mended_and_deleted(
    renting: tuple[Party, MkinfCloud],
) -> None:
    party, cloud = renting
    name = f"ct1-{secrets.token_hex(4)}"
    first = await cloud.ensure_firewall_rule(name, ["198.51.100.7/32"], [8000, 9100])

    async def active() -> str | None:
        rule = await cloud.ensure_firewall_rule(name, ["198.51.100.7/32"], [8000, 9100])
        return rule.id if rule.active else None

    rule_id = await party.eventually(active, 120)
    assert first.id in ("", rule_id)

    await cloud.ensure_firewall_rule(name, ["198.51.100.8/32"], [8000])

    async def mended() -> bool | None:
        (rule,) = [each for each in await cloud.firewall_rules() if each.name == name]
        return True if (rule.sources, rule.ports) == (("198.51.100.8/32",), ("8000",)) else None

    assert await party.eventually(mended, 120)
    await cloud.delete_firewall_rule(rule_id)

    async def deleted() -> bool | None:
        return None if [r for r in await cloud.firewall_rules() if r.name == name] else True

    assert await party.eventually(deleted, 120)
    await cloud.delete_firewall_rule(rule_id)  # unknown is no error


async def test_a_data_disk_is_made_grown_and_deleted(renting: tuple[Party, MkinfCloud]) -> None:
    party, cloud = renting
    client = cloud.client
    name = f"ct1-{secrets.token_hex(4)}"
    operation = await client.create_disk(name, "10GiB", (await cheapest(cloud)).key.location)

    async def made() -> str | None:
        found = [each for each in await client.disks() if each.name == name]
        return found[0].id if found else None

    disk_id = await party.eventually(made, 120)
    assert operation.operation_id
    await client.resize_disk(disk_id, "20GiB")

    async def grown() -> bool | None:
        return True if (await client.disk(disk_id)).size_gib == 20 else None

    assert await party.eventually(grown, 120)
    await cloud.delete_disk(disk_id)

    async def deleted() -> bool | None:
        try:
            await client.disk(disk_id)
        except NotFound:
            return True
        return None

    assert await party.eventually(deleted, 120)
