"""Offers: the types that have a price, in the locations that list them, checked against the specs.

Pure. Nothing is dropped in silence: what may never be rented is an offer that says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from autoscaler.cloud.mkinf.prices import PricedGpu, PricedType, PriceList
from autoscaler.cloud.mkinf.values import Availability, Image, Spec
from autoscaler.domain.offer import Offer, OfferKey

NOWHERE: Final = "-"  # the location of an offer that no location lists


@dataclass(frozen=True, slots=True)
class ImageNames:
    """Which image a VM boots from, by the kind of its GPUs; a name, or `name:tag`."""

    pcie: str = "ubuntu22.04-nvidia-pcie-docker"
    sxm: str = "ubuntu22.04-nvidia-sxm-docker"
    cpu: str = "ubuntu22.04"

    def of(self, gpu: PricedGpu | None) -> str:
        if gpu is None:
            return self.cpu
        return self.sxm if gpu.is_sxm else self.pcie


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What the API says it has."""

    availabilities: Iterable[Availability]
    specs: Iterable[Spec]
    images: Iterable[Image]


def offers_of(catalogue: Catalogue, prices: PriceList, names: ImageNames) -> tuple[Offer, ...]:
    """Make the offers, the cheapest first and those without a price last."""
    stock: dict[OfferKey, bool] = {}
    for row in catalogue.availabilities:
        key = OfferKey(row.type, row.location)
        stock[key] = stock.get(key, False) or row.available  # a repeated pair: any yes counts
    specs = {spec.product_name: spec for spec in catalogue.specs}
    images = tuple(catalogue.images)

    listed = {key.type for key in stock}
    nowhere = (OfferKey(each, NOWHERE) for each in (prices.types.keys() | specs.keys()) - listed)
    offers = [
        _offer(key, stock.get(key, False), specs.get(key.type), prices, images, names)
        for key in (*stock, *nowhere)
    ]
    offers += _gpus_without_a_type(prices, specs)
    return tuple(sorted(offers, key=_cheapest_first))


def _cheapest_first(offer: Offer) -> tuple[bool, object, OfferKey]:
    price = offer.price_per_hour
    return (price is None, 0 if price is None else price.usd, offer.key)


def _offer(
    key: OfferKey,
    in_stock: bool,
    spec: Spec | None,
    prices: PriceList,
    images: tuple[Image, ...],
    names: ImageNames,
) -> Offer:
    priced = prices.types.get(key.type)
    if priced is None:
        return _unpriced(key, in_stock, spec, prices)
    unrentable, warnings = _compare(priced, spec, prices)
    image = names.of(priced.gpu)
    if key.location == NOWHERE:
        unrentable = unrentable or "no location lists it now"
    else:
        unrentable = unrentable or _image_problem(image, key.location, images)
    domain = min(priced.gpu.nvlink_domain, priced.gpus) if priced.gpu else 1
    return Offer(
        key=key,
        price_per_hour=priced.price_per_hour + prices.os_disk_per_hour,
        gpu=priced.gpu.name if priced.gpu else None,
        gpus=priced.gpus,
        gpu_memory_gb=priced.gpu.memory_gb if priced.gpu else 0,
        vcpu=(spec and spec.cpu_cores) or priced.vcpu,
        ram_gb=int((spec and spec.memory_gb) or priced.ram_gb),
        disk_gb=prices.os_disk_gb,
        in_stock=in_stock,
        nvlink_domain=max(1, domain),
        image=image if _image_problem(image, key.location, images) is None else None,
        unrentable=unrentable,
        warnings=warnings,
    )


def _compare(
    priced: PricedType, spec: Spec | None, prices: PriceList
) -> tuple[str | None, tuple[str, ...]]:
    """Hold a type's row against its spec: what forbids it, and what only differs."""
    if spec is None:
        return None, ("the API has no spec of it: the price list's figures are used",)
    if spec.num_gpu != priced.gpus:
        return (
            f"specs say {spec.num_gpu} GPUs, the price list {priced.gpus}:"
            " its price would be wrong; correct the price list",
            (),
        )
    allowed = priced.gpu.gpu_types if priced.gpu else ()
    if priced.gpu and spec.gpu_type is not None and spec.gpu_type not in allowed:
        return (
            f"specs say its GPU is {spec.gpu_type!r}, the price list {priced.gpu.name}"
            f" ({' or '.join(allowed)}): correct the price list",
            (),
        )
    # The OS disk and local disks are told apart by nobody, so either sum will do.
    disks = {prices.os_disk_gb, priced.nvme_gb, priced.nvme_gb + prices.os_disk_gb}
    figures: Mapping[str, tuple[float | None, set[int]]] = {
        "vCPU": (spec.cpu_cores, {priced.vcpu}),
        "GB of memory": (spec.memory_gb, {priced.ram_gb}),
        "GB of disk": (spec.disk_gb, disks),
    }
    return None, tuple(
        f"specs say {said:g} {what}, the price list {'/'.join(map(str, sorted(expected)))}"
        for what, (said, expected) in figures.items()
        if said is not None and said not in expected
    )


def _unpriced(key: OfferKey, in_stock: bool, spec: Spec | None, prices: PriceList) -> Offer:
    gpu = prices.gpu_of(spec.gpu_type) if spec and spec.gpu_type else None
    hint = f" (one {gpu.name} GPU costs {gpu.price_per_hour})" if gpu else ""
    return Offer(
        key=key,
        price_per_hour=None,
        gpu=gpu.name if gpu else None,
        gpus=spec.num_gpu if spec else 0,
        gpu_memory_gb=gpu.memory_gb if gpu else 0,
        vcpu=(spec and spec.cpu_cores) or 0,
        ram_gb=int((spec and spec.memory_gb) or 0),
        disk_gb=prices.os_disk_gb,
        in_stock=in_stock,
        nvlink_domain=max(1, min(gpu.nvlink_domain, spec.num_gpu)) if gpu and spec else 1,
        unrentable=f"no price{hint}: add it to a price list (cloud.prices_file) to rent it",
    )


def _gpus_without_a_type(prices: PriceList, specs: Mapping[str, Spec]) -> Iterable[Offer]:
    """Show the GPUs that have a price and that no type is known to have, such as SXM."""
    used = {each.gpu.name for each in prices.types.values() if each.gpu}
    found = {spec.gpu_type for spec in specs.values()}
    for gpu in prices.gpus.values():
        if gpu.name in used or found.intersection(gpu.gpu_types):
            continue
        yield Offer(
            key=OfferKey(gpu.name, NOWHERE),
            price_per_hour=gpu.price_per_hour + prices.os_disk_per_hour,
            gpu=gpu.name,
            gpus=1,
            gpu_memory_gb=gpu.memory_gb,
            vcpu=0,
            ram_gb=0,
            disk_gb=prices.os_disk_gb,
            in_stock=False,
            unrentable="priced per GPU, but mkinf documents no type that has it",
        )


def _image_problem(name: str, location: str, images: tuple[Image, ...]) -> str | None:
    """Say why the image cannot be had there, None when it can."""
    base, _, tag = name.partition(":")
    named = [image for image in images if image.name in (name, base)]
    if not named:
        return f"no image {name!r} is listed: set another in the config (`autoscaler cloud images`)"
    if not any(image.name == name or tag in image.tags for image in named):
        tags = ", ".join(sorted({each for image in named for each in image.tags})) or "none"
        return f"image {base!r} has no tag {tag!r}; it has: {tags}"
    if any(image.locations is None or location in image.locations for image in named):
        return None
    return f"image {name!r} is not in {location}"
