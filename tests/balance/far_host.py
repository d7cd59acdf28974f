"""Another host, as far as SSH goes: a real server on loopback that forwards to Unix sockets."""

from __future__ import annotations

import asyncssh

from tests.world.files import free_port

KEY = asyncssh.generate_private_key("ssh-ed25519")
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")


def public(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])


class Forwarding(asyncssh.SSHServer):
    """Lets a login forward to Unix sockets and to ports, and notes which sockets it asked for."""

    def __init__(self, host: RemoteHost) -> None:
        self._host = host

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._host.logins.append(conn)

    def unix_connection_requested(self, dest_path: str) -> bool:
        self._host.asked.append(dest_path)
        return True

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        return True


class RemoteHost:
    """A host with sshd; HAProxy is on it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.logins: list[asyncssh.SSHServerConnection] = []
        self.asked: list[str] = []
        self._server: asyncssh.SSHAcceptor | None = None

    async def start(self, key: asyncssh.SSHKey = HOST_KEY) -> None:
        authorized = asyncssh.import_authorized_keys(public(KEY))
        self._server = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: Forwarding(self),
            server_host_keys=[key],
            authorized_client_keys=authorized,
        )

    async def stop(self) -> None:
        """Go away, and cut whoever is connected."""
        if self._server is not None:
            self._server.close()
            for login in self.logins:
                login.abort()
            await self._server.wait_closed()
            self._server = None
