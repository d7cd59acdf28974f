"""Pools and endpoints on disk, so that a restarted gateway serves before the daemon has said anything."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog
from pydantic import ValidationError

from autoscaler.durable_file import replace_file
from autoscaler.errors import ConfigError
from autoscaler.gateway.endpoint import EndpointState
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.schema import (
    PoolBody,
    SavedEndpoint,
    SavedPool,
    SavedState,
    trust_body,
)

log = structlog.get_logger(__name__)


class StateFile:
    """Writes the state whole and atomically, after each change.

    A disk that refuses is no reason to refuse the daemon: the change holds in memory, `is_behind` says so,
    and `keep` is called again each second.
    """

    def __init__(self, path: Path | None, pools: Pools) -> None:
        self._path = path
        self._pools = pools
        self._written = -1  # the generation on disk
        self._lock = asyncio.Lock()
        self._wanted = -1

    @property
    def is_behind(self) -> bool:
        return self._path is not None and self._written < self._wanted

    def load(self) -> None:
        """Fill the pools from the file. One that cannot be read is set aside, not overwritten."""
        if self._path is None:
            return
        try:
            saved = SavedState.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as exc:
            log.error("state_file_unreadable", path=str(self._path), error=type(exc).__name__)
            self._set_aside()
            return
        _restore(saved, self._pools)
        self._written = self._wanted = self._pools.generation

    def take(self, text: str) -> None:
        """Fill the pools with what the process before this one had; the file is written with the next change.

        Raises:
            ConfigError: it was of a newer version.
        """
        try:
            saved = SavedState.model_validate_json(text)
        except ValidationError as exc:
            raise ConfigError(
                "the gateway that serves has a state that this version does not understand; stop it before an "
                "older version is started"
            ) from exc
        _restore(saved, self._pools)

    def let_go(self) -> None:
        """Write no more: the file is another process's."""
        self._path = None

    async def keep(self) -> bool:
        """Write what is newer than the file; say whether the file is now up to date."""
        if self._path is None:
            return True
        self._wanted = max(self._wanted, self._pools.generation)
        async with self._lock:
            if self._written >= self._wanted:
                return True
            generation = self._pools.generation
            text = snapshot(self._pools).model_dump_json(indent=1).encode()
            try:
                await asyncio.to_thread(replace_file, self._path, text)
            except OSError as exc:
                log.error("state_file_unwritable", path=str(self._path), error=str(exc))
                return False
            self._written = generation
            return True

    def _set_aside(self) -> None:
        assert self._path is not None
        try:
            self._path.rename(self._path.with_name(f"{self._path.name}.bad-{int(time.time())}"))
        except OSError as exc:
            log.error("state_file_not_set_aside", path=str(self._path), error=str(exc))


def snapshot(pools: Pools) -> SavedState:
    """What outlives this process."""
    return SavedState(
        generation=pools.generation,
        pools=[
            SavedPool(
                settings=PoolBody.of(pool.settings),
                endpoints=[
                    SavedEndpoint(
                        id=e.id,
                        url=e.url,
                        weight=e.weight,
                        trust=trust_body(e.trust),
                        max_inflight=e.max_inflight,
                        state=e.state,
                    )
                    for e in pool.endpoints.values()
                ],
            )
            for pool in pools.by_model.values()
        ],
    )


def _restore(saved: SavedState, pools: Pools) -> None:
    for kept in saved.pools:
        pool = pools.put(kept.settings.value())
        for fields in kept.endpoints:
            endpoint = fields.value()
            endpoint.state = fields.state
            if fields.state is EndpointState.DRAINING:
                endpoint.drained_at = time.time()
            pool.put_endpoint(endpoint)
    pools.generation = saved.generation
