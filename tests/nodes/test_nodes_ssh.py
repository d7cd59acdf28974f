"""SSH to servers that are honest, slow, hostile or OpenSSH."""

from __future__ import annotations

import asyncio
import getpass
import inspect
import os
import pkgutil
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncssh
import pytest

import autoscaler.nodes
from autoscaler.errors import HostKeyMismatch, NodeUnreachable
from autoscaler.nodes.hostkey import proof_of
from autoscaler.nodes.ssh import SshAccess
from tests.nodes.vm_parts import CLIENT_KEY, NONCE, access, until

HERE = "127.0.0.1"
Handler = Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]]


def public(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key().decode().split()[:2])


def says(text: bytes) -> Handler:
    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(text)
        process.exit(0)

    return handle


async def runs(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Really run the command, as a host does."""
    child = await asyncio.create_subprocess_exec(
        *("sh", "-c", process.command or ""),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await child.communicate(await process.stdin.read())
    process.stdout.write(stdout)
    process.stderr.write(stderr)
    process.exit(child.returncode or 0)


@asynccontextmanager
async def server(
    handler: Handler, host_key: asyncssh.SSHKey, client: asyncssh.SSHKey = CLIENT_KEY
) -> AsyncIterator[SshAccess]:
    """An SSH server on a free port, and the way to it."""
    acceptor = await asyncssh.listen(
        HERE,
        0,
        server_host_keys=[host_key],
        authorized_client_keys=asyncssh.import_authorized_keys(client.export_public_key().decode()),
        process_factory=handler,
        encoding=None,
        config=None,
    )
    try:
        yield access(acceptor.get_port())
    finally:
        acceptor.close()
        await acceptor.wait_closed()


@pytest.fixture
def host_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


# first contact


async def test_a_host_that_proves_its_key_by_the_nonce_is_believed(
    host_key: asyncssh.SSHKey,
) -> None:
    proof = proof_of(NONCE, public(host_key)).encode()

    async with server(says(proof + b"\n"), host_key) as ssh:
        assert await ssh.first_contact(HERE, NONCE) == public(host_key)


async def test_a_relay_that_replays_the_real_hosts_proof_is_refused(
    host_key: asyncssh.SSHKey,
) -> None:
    real = asyncssh.generate_private_key("ssh-ed25519")
    proof = proof_of(NONCE, public(real)).encode()

    async with server(says(proof), host_key) as ssh:
        with pytest.raises(HostKeyMismatch, match="before the pin"):
            await ssh.first_contact(HERE, NONCE)


async def test_a_proof_by_another_nonce_is_refused(host_key: asyncssh.SSHKey) -> None:
    proof = proof_of("00" * 32, public(host_key)).encode()

    async with server(says(proof), host_key) as ssh:
        with pytest.raises(HostKeyMismatch):
            await ssh.first_contact(HERE, NONCE)


async def test_a_host_without_a_proof_yet_is_asked_again_later(host_key: asyncssh.SSHKey) -> None:
    async with server(says(b""), host_key) as ssh:
        with pytest.raises(NodeUnreachable, match="not proven the host key yet"):
            await ssh.first_contact(HERE, NONCE)


# reaching


async def test_another_key_than_the_pinned_one_gets_no_command(host_key: asyncssh.SSHKey) -> None:
    asked: list[str] = []
    pinned = public(asyncssh.generate_private_key("ssh-ed25519"))

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        asked.append(process.command or "")
        process.exit(0)

    async with server(handle, host_key) as ssh:
        with pytest.raises(HostKeyMismatch, match="after the pin"):
            async with ssh.connect(HERE, pinned) as shell:
                await shell.run("true", timeout_s=5)

    assert asked == []


async def test_a_host_that_does_not_know_our_key_yet_is_unreachable(
    host_key: asyncssh.SSHKey,
) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519")

    async with server(runs, host_key, client=stranger) as ssh:
        with pytest.raises(NodeUnreachable, match="does not accept our key"):
            async with ssh.connect(HERE, public(host_key)):
                pass


async def test_a_closed_port_is_said_to_refuse(host_key: asyncssh.SSHKey) -> None:
    with socket.socket() as unused:
        unused.bind((HERE, 0))
        ssh = access(unused.getsockname()[1])

        with pytest.raises(NodeUnreachable, match="refused: sshd is not up"):
            await ssh.first_contact(HERE, NONCE)


async def test_a_port_that_accepts_and_stays_mute_is_given_up_in_time(
    host_key: asyncssh.SSHKey,
) -> None:
    with socket.socket() as mute:
        mute.bind((HERE, 0))
        mute.listen()
        ssh = access(mute.getsockname()[1], timeout_s=0.1)

        with pytest.raises(NodeUnreachable, match=r"no answer in time|timeout expired"):
            await ssh.first_contact(HERE, NONCE)
        with pytest.raises(NodeUnreachable, match=r"no answer in time|timeout expired"):
            async with ssh.connect(HERE, public(host_key)):
                pass


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-x\r\n" + bytes(range(256)) * 8,
        b"SSH-2.0-x\r\n\xff\xff\xff\xff" + b"\0" * 64,
        b"SSH-1.5-old\r\n",
        b"A" * 100_000,
    ],
)
async def test_a_port_that_speaks_something_else_is_unreachable(
    host_key: asyncssh.SSHKey, said: bytes
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(said)
            await writer.drain()
            await reader.read(1)
            writer.close()
            await writer.wait_closed()

    listening = await asyncio.start_server(speak, HERE, 0)
    ssh = access(listening.sockets[0].getsockname()[1], timeout_s=0.5)
    async with listening:
        with pytest.raises(NodeUnreachable):
            await ssh.first_contact(HERE, NONCE)
        with pytest.raises(NodeUnreachable):
            async with ssh.connect(HERE, public(host_key)):
                pass


async def test_a_host_with_another_kind_of_key_only_gets_no_command() -> None:
    pinned = public(asyncssh.generate_private_key("ssh-ed25519"))

    async with server(runs, asyncssh.generate_private_key("ecdsa-sha2-nistp256")) as ssh:
        with pytest.raises(NodeUnreachable):
            await ssh.first_contact(HERE, NONCE)
        with pytest.raises(NodeUnreachable):
            async with ssh.connect(HERE, pinned):
                pass


# commands


async def test_what_a_command_prints_is_made_fit_to_show(host_key: asyncssh.SSHKey) -> None:
    said = b"\x1b[31mred\x1b[0m \x1b]0;title\x07a\x00b\xff\xfe\r\nnext \xe2\x80\xaeevil\n"

    async with server(says(said), host_key) as ssh, ssh.connect(HERE, public(host_key)) as shell:
        output = await shell.run("x", timeout_s=5)

    assert output.stdout == "red ab\ufffd\ufffd\nnext evil\n"


async def test_endless_output_is_cut_at_the_cap(host_key: asyncssh.SSHKey) -> None:
    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        with suppress(BrokenPipeError, ConnectionError):
            while True:
                process.stdout.write(b"y\n" * 4096)
                await process.stdout.drain()

    async with server(handle, host_key) as ssh, ssh.connect(HERE, public(host_key)) as shell:
        async with asyncio.timeout(60):
            output = await shell.run("yes", timeout_s=60, max_bytes=10_000)

    assert output.truncated
    assert len(output.stdout) == 10_000


async def test_the_host_itself_ends_a_command_that_takes_too_long(
    host_key: asyncssh.SSHKey,
) -> None:
    async with server(runs, host_key) as ssh, ssh.connect(HERE, public(host_key)) as shell:
        output = await shell.run("sleep 60", timeout_s=1)

    assert output.timed_out


async def test_exit_code_and_both_streams_come_back(host_key: asyncssh.SSHKey) -> None:
    async with server(runs, host_key) as ssh, ssh.connect(HERE, public(host_key)) as shell:
        output = await shell.run("""echo "it's" '$HOME'; echo no >&2; exit 7""", timeout_s=5)

    assert (output.rc, output.stdout, output.stderr) == (7, "it's $HOME\n", "no\n")


async def test_a_session_that_drops_mid_command_leaves_its_outcome_unknown(
    host_key: asyncssh.SSHKey,
) -> None:
    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.channel.get_connection().abort()

    async with server(handle, host_key) as ssh, ssh.connect(HERE, public(host_key)) as shell:
        with pytest.raises(NodeUnreachable):
            await shell.run("true", timeout_s=5)


async def test_a_secret_is_written_whole_for_its_owner_alone_and_is_in_no_command(
    host_key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    commands: list[str] = []
    place = tmp_path / "it's a token"

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        commands.append(process.command or "")
        await runs(process)

    async with server(handle, host_key) as ssh, ssh.connect(HERE, public(host_key)) as shell:
        await shell.put_secret(str(place), b"hf_canary")

    assert place.read_bytes() == b"hf_canary"
    assert place.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [place.name]
    assert "hf_canary" not in "".join(commands)


# fidelity


@pytest.fixture
def openssh(host_key: asyncssh.SSHKey, tmp_path: Path) -> tuple[list[str], int]:
    """The command line of an unprivileged sshd, and its port."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    assert Path(sshd).exists(), "apt-get install openssh-server"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (tmp_path / "host").write_bytes(host_key.export_private_key("openssh"))
    (tmp_path / "host").chmod(0o600)
    (tmp_path / "authorized").write_bytes(CLIENT_KEY.export_public_key())
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = int(free.getsockname()[1])
    settings = {
        "Port": port,
        "ListenAddress": HERE,
        "HostKey": tmp_path / "host",
        "PidFile": tmp_path / "pid",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
    }
    (tmp_path / "config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    return [sshd, "-D", "-e", "-f", str(tmp_path / "config")], port


async def test_it_works_with_openssh(
    host_key: asyncssh.SSHKey, openssh: tuple[list[str], int]
) -> None:
    command, port = openssh
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    ssh = SshAccess(CLIENT_KEY, getpass.getuser(), port, 5.0)
    try:

        async def look() -> str | None:
            try:
                async with ssh.connect(HERE, public(host_key)) as shell:
                    return (await shell.run("cat; exit 3", timeout_s=5, input=b"hello")).stdout
            except NodeUnreachable:
                return None

        assert await until(look) == "hello"
        other = public(asyncssh.generate_private_key("ssh-ed25519"))
        with pytest.raises(HostKeyMismatch):
            async with ssh.connect(HERE, other):
                pass
    finally:
        process.terminate()
        await process.wait()


def test_no_code_of_ours_connects_to_a_host_without_a_key_to_hold_it_to() -> None:
    for module in pkgutil.iter_modules(autoscaler.nodes.__path__, "autoscaler.nodes."):
        source = inspect.getsource(__import__(module.name, fromlist=["_"]))
        assert "known_hosts=None" not in source
        assert source.count("asyncssh.connect(") <= source.count("known_hosts=([trusted], [], [])")
