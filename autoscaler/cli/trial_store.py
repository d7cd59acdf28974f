"""What a trial asks of the store before it begins and after it has ended, while no daemon of its own holds it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from autoscaler.brakes.facts import facts_key, read_facts, write_facts
from autoscaler.brakes.trial import Report
from autoscaler.clock import Clock
from autoscaler.config import Config
from autoscaler.domain.ids import ModelName
from autoscaler.errors import ConfigError, StoreUnavailable
from autoscaler.store.protocol import Store
from autoscaler.store.sqlite import SqliteStore

ACTOR = "trial"


@dataclass(frozen=True, slots=True)
class TrialStore:
    """The store of a trial's state_dir, and the model that is tried."""

    config: Config
    model: ModelName
    clock: Clock

    async def look_before(self) -> None:
        """Refuse to begin where something else is at stake; take up what an earlier trial left behind.

        Raises:
            ConfigError: there are nodes of others, or the model was paused or retired by somebody.
            StoreUnavailable: a daemon has the store, or it cannot be used.
        """
        check_owner(self.config.state_dir)
        try:
            async with self._opened() as store:
                await self._check(store)
                await store.set_meta(_unfinished(self.model), self.clock.now().isoformat())
                await self._let_go(store)
        except StoreUnavailable as exc:
            raise StoreUnavailable(
                f"{exc}. A trial needs the store for itself: stop the daemon (its nodes go on serving), try, "
                "and start it again"
            ) from exc

    async def left(self) -> list[str]:
        """What may bill, each node in words. Never raises: what cannot be read is said too."""
        end = "the next trial of this policy or a daemon goes on with it, `autoscaler panic` deletes it"
        try:
            async with self._opened() as store:
                rows = [node for node in await store.nodes() if node.model == self.model]
        except (StoreUnavailable, OSError) as exc:
            return [f"left: not known ({exc}): `autoscaler audit` lists it, `panic` deletes it"]
        return [
            f"left: {node.name} ({node.machine_id or 'no id yet'}), {node.offer}, {node.state}: it bills "
            f"{node.price_per_hour}/h until it is gone; {end}"
            for node in rows
        ] or ["left: nothing"]

    async def keep(self, report: Report) -> None:
        """Write down what was shown, and let the model go on."""
        async with self._opened() as store:
            project = await store.meta("project") or ""
            key = facts_key(project)
            before = read_facts(await store.meta(key))
            await store.set_meta(key, write_facts(before, report.facts))
            await store.set_meta(_unfinished(self.model), "")
            await self._let_go(store)

    async def _check(self, store: Store) -> None:
        record = await store.record(self.model)
        theirs = [n.name for n in await store.nodes() if n.model != self.model]
        mine = [n.name for n in await store.nodes() if n.model == self.model]
        if theirs or (mine and not await store.meta(_unfinished(self.model))):
            raise ConfigError(
                f"{len(theirs + mine)} nodes are there ({', '.join((theirs + mine)[:3])}): a trial would "
                "run them without their policies. Give them back first (`autoscaler retire MODEL`), or "
                "try with another state_dir and cloud.owner"
            )
        if {record.paused_by, record.retired_by} - {None, ACTOR}:
            raise ConfigError(
                f"{self.model} is paused or retired: `autoscaler resume {self.model}` first"
            )

    async def _let_go(self, store: Store) -> None:
        await store.set_paused(self.model, None, self.clock.now())
        await store.set_retired(self.model, None, self.clock.now())

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Store]:
        timings = self.config.timings
        store = SqliteStore.open(self.config.store_file, timings.lease_time, timings.store_wait)
        try:
            yield store
        finally:
            await store.close()


def check_owner(directory: Path) -> None:
    """Leave no file of ours in another user's state: its daemon could not open it any more.

    Raises:
        ConfigError: the directory belongs to somebody else.
    """
    try:
        owner = directory.stat().st_uid
    except OSError:
        return  # it is made, or that says what is wrong
    if owner != os.geteuid():
        raise ConfigError(
            f"{directory}: belongs to user {owner}, and this runs as {os.geteuid()}: run it as that user "
            "(docs/brakes.md has the command)"
        )


def _unfinished(model: ModelName) -> str:
    """Where the store says that a trial of this model has begun and not ended: what is there is the trial's."""
    return f"trial:{model}"
