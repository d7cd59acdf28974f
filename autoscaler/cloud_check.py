"""Whose cloud this is: nothing is launched and nothing concluded before that is known."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.errors import AutoscalerError, ConfigError
from autoscaler.health import Health
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)

_PAUSE_S = 5.0  # before an unanswered question is asked again


@dataclass(frozen=True, slots=True)
class CloudCheck:
    """Asks until it is answered."""

    cloud: Cloud
    store: Store
    clock: Clock
    health: Health

    async def check_project(self) -> None:
        """See that the key still reaches the project that the store belongs to: another one's list looks empty.

        Raises:
            ConfigError: it reaches another one.
        """
        trouble = ""
        while not self.health.project_checked:
            try:
                found = await self.cloud.project_id()
            except AutoscalerError as exc:
                if str(exc) != trouble:
                    log.warning("project_not_checked", why=str(exc))
                trouble = str(exc)
                await self.clock.sleep(_PAUSE_S)
                continue
            known = await self.store.meta("project")
            if known is not None and known != found:
                raise ConfigError(
                    f"cloud: the key reaches project {found}, but this store belongs to {known}: "
                    "use that project's key, or another state_dir"
                )
            await self.store.set_meta("project", found)
            self.health.project_checked = True
