"""The command as an operator starts it, against OpenSSH's server."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from autoscaler.nodes.tunnel_client import TunnelClient, TunnelState, TunnelWish
from autoscaler.tunnels.values import TunnelsSettings
from tests.tunnels.conftest import Connect
from tests.tunnels.tunnel_parts import (
    CLIENT_KEY,
    DEADLINE_S,
    HERE,
    Server,
    free_range,
    public,
    until,
)
from tests.world.processes import Processes


@pytest.fixture
def installed(tmp_path: Path) -> tuple[list[str], int, str]:
    """The command line of an unprivileged sshd, its port and its host key."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    assert Path(sshd).exists(), "apt-get install openssh-server"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "host").write_bytes(host_key.export_private_key("openssh"))
    (tmp_path / "host").chmod(0o600)
    (tmp_path / "authorized").write_bytes(CLIENT_KEY.export_public_key())
    port = free_range(1)
    settings = {
        "Port": port,
        "ListenAddress": HERE,
        "HostKey": tmp_path / "host",
        "PidFile": tmp_path / "pid",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
    }
    (tmp_path / "config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    return [sshd, "-D", "-e", "-f", str(tmp_path / "config")], port, public(host_key)


@pytest.fixture
async def openssh(installed: tuple[list[str], int, str]) -> AsyncIterator[tuple[int, str]]:
    """A running sshd: its port and its host key."""
    command, port, host_key = installed
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    yield port, host_key
    process.terminate()
    await process.wait()


async def test_the_command_leads_through_openssh_and_leads_on_after_a_kill(
    openssh: tuple[int, str], settings: TunnelsSettings, folder: Path, connect: Connect
) -> None:
    ssh_port, host_key = openssh
    server = Server()
    await server.listen()
    processes = Processes(folder)
    client = TunnelClient(settings.control)

    async def begin() -> None:
        await processes.spawn(
            "tunnels", "tunnels", "--control", str(settings.control), "--key-file", "ssh_key",
            "--state", "tunnels.json", "--ports", f"{settings.first_port}-{settings.last_port}",
        )  # fmt: skip

    async def up() -> TunnelState | None:
        if not settings.control.exists():
            return None
        state = (await client.listing())["n1"]
        return state if state.state == "up" else None

    async def answers() -> bool | None:
        return settings.control.exists() or None

    try:
        await begin()
        await until(answers, "the process answers")
        wish = TunnelWish("n1", HERE, ssh_port, getpass.getuser(), host_key, server.port)
        tunnel = await client.put(wish)
        await until(up, "the tunnel is up")
        for number in range(12):  # more than sshd's MaxSessions, which is not of such ways
            stream = await connect(tunnel.local_port)
            await stream.says(b"%d" % number, hears=b"hello %d" % number)
        assert (await client.listing())["n1"].streams == 12

        await processes.end("tunnels", signal.SIGKILL)
        settings.control.unlink()
        await begin()
        await until(up, "the tunnel is up again")

        stream = await connect(tunnel.local_port)
        await stream.says(b"again", hears=b"hello again")
        await stream.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await processes.end("tunnels") == 0
    finally:
        await processes.stop()
        await server.stop()
    assert "Traceback" not in processes.log_of("tunnels")


async def test_a_wrong_range_of_ports_is_refused_with_what_is_wanted(folder: Path) -> None:
    processes = Processes(folder)
    try:
        await processes.spawn("tunnels", "tunnels", "--ports", "80-90")

        assert await processes.exit_code("tunnels") == 2
    finally:
        await processes.stop()
    assert "want FIRST-LAST between 1024 and 65535" in processes.log_of("tunnels")
