"""The daemon as its unit starts it: confined, with a credential and notifications, against an emulated cloud."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.units import ROOT, confinement, setting, unconfinable
from tests.observe.parts import process, until
from tests.world.files import free_port

CONFIG = """
schema = 1
policies = "policies"
state_dir = "state"
runtime_dir = "run"
[cloud]
url = "{url}"
project = "{project_id}"
key_file = "credentials/mkinf.key"
owner = "unittest"
requests_per_s = 100
[firewall]
sources = ["127.0.0.1/32"]
[serve]
listen = "127.0.0.1:{port}"
[timings]
reconcile = "500ms"
sweep = "500ms"
market = "500ms"
"""
POLICY = 'schema = 1\nmodel = "Qwen/Qwen3-8B"\nengine = "vllm"\nmode = "shadow"\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="daemon-") as name:
        yield Path(name)


@asynccontextmanager
async def emulated_cloud(folder: Path) -> AsyncIterator[dict[str, str]]:
    """An emulator; what it says of itself when it is up."""
    ready, log = folder / "cloud.json", folder / "emulator.log"
    command = (
        *(sys.executable, "-m", "autoscaler", "emulator", "--state-dir", str(folder / "machines")),
        *("--ready-file", str(ready), "--access-key-file", str(folder / "access-key")),
    )

    async def is_up() -> bool:
        return os.path.exists(ready)  # noqa: ASYNC240  # one stat of a local file

    async with process(*command, log=log):
        await until(is_up, log)
        cloud: dict[str, str] = json.loads(_read(ready))
        yield cloud


def _read(path: Path) -> str:
    return path.read_text()


def installed(folder: Path, cloud: dict[str, str]) -> int:
    """What an installation puts into place; the port that the daemon serves on."""
    port = free_port()
    (folder / "config.toml").write_text(CONFIG.format(port=port, **cloud))
    (folder / "policies").mkdir()
    (folder / "policies" / "chat-8b.toml").write_text(POLICY)
    (folder / "credentials").mkdir()
    key = folder / "credentials" / "mkinf.key"
    key.write_text(Path(cloud["key_file"]).read_text())
    key.chmod(0o440)  # as systemd leaves it
    (folder / "run").mkdir(mode=0o750)
    (folder / "state").mkdir(mode=0o700)
    return port


async def _hear_all(hear: Callable[[bytes], Awaitable[None]], *facts: bytes) -> None:
    for fact in facts:
        await hear(fact)


async def _ready(port: int) -> object:
    """What /readyz says once it is 200."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                if answer.status == 200:
                    return await answer.json()
            await asyncio.sleep(0.05)


async def test_the_daemon_works_as_confined_as_its_unit_says(folder: Path) -> None:
    (command,) = setting("autoscaler.service", "ExecStart")
    arguments = shlex.split(command.replace("/etc/autoscaler", str(folder)))[1:]
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(folder / "notify"))
    notices.setblocking(False)
    loop = asyncio.get_running_loop()
    async with emulated_cloud(folder) as cloud:
        port = installed(folder, cloud)
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("confined.py"))),
            confinement("autoscaler"),
            *(sys.executable, "-m", "autoscaler", *arguments),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            umask=0o077,
            env=dict(os.environ)
            | {
                "NOTIFY_SOCKET": str(folder / "notify"),
                "WATCHDOG_USEC": "180000000",
                "CREDENTIALS_DIRECTORY": str(folder / "credentials"),
            },
        )
        heard: list[bytes] = []

        async def hear(fact: bytes) -> None:
            while not any(fact in notice for notice in heard):
                heard.append(await loop.sock_recv(notices, 4096))

        try:
            async with asyncio.timeout(40):
                waiting = asyncio.create_task(_hear_all(hear, b"READY=1", b"WATCHDOG=1"))
                ended = asyncio.create_task(started.wait())
                await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    ready = await _ready(port)
                    mode = stat.S_IMODE((folder / "run" / "daemon.sock").stat().st_mode)
                    started.send_signal(signal.SIGHUP)
                    started.send_signal(signal.SIGTERM)
                    await hear(b"STOPPING=1")
                waiting.cancel()
                log, _ = await started.communicate()
        finally:
            notices.close()
            if started.returncode is None:
                started.kill()
                await started.communicate()

    unconfinable(started.returncode, log.decode())
    assert started.returncode == 0, log.decode()
    assert ready == {"ready": True, "missing": []}
    assert mode == 0o600
    assert {path.name for path in (folder / "state").iterdir()} >= {"ssh_key", "autoscaler.db"}
    key = _read(Path(cloud["key_file"])).strip()
    assert key not in log.decode()
