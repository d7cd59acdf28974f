"""Whose cloud this is: nothing is launched and nothing concluded before that is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.config import Config
from autoscaler.errors import AutoscalerError, ConfigError
from autoscaler.health import Health
from autoscaler.policies import PolicyBook
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)

_PAUSE_S = 5.0  # before an unanswered question is asked again


@dataclass(frozen=True, slots=True)
class CloudCheck:
    """Asks until it is answered.

    Attributes:
        why_no_emulator: says why the endpoint is not the emulator, None when it is; raises while nobody answers.
        done: told once both are known: nothing was swept until then.
        known: set once it is clear which rules hold: those of a real cloud, or an emulator's.
    """

    config: Config
    book: PolicyBook
    cloud: Cloud
    why_no_emulator: Callable[[], Awaitable[str | None]]
    store: Store
    clock: Clock
    health: Health
    done: Callable[[], None]
    known: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Find out both.

        Raises:
            ConfigError: this config is not for that cloud, or the key reaches another project than it did.
        """
        await self._check_endpoint()
        self.known.set()
        await self._check_project()
        self.done()

    async def _check_endpoint(self) -> None:
        """See that what on loopback is taken for an emulator is one: a tunnel to the real API is none."""
        if not self.config.cloud.is_loopback:
            return
        trouble = ""
        while True:
            try:
                why = await self.why_no_emulator()
                break
            except AutoscalerError as exc:
                if str(exc) != trouble:
                    log.warning("endpoint_not_checked", why=str(exc))
                trouble = str(exc)
                await self.clock.sleep(_PAUSE_S)
        if why is None:
            return
        log.warning("endpoint_is_no_emulator", url=self.config.cloud.url, why=why)
        problems = [*self.config.unfit_for_a_real_cloud(), *self.book.hold_to_floors()]
        if problems:
            raise ConfigError(
                f"cloud.url: found {self.config.cloud.url}, where no emulator answers ({why}): it may lead to "
                "a real cloud. Start `autoscaler emulator` there, or mend what a real cloud does not allow:\n"
                + "\n".join(problems)
            )

    async def _check_project(self) -> None:
        """See that the key still reaches the project that the store belongs to: another one's list looks empty."""
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
