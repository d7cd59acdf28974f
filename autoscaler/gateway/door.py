"""What guards the way in, kept as its files stand: client keys and certificate are read anew when they change.

A reading that fails changes nothing: the keys and the certificate from before stay in force, one line in the log and a
metric say so, and the next change of the files is another try.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from autoscaler.errors import ConfigError
from autoscaler.gateway.admission import Admission
from autoscaler.gateway.keys import key_files, read_keys
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.gateway.tls import Identity, TlsFiles, find_files, load_identity, serving_context

log = structlog.get_logger(__name__)

PutInForce = Callable[[], None]  # what was read, ready to hold from now on
_RELOAD_S = 1.0
_WARN_BEFORE = timedelta(days=14)
_WARN_EACH = timedelta(days=1)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(eq=False, slots=True)
class Door:
    """Keys and certificate of one gateway.

    Attributes:
        admission: who is let in.
        identity: the certificate in force; None serves plain HTTP.
        refused: what of "client_keys" and "tls" lies on disk in a form that was refused.
    """

    settings: GatewaySettings
    admission: Admission = field(default_factory=Admission)
    identity: Identity | None = None
    refused: set[str] = field(default_factory=set)
    now: Callable[[], datetime] = _now
    _seen: dict[str, object] = field(default_factory=dict)
    _warned_at: datetime | None = None

    def open(self) -> None:
        """Read everything for the first time.

        Raises:
            ConfigError: what is wrong with the files, and what to do.
        """
        for what, look, read in self._parts():
            self._seen[what] = look()
            put_in_force = read()
            put_in_force()
        self._warn_of_expiry()

    def serving_context(self) -> ssl.SSLContext | None:
        """Build what makes TLS handshakes, with the certificate that is in force at each."""
        if self.identity is None:
            return None

        def current() -> Identity:
            assert self.identity is not None
            return self.identity

        return serving_context(current)

    async def keep(self) -> None:
        """Look at the files each second, for ever."""
        while True:
            await asyncio.sleep(_RELOAD_S)
            try:
                await self.reload()
            except Exception:
                log.exception("front_reload_failed", in_force="as before")

    async def reload(self) -> None:
        """Read what has changed since it was last read."""
        for what, look, read in self._parts():
            # Noted before it is read: what changes meanwhile is read again.
            seen = await asyncio.to_thread(look)
            if seen == self._seen.get(what):
                continue
            self._seen[what] = seen
            try:
                put_in_force = await asyncio.to_thread(read)  # thousands of keys hold nobody up
            except ConfigError as exc:
                self.refused.add(what)
                log.error("front_reload_refused", part=what, error=str(exc), in_force="as before")
            else:
                put_in_force()
                self.refused.discard(what)
                log.info("front_reloaded", part=what, **self._facts(what))
        self._warn_of_expiry()

    def _parts(self) -> Iterable[tuple[str, Callable[[], object], Callable[[], PutInForce]]]:
        """Give for each part its name, the marks of its files, and how it is read."""
        settings = self.settings
        if settings.client_keys is not None:
            keys = settings.client_keys
            yield "client_keys", lambda: _marks(_key_paths(keys)), lambda: self._read_keys(keys)
        if settings.tls is not None:
            tls, key = settings.tls, settings.tls_key
            yield "tls", lambda: _marks(_tls_paths(tls, key)), lambda: self._read_tls(tls, key)

    def _read_keys(self, path: Path) -> PutInForce:
        ring = read_keys(path)
        return lambda: self.admission.set_ring(ring)

    def _read_tls(self, tls: Path, key: Path | None) -> PutInForce:
        identity = load_identity(find_files(tls, key), self.now())

        def put_in_force() -> None:
            self.identity = identity
            self._warned_at = None

        return put_in_force

    def _facts(self, what: str) -> dict[str, object]:
        if what == "tls" and self.identity is not None:
            return {"names": self.identity.names, "expires_at": str(self.identity.expires_at)}
        return {"keys": len(self.admission.accounts)}

    def _warn_of_expiry(self) -> None:
        """Say once a day that the certificate is about to expire, or has."""
        if self.identity is None:
            return
        now = self.now()
        left = self.identity.expires_at - now
        if left > _WARN_BEFORE or (self._warned_at and now - self._warned_at < _WARN_EACH):
            return
        self._warned_at = now
        tell = log.warning if left > timedelta(0) else log.error
        tell(
            "certificate_expires_soon" if left > timedelta(0) else "certificate_expired",
            names=self.identity.names,
            expires_at=str(self.identity.expires_at),
            hint="put a renewed pair in its place: it is taken within a second",
        )


def _key_paths(path: Path) -> list[Path]:
    try:
        return [path, *key_files(path)]
    except ConfigError:
        return [path]


def _tls_paths(tls: Path, key: Path | None) -> list[Path]:
    try:
        files = find_files(tls, key)
    except ConfigError:
        files = TlsFiles(tls, key or tls)
    return [tls, files.certificate, files.key]


def _marks(paths: Iterable[Path]) -> tuple[object, ...]:
    """What changes when a file does: its content, its mode or owner, or which file a link leads to."""
    marks: list[object] = []
    for path in paths:
        try:
            found = path.stat()
        except OSError as exc:
            marks.append((str(path), exc.errno))
        else:
            marks.append((str(path), found.st_ino, found.st_ctime_ns, found.st_size))
    return tuple(marks)
