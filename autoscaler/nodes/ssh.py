"""Nodes over SSH: every session is pinned to a host key, every wait and every output has a bound.

There is no way to connect here without a key to hold the host to: first contact reads the key that is shown, opens a
session pinned to it, and reads one file.
"""

from __future__ import annotations

import asyncio
import math
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass

import asyncssh

from autoscaler.errors import HostKeyMismatch, NodeUnreachable
from autoscaler.nodes.hostkey import PROOF_FILE, is_proven, normal_form
from autoscaler.nodes.remote_text import printable
from autoscaler.nodes.shell import OUTPUT_BYTES, CommandOutput, NodeShell

HOST_KEY_ALGORITHM = "ssh-ed25519"
ANSWER_GRACE_S = 10.0  # past the command's own limit, for the way there and back
KILL_AFTER_S = 5
_CHUNK_BYTES = 32 * 1024
_READ_PROOF = f'cat "${{VM_ROOT:-}}{PROOF_FILE}"'


@dataclass(frozen=True, slots=True)
class SshAccess:
    """Reaches nodes over SSH, with one client key for all.

    Attributes:
        timeout_s: for the TCP connection, and again for the login.
        keepalive_s: a session that is silent for this long is asked for a sign of life.
        certificate: of our key, shown as well, to nodes that let in an authority and not (yet) our key.
    """

    key: asyncssh.SSHKey
    user: str
    port: int
    timeout_s: float
    keepalive_s: float = 15.0
    certificate: asyncssh.SSHCertificate | None = None

    async def first_contact(self, address: str, nonce: str) -> str:
        """Learn and prove a node's host key (`NodeAccess`). Nothing secret is sent."""
        shown = await self.shown_key(address)
        async with self._session(address, shown, pinned=False) as shell:
            output = await shell.run(_READ_PROOF, timeout_s=self.timeout_s, max_bytes=1024)
        proof = output.stdout.strip()
        if output.rc != 0 or not proof:
            raise NodeUnreachable(f"{address}: the startup script has not proven the host key yet")
        if not is_proven(proof, nonce, shown):
            raise HostKeyMismatch(
                f"{address}: before the pin: the proof does not fit the host key shown "
                f"({fingerprint(shown)}); this is not the machine that got our startup script"
            )
        return shown

    def connect(self, address: str, host_key: str) -> AbstractAsyncContextManager[NodeShell]:
        """Open a session pinned to `host_key` (`NodeAccess`)."""
        return self._session(address, host_key, pinned=True)

    async def shown_key(self, address: str) -> str:
        """The host key that whoever answers there shows: worth nothing until it is proven.

        Raises:
            NodeUnreachable: no answer.
        """
        with _translated(address, self.port):
            async with asyncio.timeout(2 * self.timeout_s):
                key = await asyncssh.get_server_host_key(
                    address, self.port, server_host_key_algs=[HOST_KEY_ALGORITHM], config=None
                )
        if key is None:
            raise NodeUnreachable(f"{address}: shows no host key")
        return normal_form(key.export_public_key("openssh").decode("ascii"))

    @asynccontextmanager
    async def _session(
        self, address: str, host_key: str, *, pinned: bool
    ) -> AsyncIterator[NodeShell]:
        trusted = asyncssh.import_public_key(host_key)
        try:
            with _translated(address, self.port):
                # The bound on connecting is ours: with a `connect_timeout` asyncssh goes through `wait_for`, which in
                # Python 3.11 swallows a cancellation that meets a finished login, and the daemon never ends.
                async with asyncio.timeout(2 * self.timeout_s + 1):
                    connection = await asyncssh.connect(
                        address,
                        self.port,
                        username=self.user,
                        client_keys=[
                            (self.key, self.certificate) if self.certificate else self.key
                        ],
                        known_hosts=([trusted], [], []),
                        server_host_key_algs=[HOST_KEY_ALGORITHM],
                        login_timeout=self.timeout_s,
                        keepalive_interval=self.keepalive_s,
                        preferred_auth="publickey",
                        config=None,
                        agent_path=None,
                        agent_forwarding=False,
                        x11_forwarding=False,
                    )
        except asyncssh.HostKeyNotVerifiable as exc:
            if not pinned:
                raise NodeUnreachable(f"{address}: its host key changed while we looked") from exc
            raise HostKeyMismatch(
                f"{address}: after the pin: another host key than {fingerprint(host_key)}; "
                "nothing was sent"
            ) from exc
        try:
            yield SshShell(address, self.port, connection)
        finally:
            connection.abort()


