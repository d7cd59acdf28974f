"""Tells a balancer that comes back, and at the start each of them, how things stand: until then none counts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

import structlog

from autoscaler.balance.group import BalancerGroup
from autoscaler.clock import Clock
from autoscaler.domain.ids import ModelName
from autoscaler.errors import StoreUnavailable
from autoscaler.nodes.sweep import ORPHANS_MODEL
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)


async def welcome(
    balancers: BalancerGroup,
    store: Store,
    policies: Callable[[], Collection[ModelName]],
    clock: Clock,
    every: timedelta,
) -> None:
    """Look for them now and then, for ever; `policies` gives the models in force."""
    while True:
        try:
            models = {node.model for node in await store.nodes()} - {ORPHANS_MODEL}
            await balancers.welcome(sorted(models | set(policies())), store)
        except StoreUnavailable as exc:
            log.warning("balancers_not_told", why=str(exc))
        await clock.sleep(every.total_seconds())
