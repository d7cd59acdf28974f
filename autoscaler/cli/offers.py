"""`autoscaler offers`: what can be rented, the cheapest first, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from autoscaler.cli.connection import Table, cloud_command
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.config_file import read_policy
from autoscaler.decide.capacity import excluded, replica_capacity
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import typical_work
from autoscaler.domain.offer import Offer
from autoscaler.policy import Policy

_COLUMNS = (
    "Type",
    "Location",
    "$/h",
    "GPUs",
    "GPU",
    "GPU GB",
    "vCPU",
    "RAM GB",
    "Stock",
    "Not for rent, or to know",
)


@cloud_command
async def offers(
    cloud: MkinfCloud,
    type: Annotated[
        list[str] | None, typer.Option("--type", help="only this type; may be repeated")
    ] = None,
    location: Annotated[
        list[str] | None, typer.Option("--location", help="only there; may be repeated")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="a policy file: say which offers can serve its model"),
    ] = None,
) -> Table:
    """List offers, cheapest first: type and location, price of the VM, GPUs, memory, stock.

    The price per hour is that of all its GPUs with its OS disk. Stock is what the cloud says, and
    no promise.
    """
    policy = read_policy(model) if model is not None else None
    found = [
        offer
        for offer in await cloud.offers()
        if (not type or offer.key.type in type) and (not location or offer.key.location in location)
    ]
    reasons = [_reason(offer, policy) for offer in found]
    notes = []
    if found and all(reasons):
        notes.append("None of these can be rented.")
    return Table(
        columns=_COLUMNS,
        rows=[_row(offer, reason) for offer, reason in zip(found, reasons, strict=True)],
        document={
            "offers": [
                _document(offer, reason) for offer, reason in zip(found, reasons, strict=True)
            ]
        },
        notes=notes,
    )


def _reason(offer: Offer, policy: Policy | None) -> str | None:
    """Say why this is never rented (for the model), whatever the stock; None when it may be."""
    if offer.unrentable is not None or policy is None:
        return offer.unrentable
    if (reason := excluded(policy, offer)) is not None:
        return reason
    capacity = replica_capacity(policy, offer, typical_work(policy), Profiles.load())
    return None if capacity.fits else capacity.why_not


def _row(offer: Offer, reason: str | None) -> Sequence[object]:
    return (
        offer.key.type,
        offer.key.location,
        f"{offer.price_per_hour.usd:.4f}" if offer.price_per_hour is not None else None,
        offer.gpus,
        offer.gpu,
        offer.gpu_memory_gb or None,
        offer.vcpu or None,
        offer.ram_gb or None,
        "in stock" if offer.in_stock else "none",
        reason or "; ".join(offer.warnings) or " ",
    )


def _document(offer: Offer, reason: str | None) -> dict[str, object]:
    return {
        "type": offer.key.type,
        "location": offer.key.location,
        "usd_per_hour": str(offer.price_per_hour.usd) if offer.price_per_hour else None,
        "gpu": offer.gpu,
        "gpus": offer.gpus,
        "gpu_memory_gb": offer.gpu_memory_gb,
        "nvlink_domain": offer.nvlink_domain,
        "vcpu": offer.vcpu,
        "ram_gb": offer.ram_gb,
        "disk_gb": offer.disk_gb,
        "in_stock": offer.in_stock,
        "image": offer.image,
        "unrentable": reason,
        "warnings": list(offer.warnings),
    }