@dataclass(frozen=True, slots=True)
class SshShell:
    """One pinned session."""

    address: str
    port: int
    connection: asyncssh.SSHClientConnection

    async def run(
        self,
        command: str,
        *,
        timeout_s: float,
        max_bytes: int = OUTPUT_BYTES,
        input: bytes | None = None,
    ) -> CommandOutput:
        """Run a line of sh (`NodeShell`).

        The node itself ends it in time: a client that stops listening ends nothing over there.
        """
        seconds = max(1, math.ceil(timeout_s))
        line = f"timeout -k {KILL_AFTER_S} {seconds} sh -c {shlex.quote(command)}"
        with _translated(self.address, self.port):
            async with asyncio.timeout(seconds + KILL_AFTER_S + ANSWER_GRACE_S):
                process = await self.connection.create_process(line, encoding=None)
                try:
                    return await _converse(process, input, max_bytes)
                finally:
                    process.close()

    async def put_secret(self, path: str, content: bytes) -> None:
        """Write a file of mode 0600 (`NodeShell`); the content goes through stdin only."""
        line = (
            f'umask 077 && to="${{VM_ROOT:-}}"{shlex.quote(path)} && '
            'cat >"$to.new.$$" && mv -f "$to.new.$$" "$to"'
        )
        output = await self.run(line, timeout_s=20, max_bytes=4096, input=content)
        if output.rc != 0:
            raise NodeUnreachable(
                f"{self.address}: cannot write {path}: {output.stderr.strip()[:200] or output.rc}"
            )


async def _converse(
    process: asyncssh.SSHClientProcess[bytes], input: bytes | None, max_bytes: int
) -> CommandOutput:
    """Feed a command and read what it says, until it ends or has said enough."""
    if input is not None:
        process.stdin.write(input)
    process.stdin.write_eof()

    async def read(reader: asyncssh.SSHReader[bytes]) -> tuple[bytes, bool]:
        content, cut = await _read(reader, max_bytes)
        if cut:
            process.close()  # which ends the other stream too
        return content, cut

    (stdout, cut_out), (stderr, cut_err) = await asyncio.gather(
        read(process.stdout), read(process.stderr)
    )
    truncated = cut_out or cut_err
    if not truncated:
        await process.wait_closed()
    rc = process.exit_status
    if rc is None and not truncated:
        if process.exit_signal is None:
            raise NodeUnreachable("the session ended before the command did")
        rc = 128
    return CommandOutput(
        rc=-1 if rc is None else rc,
        stdout=printable(stdout.decode("utf-8", "replace")),
        stderr=printable(stderr.decode("utf-8", "replace")),
        truncated=truncated,
    )


async def _read(reader: asyncssh.SSHReader[bytes], max_bytes: int) -> tuple[bytes, bool]:
    """Read to the end, or to the cap: then the channel's window stays shut and nothing piles up."""
    chunks: list[bytes] = []
    size = 0
    while size <= max_bytes:
        chunk = await reader.read(_CHUNK_BYTES)
        if not chunk:
            return b"".join(chunks), False
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)[:max_bytes], True


def fingerprint(public_key: str) -> str:
    """A key's SHA-256 as ssh-keygen writes it."""
    return asyncssh.import_public_key(public_key).get_fingerprint()


@contextmanager
def _translated(address: str, port: int) -> Iterator[None]:
    """Say in our words why a node cannot be reached."""
    where = f"{address} port {port}"
    try:
        yield
    except (asyncssh.HostKeyNotVerifiable, NodeUnreachable):
        raise
    except asyncssh.PermissionDenied as exc:
        raise NodeUnreachable(f"{where}: does not accept our key (yet)") from exc
    except ConnectionRefusedError as exc:
        raise NodeUnreachable(f"{where}: refused: sshd is not up") from exc
    except (TimeoutError, asyncssh.TimeoutError) as exc:
        raise NodeUnreachable(f"{where}: no answer in time") from exc
    except asyncssh.Error as exc:
        raise NodeUnreachable(f"{where}: {printable(exc.reason)[:200]}") from exc
    except OSError as exc:
        raise NodeUnreachable(f"{where}: {exc.strerror or type(exc).__name__}") from exc
