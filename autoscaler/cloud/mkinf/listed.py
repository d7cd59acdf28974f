"""What the price list says of each type, as offers: for questions about money that are asked without the cloud."""

from __future__ import annotations

from autoscaler.cloud.mkinf.prices import PriceList
from autoscaler.domain.offer import Offer, OfferKey

ANYWHERE = "any location"


def listed_offers(prices: PriceList) -> tuple[Offer, ...]:
    """Every priced type, with its OS disk, as if it were in stock somewhere."""
    return tuple(
        Offer(
            key=OfferKey(name, ANYWHERE),
            price_per_hour=each.price_per_hour + prices.os_disk_per_hour,
            gpu=each.gpu.name if each.gpu else None,
            gpus=each.gpus,
            gpu_memory_gb=each.gpu.memory_gb if each.gpu else 0,
            vcpu=each.vcpu,
            ram_gb=each.ram_gb,
            disk_gb=prices.os_disk_gb,
            in_stock=True,
            nvlink_domain=max(1, min(each.gpu.nvlink_domain, each.gpus)) if each.gpu else 1,
            image="listed",
        )
        for name, each in prices.types.items()
    )
