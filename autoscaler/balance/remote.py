"""HAProxy's sockets on another host, over SSH. Never by an open TCP port: its runtime API asks nobody who he is.

One connection per host, pinned to its host key, carries all commands; each has a channel of its own to the Unix socket.
It is opened when first needed, and anew when it was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from autoscaler.balance.haproxy_channel import LocalSocket, Socket, converse
from autoscaler.config import HaproxySettings
from autoscaler.errors import BalancerUnavailable, ConfigError

CONNECT_S = 10.0  # for TCP, and again for the login
_KEEPALIVE_S = 5

KeyOf = Callable[[Path | None], asyncssh.SSHKey]  # the key in a file; None is the daemon's own


class SshHost:
    """One host that HAProxy runs on.

    Args:
        host_key: its public key, `ssh-ed25519 AAAA…`; no other is talked to.

    Raises:
        ConfigError: that is no public key.
    """

    def __init__(
        self, user: str, host: str, port: int, host_key: str, key: asyncssh.SSHKey
    ) -> None:
        self._user, self._host, self._port = user, host, port
        try:
            self._trusted = asyncssh.import_public_key(host_key)
        except asyncssh.KeyImportError as exc:
            raise ConfigError(
                f"haproxy.ssh_host_key: found {host_key!r}, no public key: copy the whole line of"
                f" /etc/ssh/ssh_host_ed25519_key.pub on {host}"
            ) from exc
        self._key = key
        self._connection: asyncssh.SSHClientConnection | None = None
        self._turn = asyncio.Lock()

    def __str__(self) -> str:
        return f"{self._user}@{self._host}:{self._port}"

    @property
    def host(self) -> str:
        """Its address or name."""
        return self._host

    async def connection(self) -> asyncssh.SSHClientConnection:
        """The connection, opened when there is none.

        Raises:
            BalancerUnavailable: refused, not the host of that key, or no answer in time.
        """
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def _connect(self) -> asyncssh.SSHClientConnection:
        try:
            # asyncssh's own `connect_timeout` would swallow a cancellation that meets a finished login
            async with asyncio.timeout(2 * CONNECT_S):
                return await asyncssh.connect(
                    self._host,
                    self._port,
                    username=self._user,
                    client_keys=[self._key],
                    known_hosts=([self._trusted], [], []),
                    server_host_key_algs=[self._trusted.get_algorithm()],
                    login_timeout=CONNECT_S,
                    keepalive_interval=_KEEPALIVE_S,
                    preferred_auth="publickey",
                    config=None,
                    agent_path=None,
                    agent_forwarding=False,
                    x11_forwarding=False,
                )
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as exc:
            raise BalancerUnavailable(
                f"{self}: another host key than haproxy.ssh_host_key: nothing was sent. If the host was made anew,"
                f" look at its console and give the key that `ssh-keyscan {self._host}` shows too"
            ) from exc
        except asyncssh.PermissionDenied as exc:
            public = " ".join(self._key.export_public_key("openssh").decode("ascii").split()[:2])
            raise BalancerUnavailable(
                f"{self}: does not accept our key: add to its authorized_keys `{public}`"
            ) from exc
        except (TimeoutError, asyncssh.Error, OSError) as exc:
            raise BalancerUnavailable(
                f"{self}: no SSH there: {str(exc) or 'no answer in time'}"
            ) from exc


@dataclass(frozen=True, slots=True)
class RemoteSocket:
    """A Unix socket of HAProxy's on another host. It satisfies `Socket`."""

    host: SshHost
    path: Path

    def __str__(self) -> str:
        return f"{self.host} {self.path}"

    async def prepare(self) -> None:
        """Have a connection to the host (`Socket`)."""
        await self.host.connection()

    async def exchange(self, command: str, *, ends_first: bool) -> bytes | None:
        """Send one command over a channel of its own (`Socket`)."""
        try:
            reader, writer = await self._open()
            return await converse(reader, writer, command, ends_first=ends_first, where=str(self))
        except asyncssh.Error as exc:
            raise BalancerUnavailable(f"{self}: the connection was lost: {exc.reason}") from exc

    async def _open(self) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
        """Open a channel; through a new connection when the one that stood has just been found lost."""
        connection = await self.host.connection()
        try:
            return await connection.open_unix_connection(str(self.path), encoding=None)
        except asyncssh.ChannelOpenError as exc:
            if not connection.is_closed():
                raise BalancerUnavailable(
                    f"{self}: cannot be opened there ({exc.reason}): start HAProxy, let this user write to its"
                    " socket, and let sshd forward to it (AllowStreamLocalForwarding)"
                ) from exc
        connection = await self.host.connection()
        return await connection.open_unix_connection(str(self.path), encoding=None)


class HaproxySockets:
    """The sockets of all configured HAProxies, here or elsewhere; those of one host share its connection."""

    def __init__(self, haproxies: Sequence[HaproxySettings], key_of: KeyOf) -> None:
        """Take the config.

        Raises:
            ConfigError: a key that is named cannot be read, or a host's is none.
        """
        hosts: dict[tuple[object, ...], SshHost] = {}
        self._hosts: dict[str, SshHost] = {}
        for one in haproxies:
            if one.ssh is None or one.ssh_host_key is None:
                continue
            user, host, port = one.ssh_address
            identity = (user, host, port, one.ssh_host_key, one.ssh_key_file)
            if identity not in hosts:
                key = key_of(one.ssh_key_file)
                hosts[identity] = SshHost(user, host, port, one.ssh_host_key, key)
            self._hosts[one.name] = hosts[identity]

    @property
    def hosts(self) -> tuple[SshHost, ...]:
        """The other hosts, each once."""
        return tuple(dict.fromkeys(self._hosts.values()))

    def stats(self, haproxy: HaproxySettings) -> Socket:
        """Its `stats socket`."""
        return self._at(haproxy, haproxy.socket)

    def master(self, haproxy: HaproxySettings) -> Socket | None:
        """The socket of its master process, None when the config names none."""
        path = haproxy.master_socket
        return None if path is None else self._at(haproxy, path)

    async def close(self) -> None:
        """Close every connection."""
        for host in set(self._hosts.values()):
            await host.close()

    def _at(self, haproxy: HaproxySettings, path: Path) -> Socket:
        host = self._hosts.get(haproxy.name)
        return LocalSocket(path) if host is None else RemoteSocket(host, path)
