"""Tunnels and their local ports on disk, so that a restarted process leads on before the daemon has said anything."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog
from pydantic import ValidationError

from autoscaler.durable_file import replace_file
from autoscaler.tunnels.schema import SavedState, TunnelBody
from autoscaler.tunnels.tunnels import NoPortLeft, OtherSpec, Tunnels

log = structlog.get_logger(__name__)


class StateFile:
    """Writes the state whole and atomically, after each change.

    A disk that refuses is no reason to refuse the daemon: the change holds in memory, `is_behind` says so, and `keep`
    is called again each second.
    """

    def __init__(self, path: Path | None, tunnels: Tunnels) -> None:
        self._path = path
        self._tunnels = tunnels
        self._written = 0
        self._trouble = ""
        self._lock = asyncio.Lock()

    @property
    def is_behind(self) -> bool:
        return self._path is not None and self._written < self._tunnels.generation

    def load(self) -> None:
        """Put every tunnel of the file. One that cannot be read is set aside: the daemon tells them anew."""
        if self._path is None:
            return
        try:
            saved = SavedState.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as exc:
            log.error("state_file_unreadable", path=str(self._path), error=type(exc).__name__)
            self._set_aside(self._path)
            return
        for body in saved.tunnels:
            try:
                self._tunnels.put(body.value(), body.local_port)
            except (OtherSpec, NoPortLeft) as exc:
                log.error("tunnel_not_restored", tunnel=body.id, why=str(exc))
        self._written = self._tunnels.generation

    async def keep(self) -> bool:
        """Write what is newer than the file; whether the file is now up to date."""
        if self._path is None:
            return True
        async with self._lock:
            generation = self._tunnels.generation
            if self._written >= generation:
                return True
            state = SavedState(tunnels=[TunnelBody.of(t.spec, t.local_port) for t in self._tunnels])
            text = state.model_dump_json(indent=1).encode()
            try:
                await asyncio.to_thread(replace_file, self._path, text)
            except OSError as exc:
                if str(exc) != self._trouble:
                    log.error("state_file_unwritable", path=str(self._path), error=str(exc))
                self._trouble = str(exc)
                return False
            self._written, self._trouble = generation, ""
            return True

    def _set_aside(self, path: Path) -> None:
        try:
            path.rename(path.with_name(f"{path.name}.bad-{int(time.time())}"))
        except OSError as exc:
            log.error("state_file_not_set_aside", path=str(path), error=str(exc))
