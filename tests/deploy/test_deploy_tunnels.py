"""The unit of the tunnels: its command starts as systemd would start it, confined as it says."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from autoscaler.nodes.tunnel_client import TunnelClient
from tests.deploy.units import ROOT, confinement, setting, unconfinable


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets, with a credential as systemd leaves it."""
    with tempfile.TemporaryDirectory(prefix="units-") as name:
        credential = Path(name) / "ssh_key"
        key = asyncssh.generate_private_key("ssh-ed25519")
        credential.write_bytes(key.export_private_key("openssh"))
        credential.chmod(0o440)
        yield Path(name)


def test_its_key_is_the_daemons_and_its_socket_the_daemons_groups() -> None:
    (credential,) = setting("autoscaler-tunnels.service", "LoadCredential")
    (state,) = setting("autoscaler.service", "StateDirectory")

    assert credential == f"ssh_key:/var/lib/{state}/ssh_key"
    assert setting("autoscaler-tunnels.socket", "SocketGroup") == setting(
        "autoscaler.service", "Group"
    )
    assert setting("autoscaler-tunnels.socket", "SocketMode") == ["0660"]


def test_stopping_waits_longer_than_its_streams_may_run() -> None:
    (command,) = setting("autoscaler-tunnels.service", "ExecStart")
    words = shlex.split(command)
    drain_s = float(words[words.index("--drain-timeout") + 1])

    (stop,) = setting("autoscaler-tunnels.service", "TimeoutStopSec")

    assert drain_s + 30 <= float(stop.removesuffix("s"))


async def test_its_command_takes_systemds_socket_and_credential_and_reports_to_it(
    folder: Path,
) -> None:
    (command,) = setting("autoscaler-tunnels.service", "ExecStart")
    words = command.replace("/var/lib/autoscaler-tunnels", str(folder))
    arguments = shlex.split(words.replace("${CREDENTIALS_DIRECTORY}", str(folder)))[1:]
    pass_on = (
        "import os, sys; os.dup2(os.dup2(int(sys.argv[1]), 50), 3);"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    control = socket.socket(socket.AF_UNIX)
    with notices, control:
        notices.bind(str(folder / "notify"))
        notices.setblocking(False)
        control.bind(str(folder / "control.sock"))
        control.listen()
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", pass_on, str(control.fileno())),
            *(str(Path(__file__).with_name("confined.py")), confinement("autoscaler-tunnels")),
            *(sys.executable, "-m", "autoscaler", *arguments),
            pass_fds=[control.fileno()],
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ)
            | {"NOTIFY_SOCKET": str(folder / "notify"), "CREDENTIALS_DIRECTORY": str(folder)},
        )
        try:
            heard: list[bytes] = []
            async with asyncio.timeout(30):
                for fact in (b"READY=1", b"WATCHDOG=1"):
                    while not any(fact in notice for notice in heard):
                        heard.append(await asyncio.get_running_loop().sock_recv(notices, 4096))
                listing = await TunnelClient(folder / "control.sock").listing()
                started.send_signal(signal.SIGTERM)
                _, log = await started.communicate()
        finally:
            if started.returncode is None:
                started.kill()
                await started.communicate()

    unconfinable(started.returncode, log.decode())
    assert not listing
    assert started.returncode == 0, log.decode()
