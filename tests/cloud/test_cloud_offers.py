"""The price list against what the API lists: what is offered, at what price, and why not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from autoscaler.cloud.mkinf.offers import Catalogue, ImageNames, offers_of
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.cloud.mkinf.values import Availability, Image, Spec
from autoscaler.domain.offer import Offer, OfferKey
from autoscaler.errors import ConfigError

HERE = "us-east1-a"
PCIE = Image("ubuntu22.04-nvidia-pcie-docker", tags=("2023-11-16",), locations=(HERE,))
L40S = Spec("l40s-48gb.1x", 1, "L40S-48GB", cpu_cores=8, memory_gb=147, disk_gb=128)


def offered(
    *availabilities: Availability,
    specs: tuple[Spec, ...] = (L40S,),
    images: tuple[Image, ...] = (PCIE,),
    names: ImageNames | None = None,
) -> dict[OfferKey, Offer]:
    rows = availabilities or (Availability("l40s-48gb.1x", HERE, True),)
    found = offers_of(Catalogue(rows, specs, images), load_prices(), names or ImageNames())
    return {offer.key: offer for offer in found}


def l40s(**given: object) -> Offer:
    return offered(**given)[OfferKey("l40s-48gb.1x", HERE)]  # type: ignore[arg-type]  # as offered


def test_a_price_is_that_of_all_gpus_and_the_os_disk() -> None:
    offer = l40s()

    assert offer.price_per_hour is not None
    assert offer.price_per_hour.usd == Decimal("1.25") + 128 * Decimal("0.00013")
    assert (offer.gpu, offer.gpus, offer.gpu_memory_gb) == ("l40s", 1, 48)
    assert (offer.unrentable, offer.warnings, offer.in_stock) == (None, (), True)
    assert offer.image == "ubuntu22.04-nvidia-pcie-docker"


def test_offers_come_cheapest_first_and_unpriced_ones_last() -> None:
    offers = offers_of(
        Catalogue(
            (
                Availability("mystery.1x", HERE, True),
                Availability("l40s-48gb.1x", HERE, False),
                Availability("a40.1x", HERE, True),
            ),
            (L40S,),
            (PCIE,),
        ),
        load_prices(),
        ImageNames(),
    )

    listed = [offer.key.type for offer in offers if offer.key.location == HERE]
    prices = [offer.price_per_hour.usd for offer in offers if offer.price_per_hour]
    assert listed == ["a40.1x", "l40s-48gb.1x", "mystery.1x"]
    assert prices == sorted(prices)
    assert "no price" in (offers[-1].unrentable or "")


def test_out_of_stock_may_be_rented_another_time() -> None:
    offer = offered(Availability("l40s-48gb.1x", HERE, False))[OfferKey("l40s-48gb.1x", HERE)]

    assert (offer.in_stock, offer.unrentable) == (False, None)


def test_a_pair_listed_twice_is_in_stock_if_any_row_says_so() -> None:
    rows = [Availability("l40s-48gb.1x", HERE, stock) for stock in (True, False)]

    assert offered(*rows)[OfferKey("l40s-48gb.1x", HERE)].in_stock


def test_sxm_is_shown_with_its_price_and_why_it_cannot_be_rented() -> None:
    offer = offered()[OfferKey("a100-80gb-sxm", "-")]

    assert offer.price_per_hour is not None
    assert "documents no type" in (offer.unrentable or "")


def test_a_priced_type_that_no_location_lists_is_shown() -> None:
    assert offered()[OfferKey("a40.8x", "-")].unrentable == "no location lists it now"


def test_an_unpriced_type_of_a_priced_gpu_says_what_the_gpu_costs() -> None:
    sxm = Spec("a100-80gb-sxm-ib.8x", 8, "A100-SXM-80GB")
    found = offered(Availability(sxm.product_name, HERE, True), specs=(sxm,))

    offer = found[OfferKey(sxm.product_name, HERE)]
    assert "$2.15" in (offer.unrentable or "")
    assert (offer.price_per_hour, offer.gpus) == (None, 8)
    assert OfferKey("a100-80gb-sxm", "-") not in found


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (Spec("l40s-48gb.1x", 2, "L40S-48GB"), "specs say 2 GPUs, the price list 1"),
        (Spec("l40s-48gb.1x", 1, "L4-24GB"), "specs say its GPU is 'L4-24GB'"),
    ],
)
def test_specs_with_other_gpus_than_priced_forbid_renting(spec: Spec, reason: str) -> None:
    assert reason in (l40s(specs=(spec,)).unrentable or "")


def test_other_cpu_memory_and_disk_figures_warn_and_the_apis_count() -> None:
    offer = l40s(
        specs=(Spec("l40s-48gb.1x", 1, "L40S-48GB", cpu_cores=10, memory_gb=150, disk_gb=256),)
    )

    assert offer.unrentable is None
    assert (offer.vcpu, offer.ram_gb) == (10, 150)
    assert [warning.split(",")[0] for warning in offer.warnings] == [
        "specs say 10 vCPU",
        "specs say 150 GB of memory",
        "specs say 256 GB of disk",
    ]


def test_a_type_without_specs_is_offered_with_a_warning() -> None:
    offer = l40s(specs=())

    assert offer.unrentable is None
    assert "no spec" in offer.warnings[0]


@pytest.mark.parametrize(
    ("image", "name", "reason"),
    [
        (PCIE, "debian12", "no image 'debian12' is listed"),
        (PCIE, f"{PCIE.name}:2099", "has no tag '2099'; it has: 2023-11-16"),
        (Image(PCIE.name, locations=("elsewhere",)), PCIE.name, f"is not in {HERE}"),
    ],
)
def test_a_type_whose_image_is_not_there_is_not_for_rent(
    image: Image, name: str, reason: str
) -> None:
    offer = l40s(images=(image,), names=ImageNames(pcie=name))

    assert reason in (offer.unrentable or "")
    assert offer.image is None


def test_a_tagged_image_is_found_and_unknown_locations_are_no_obstacle() -> None:
    tagged = f"{PCIE.name}:2023-11-16"

    assert l40s(names=ImageNames(pcie=tagged)).image == tagged
    assert l40s(images=(Image(PCIE.name, locations=None),)).image == PCIE.name


def test_every_type_of_the_price_list_is_offered_at_its_gpu_price_times_its_gpus() -> None:
    prices = load_prices()

    assert len(prices.types) == 17
    for each in prices.types.values():
        assert each.gpu is not None
        assert each.price_per_hour == each.gpu.price_per_hour * each.gpus


LIST = """
currency = "USD"
disk_gb_hour = "0.0001"
[gpus]
g = { usd_per_hour = "1.00", memory_gb = 48, gpu_types = ["G"] }
[types]
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("currency = ", "not TOML"),
        (
            LIST + '"g.2x" = { gpu = "g", gpus = 2, vcpu = 1, ram_gb = 1, usd_per_hour = "1.00" }',
            r'"g\.2x"\.usd_per_hour is 1\.00, but 2 x 1\.00 \(g\) is 2\.00',
        ),
        (
            LIST + '"g.1x" = { gpu = "h", gpus = 1, vcpu = 1, ram_gb = 1, usd_per_hour = "1.00" }',
            "no 'h' under",
        ),
        (
            LIST + '"g.1x" = { gpus = 1, vcpu = 1, ram_gb = 1, usd_per_hour = "1.00" }',
            "belong together",
        ),
        (
            LIST + '"g.1x" = { gpu = "g", gpus = 1, vcpu = 1, ram_gb = 1, usd_per_hour = 1.0 }',
            r"types\.g\.1x\.usd_per_hour: .*money is text",
        ),
        (
            LIST + '"g.1x" = { gpu = "g", gpus = 1, vcpu = 1, ram_gb = 1, usd_per_hour = "NaN" }',
            r"usd_per_hour",
        ),
        (LIST.replace("USD", "EUR"), "currency: .*'USD'"),
        (LIST + "surprise = 1", "surprise"),
    ],
)
def test_a_bad_price_list_is_refused_whole_with_file_and_key(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=f"(?s)prices.toml: .*{reason}"):
        load_prices(path)


def test_a_missing_price_list_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read"):
        load_prices(tmp_path / "gone.toml")


def test_types_without_gpus_carry_their_own_price(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(LIST + '"c1a.2x" = { gpus = 0, vcpu = 2, ram_gb = 8, usd_per_hour = "0.08" }')

    (offer,) = (
        offer
        for offer in offers_of(
            Catalogue(
                (Availability("c1a.2x", HERE, True),),
                (Spec("c1a.2x", 0, cpu_cores=2, memory_gb=8),),
                (Image("ubuntu22.04", locations=(HERE,)),),
            ),
            load_prices(path),
            ImageNames(),
        )
        if offer.key.type == "c1a.2x"
    )

    assert (offer.gpu, offer.gpus, offer.unrentable, offer.image) == (None, 0, None, "ubuntu22.04")
