"""What can be rented: an offer is a VM type in a location at a price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from autoscaler.domain.money import Money


@dataclass(frozen=True, slots=True, order=True)
class OfferKey:
    """A VM type in a location, such as `l40s-48gb.1x@us-east1-a`."""

    type: str
    location: str

    def __str__(self) -> str:
        return f"{self.type}@{self.location}"


@dataclass(frozen=True, slots=True)
class Offer:
    """One VM type in one location.

    Attributes:
        price_per_hour: USD of the whole VM with its OS disk, None when no price is known: then it is never rented.
        gpu: the name of its GPU in the price list and in gpu_profiles.toml, None for CPU types.
        gpus: GPUs in one VM.
        gpu_memory_gb: memory of one GPU in decimal GB, 0 for CPU types.
        nvlink_domain: GPUs joined by NVLink, 1 when none are.
        in_stock: what the cloud says of it now: a hint, no promise.
        image: the VM image that fits this type, None when none is in this location.
        unrentable: why this is never rented whatever the stock, None when it may be.
        warnings: contradictions between price list and specs that do not forbid renting.
    """

    key: OfferKey
    price_per_hour: Money | None
    gpu: str | None
    gpus: int
    gpu_memory_gb: int
    vcpu: int
    ram_gb: int
    disk_gb: int
    in_stock: bool
    nvlink_domain: int = 1
    image: str | None = None
    unrentable: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackOff:
    """An offer that failed lately and is left alone until `until`."""

    key: OfferKey
    until: datetime
    reason: str
    failures: int = 1


@dataclass(frozen=True, slots=True)
class Market:
    """What the cloud rents, as last read.

    Attributes:
        at: when it was read.
        boots_s: measured seconds from create to ready per offer, oldest first; missing when never measured.
        backoffs: offers to leave alone for a while.
    """

    offers: tuple[Offer, ...]
    at: datetime
    backoffs: tuple[BackOff, ...] = ()
    boots_s: Mapping[OfferKey, tuple[float, ...]] = field(default_factory=dict)

    def offer(self, key: OfferKey) -> Offer | None:
        """Find one offer, or None when the cloud does not list it now."""
        return next((offer for offer in self.offers if offer.key == key), None)

    def backed_off(self, key: OfferKey, now: datetime) -> BackOff | None:
        """Say whether an offer is to be left alone at `now`."""
        return next((b for b in self.backoffs if b.key == key and b.until > now), None)
