"""What any mkinf must answer to who only reads. Runs against the real cloud as it stands."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.credentials import AccessKey
from autoscaler.cloud.secret import Secret
from autoscaler.domain.ids import MachineId, OperationId
from autoscaler.errors import AuthFailed, AutoscalerError, EndpointMissing, NotFound
from tests.contract.parties import Party

pytestmark = pytest.mark.xdist_group("contract")
NO_ID = "00000000-0000-4000-8000-000000000000"


async def test_the_credential_reaches_the_configured_project(
    cloud: MkinfCloud, party: Party
) -> None:
    assert await cloud.project_id() == party.project_id


async def test_projects_and_organizations_belong_together(cloud: MkinfCloud, party: Party) -> None:
    try:
        projects = {each.id: each for each in await cloud.client.projects()}
        organizations = {each.id for each in await cloud.client.organizations()}
    except AuthFailed:
        pytest.skip("organization calls refuse this key, as they may")

    assert projects[party.project_id].organization_id in organizations


async def test_every_location_of_the_stock_is_a_location(cloud: MkinfCloud) -> None:
    stock = await cloud.client.availabilities()

    assert stock.complete
    assert {each.location for each in stock} <= set(await cloud.client.locations())


async def test_availabilities_take_both_filters(cloud: MkinfCloud) -> None:
    first = next(iter(await cloud.client.availabilities()))

    found = await cloud.client.availabilities(types=[first.type], locations=[first.location])

    assert {(each.type, each.location) for each in found} == {(first.type, first.location)}


async def test_specs_and_images_are_whole(cloud: MkinfCloud) -> None:
    specs, images = await cloud.client.specs(), await cloud.client.images()

    assert specs.complete
    assert images.complete
    assert any(each.num_gpu > 0 for each in specs)
    assert (await cloud.client.image(images.items[0].name)).name == images.items[0].name


async def test_there_are_offers_with_a_price_and_every_one_that_has_none_says_why(
    cloud: MkinfCloud,
) -> None:
    offers = await cloud.offers()

    assert any(offer.unrentable is None for offer in offers)
    assert all(offer.price_per_hour or offer.unrentable for offer in offers)
    assert all(offer.image or offer.unrentable for offer in offers)
    prices = [offer.price_per_hour.usd for offer in offers if offer.price_per_hour]
    assert prices == sorted(prices)


async def test_the_sxm_gpu_is_told_of(cloud: MkinfCloud) -> None:
    sxm = [offer for offer in await cloud.offers() if "sxm" in offer.key.type]

    assert sxm
    assert all(offer.unrentable for offer in sxm)


async def test_the_inventory_is_complete(cloud: MkinfCloud) -> None:
    inventory = await cloud.inventory()

    assert inventory.complete, inventory.why_incomplete


async def test_what_is_inferred_is_there_or_says_that_it_is_not(cloud: MkinfCloud) -> None:
    missing: list[str] = []
    for call in (
        cloud.client.networks,
        cloud.client.subnets,
        cloud.client.firewall_rules,
        cloud.client.disks,
        cloud.client.operations,
    ):
        try:
            listing = await call()
        except EndpointMissing as exc:
            missing.append(str(exc))
        else:
            assert listing.complete
    assert all("Instead:" in each for each in missing)


async def test_an_unknown_machine_is_none(cloud: MkinfCloud) -> None:
    assert await cloud.machine(MachineId(NO_ID)) is None


async def test_an_unknown_operation_is_none(cloud: MkinfCloud) -> None:
    assert await cloud.operation(OperationId(NO_ID)) is None


async def test_an_unknown_image_is_not_found(cloud: MkinfCloud) -> None:
    with pytest.raises(NotFound):
        await cloud.client.image(NO_ID)


async def test_usage_is_told_by_day(cloud: MkinfCloud) -> None:
    today = datetime.now(UTC)

    for line in await cloud.usage(today - timedelta(days=3), today):
        assert date.fromisoformat(line.date) <= today.date()
        assert line.quantity >= 0


async def test_operations_are_listed_since_an_instant(cloud: MkinfCloud) -> None:
    recent = await cloud.operations(datetime.now(UTC) - timedelta(days=1))

    assert all(each.id for each in recent)


async def test_a_wrong_key_is_refused(party: Party) -> None:
    stranger = party.cloud(AccessKey(Secret("no-key-of-anybody")))
    try:
        with pytest.raises(AuthFailed):
            await stranger.inventory()
    finally:
        await stranger.close()


async def test_another_project_gives_nothing(party: Party) -> None:
    elsewhere = party.cloud(project_id=NO_ID)
    try:
        with pytest.raises(AutoscalerError):
            await elsewhere.inventory()
        with pytest.raises(AutoscalerError):
            await elsewhere.project_id()
    finally:
        await elsewhere.close()
