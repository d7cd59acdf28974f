"""What every model in shadow has on paper, kept from pass to pass; the store has it for the next start."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from autoscaler.domain.ids import ModelName
from autoscaler.policy import Mode, Policy
from autoscaler.shadow import Shadow
from autoscaler.store.protocol import ModelRecord, Store

log = structlog.get_logger(__name__)


class Papers:
    """One daemon's shadows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shadows: dict[ModelName, Shadow] = {}
        self._asked: set[ModelName] = set()  # whose shadow the store was asked for

    def remember(self, model: ModelName, shadow: Shadow | None) -> None:
        """Take over what a pass came to, None for a model that is in shadow no more."""
        if shadow is not None:
            self._shadows[model] = shadow
        else:
            self._shadows.pop(model, None)

    def of(self, record: ModelRecord) -> Shadow | None:
        """What a model has on paper."""
        found = self._shadows.get(record.model)
        if found is None and record.shadow:
            try:
                found = Shadow.from_json(record.shadow)
            except ValueError as exc:
                log.warning("shadow_dropped", model=record.model, why=str(exc))
        return found

    async def beside(
        self, policy: Policy, policies: Mapping[ModelName, Policy]
    ) -> Mapping[ModelName, Shadow]:
        """What the others have on paper, for a model in shadow: promoted together they would share the limits."""
        if policy.mode is not Mode.SHADOW:
            return {}
        found = {}
        for name, other in policies.items():
            if other.mode is not Mode.SHADOW or name == policy.name:
                continue
            if name not in self._shadows and name not in self._asked:
                self._asked.add(name)
                self.remember(name, self.of(await self._store.record(name)))
            if name in self._shadows:
                found[name] = self._shadows[name]
        return found
