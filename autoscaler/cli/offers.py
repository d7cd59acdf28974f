"""`autoscaler offers`: what can be rented, the cheapest first, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from autoscaler.cli.connection import Table, cloud_command
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.offers import NOWHERE
from autoscaler.config_file import read_policy
from autoscaler.decide.capacity import excluded, replica_capacity
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import typical_work
from autoscaler.domain.offer import Offer
from autoscaler.policy import Policy

_COLUMNS = ("Type", "Location", "$/h", "GPUs", "GPU GB", "vCPU", "RAM GB", "Stock")


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
    judged = [(offer, _reason(offer, policy)) for offer in found]
    return Table(
        columns=_COLUMNS,
        rows=[_row(offer) for offer, reason in judged if reason is None],
        document={"offers": [_document(offer, reason) for offer, reason in judged]},
        notes=_notes(judged),
    )


def _reason(offer: Offer, policy: Policy | None) -> str | None:
    """Say why this is never rented (for the model), whatever the stock; None when it may be."""
    if offer.unrentable is not None or policy is None:
        return offer.unrentable
    if (reason := excluded(policy, offer)) is not None:
        return reason
    capacity = replica_capacity(policy, offer, typical_work(policy), Profiles.load())
    return None if capacity.fits else capacity.why_not


def _row(offer: Offer) -> Sequence[object]:
    return (
        offer.key.type,
        offer.key.location,
        f"{offer.price_per_hour.usd:.4f}" if offer.price_per_hour is not None else None,
        offer.gpus,
        offer.gpu_memory_gb or None,
        offer.vcpu,
        offer.ram_gb,
        "in stock" if offer.in_stock else "none",
    )


def _notes(judged: Sequence[tuple[Offer, str | None]]) -> Sequence[str]:
    """Say what is not in the table and why, and what to know of the rest; like things once."""
    refused: dict[tuple[str, str], list[str]] = {}
    for offer, reason in judged:
        if reason is not None:
            refused.setdefault((_priced(offer), reason), []).append(offer.key.location)
    warned = {
        f"{offer.key.type}: {warning}"
        for offer, reason in judged
        for warning in offer.warnings
        if reason is None
    }
    return (
        *(["Not for rent:"] if refused else []),
        *(
            f"  {what}{_where(locations)}: {reason}"
            for (what, reason), locations in refused.items()
        ),
        *(["To know:"] if warned else []),
        *(f"  {each}" for each in sorted(warned)),
    )


def _priced(offer: Offer) -> str:
    price = offer.price_per_hour
    return f"{offer.key.type} ({price}/h)" if price is not None else offer.key.type


def _where(locations: Sequence[str]) -> str:
    named = [each for each in locations if each != NOWHERE]
    return f" in {', '.join(named)}" if named else ""


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
