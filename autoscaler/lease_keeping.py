"""Takes the leases of models and keeps them, on time, and says when that fails."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import structlog

from autoscaler.domain.ids import ModelName
from autoscaler.errors import StoreUnavailable
from autoscaler.health import Health
from autoscaler.nodes.leases import Leases
from autoscaler.wakes import Wakes

log = structlog.get_logger(__name__)


async def take(leases: Leases, models: Collection[ModelName]) -> None:
    """Acquire the lease of each model, and say which of them another daemon has."""
    for model in sorted(models):
        if not await leases.acquire(model):
            log.error("lease_held_elsewhere", model=model)


async def keep(leases: Leases, wakes: Wakes, every: timedelta, health: Health) -> None:
    """Renew every lease, for ever. The store's most frequent write shows first that it cannot be written."""
    wakes.every("leases", every)
    while True:
        await wakes.wait("leases")
        try:
            lost = await leases.renew_all()
        except StoreUnavailable as exc:
            log.error("leases_not_renewed", why=str(exc))
            health.store_trouble = str(exc)
            continue
        health.store_trouble = None
        for model in lost:
            log.error("lease_lost", model=model)
