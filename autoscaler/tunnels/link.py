"""One SSH connection to one node, made again for as long as a tunnel wants it, and pinned to the node's host key."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import asyncssh
import structlog

from autoscaler.tunnels.backoff import Backoff
from autoscaler.tunnels.values import Login, TunnelsSettings

log = structlog.get_logger(__name__)

HOST_KEY_ALGORITHM = "ssh-ed25519"
_NODE_LOOPBACK = "127.0.0.1"
_STOOD_S = (
    60.0  # a connection that stood for so long was no failure: the next attempt comes at once
)
_MISMATCH_PAUSE_S = 60.0
_KEEPALIVES = 3
_HURRY_S = 5.0  # for a command that does nothing; without it the tunnel is slower, and works
_WINDOW_BYTES = 2 * 1024 * 1024  # as sshd's own: what one stream may have on its way
# AES in hardware first: the default order begins with ChaCha20, at half the rate here
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com")

Spawn = Callable[
    [Coroutine[Any, Any, object]], asyncio.Task[Any]
]  # Any: results are asked for where known
Session = asyncssh.SSHTCPSession[bytes]


class Link:
    """Keeps one connection up.

    Attributes:
        why: why there is no connection, for the operator; empty while there is one.
        watchers: called whenever a connection has come or gone.
    """

    def __init__(
        self, login: Login, key: asyncssh.SSHKey, settings: TunnelsSettings, spawn: Spawn
    ) -> None:
        self.login = login
        self.why = "not tried yet"
        self.watchers: list[Callable[[], None]] = []
        self._key = key
        self._settings = settings
        self._spawn = spawn
        self._connection: asyncssh.SSHClientConnection | None = None

    @property
    def is_up(self) -> bool:
        return self._connection is not None

    async def run(self) -> None:
        """Connect, and again when the connection is lost, until cancelled."""
        backoff = Backoff(self._settings.retry_max_s)
        while True:
            began = time.monotonic()
            pause_s = 0.0
            client = _Client(self._lost)
            try:
                await self._connect(client)
            except asyncssh.HostKeyNotVerifiable:
                self._say("it shows another host key than the one proven: nothing was sent")
                pause_s = _MISMATCH_PAUSE_S
            except (OSError, asyncssh.Error, TimeoutError) as exc:
                self._say(_reason(exc))
            else:
                try:
                    await client.ended.wait()
                finally:
                    client.let_go()
                    self._drop()
                if time.monotonic() - began >= _STOOD_S:
                    backoff.reset()
            await asyncio.sleep(max(pause_s, backoff.pause_s()))

    async def open(self, remote_port: int, session: Session) -> str | None:
        """Open a channel to a port on the node's loopback; why there is none, if so.

        It ends with the node's answer or with the connection, and is not to be cancelled: a channel that nobody
        waits for any more would stay open at the node.
        """
        connection = self._connection
        if connection is None:
            return self.why
        try:
            await connection.create_connection(
                lambda: session,
                _NODE_LOOPBACK,
                remote_port,
                _NODE_LOOPBACK,
                0,
                encoding=None,
                window=_WINDOW_BYTES,
            )
        except asyncssh.ChannelOpenError as exc:
            return f"SSH works, port {remote_port} on the node does not answer: {_reason(exc)}"
        except (OSError, asyncssh.Error) as exc:
            return _reason(exc)
        return None

    async def probe(self, remote_port: int) -> str | None:
        """See that the node's port takes a connection; why it does not, if so."""
        limit_s = self._settings.open_timeout_s
        asked = self._spawn(self.open(remote_port, _Probe()))
        await asyncio.wait((asked,), timeout=limit_s)
        if not asked.done():
            return f"SSH stands, and opened no way to port {remote_port} within {limit_s:g} s"
        failure: str | None = asked.result()
        return failure

    async def _connect(self, client: _Client) -> None:
        # pinned to one key, with nothing taken from files, agents or the environment
        trusted = asyncssh.import_public_key(self.login.host_key)
        async with asyncio.timeout(self._settings.connect_timeout_s):
            connection = await asyncssh.connect(
                self.login.address,
                self.login.port,
                client_factory=lambda: client,
                username=self.login.user,
                client_keys=[self._key],
                known_hosts=([trusted], [], []),
                server_host_key_algs=[HOST_KEY_ALGORITHM],
                encryption_algs=list(_CIPHERS),
                compression_algs=None,
                login_timeout=self._settings.connect_timeout_s,
                keepalive_interval=self._settings.keepalive_s,
                keepalive_count_max=_KEEPALIVES,
                preferred_auth="publickey",
                config=None,
                agent_path=None,
                agent_forwarding=False,
                x11_forwarding=False,
            )
        try:
            await self._hurry_on(connection)
        except asyncio.CancelledError:
            connection.abort()
            raise
        if client.ended.is_set():
            return  # lost again already
        self._connection, self.why = connection, ""
        log.info("link_up", address=self.login.address)
        self._tell()

    async def _hurry_on(self, connection: asyncssh.SSHClientConnection) -> None:
        """Let sshd send small packets at once.

        OpenSSH sets TCP_NODELAY when a session begins, and tunnels alone begin none: then each token waits for the
        acknowledgement of the one before, 40 ms later as measured here. One command that does nothing is a session.
        """
        with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
            async with asyncio.timeout(_HURRY_S):
                await connection.run("true", stdin=asyncssh.DEVNULL)

    def _lost(self, exc: Exception | None) -> None:
        """The connection is over: whoever listens for it refuses from this moment on."""
        if self._connection is not None:
            self._say(f"the SSH connection was lost: {_reason(exc)}" if exc else "it was closed")
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            self._tell()

    def _tell(self) -> None:
        for watcher in tuple(self.watchers):
            watcher()

    def _say(self, why: str) -> None:
        if why != self.why:
            log.warning("link_down", address=self.login.address, why=why)
            self.why = why
            if self._connection is None:
                self._tell()


class _Client(asyncssh.SSHClient):
    """One connection's end, told once."""

    def __init__(self, lost: Callable[[Exception | None], None]) -> None:
        self.ended = asyncio.Event()
        self._lost = lost

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self._lost(exc)

    def let_go(self) -> None:
        """Whatever ends now is of no more interest."""
        self.ended.set()


class _Probe(asyncssh.SSHTCPSession[bytes]):
    """Hangs up at once."""

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        chan.close()


def _reason(exc: Exception) -> str:
    """An error of the wire in a few words; what a node sent is cut and made printable."""
    if isinstance(exc, asyncssh.PermissionDenied):
        return "it does not accept our key"
    if isinstance(exc, TimeoutError | asyncssh.TimeoutError):
        return "no answer in time"
    if isinstance(exc, ConnectionRefusedError):
        return "refused: sshd is not up"
    text = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or type(exc).__name__
    return "".join(char if char.isprintable() else " " for char in str(text))[:200]
