"""Builders for machines: a VM on an address of this test process's own, and a way in by SSH."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncssh
import pytest

from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.local import LocalMachines

CLIENT_KEY = asyncssh.generate_private_key("ssh-ed25519")
_octets = random.Random(os.getpid())

Build = Callable[..., MachineSpec]
LogIn = Callable[..., Awaitable[asyncssh.SSHClientConnection]]


@pytest.fixture
def spec() -> Build:
    """A machine with two L40S and no startup script, unless told otherwise."""

    def build(**changes: object) -> MachineSpec:
        facts: dict[str, object] = {
            "vm_id": "vm-1",
            "name": "chat-1",
            "location": "us-east1-a",
            "gpu": "l40s",
            "gpus": 2,
            "vcpu": 16,
            "ram_gb": 294,
            "disk_gb": 128,
            "address": f"127.{_octets.randint(30, 250)}.{_octets.randint(1, 250)}.5",
            "ssh_port": 2222,
            "authorized_key": CLIENT_KEY.export_public_key().decode(),
            "startup_script": "",
            "shutdown_script": "",
            "time_factor": 600.0,
            "boot_faults": frozenset(),
        }
        return MachineSpec(**(facts | changes))  # type: ignore[arg-type] # a builder's keywords

    return build


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[LocalMachines]:
    backend = LocalMachines(tmp_path / "machines")
    yield backend
    await backend.close()


@pytest.fixture
async def log_in() -> AsyncIterator[LogIn]:
    """Connect as the daemon would: key, pinned host key, nothing of this user's own."""
    connections: list[asyncssh.SSHClientConnection] = []

    async def once(
        machine: MachineSpec, host_key: str, username: str, client_key: asyncssh.SSHKey
    ) -> asyncssh.SSHClientConnection:
        line = f"[{machine.address}]:{machine.ssh_port} {host_key}"
        return await asyncssh.connect(
            machine.address,
            machine.ssh_port,
            username=username,
            client_keys=[client_key],
            known_hosts=asyncssh.import_known_hosts(line),
            connect_timeout=5,
            login_timeout=5,
            config=None,
            agent_path=None,
        )

    async def connect(
        machine: MachineSpec,
        host_key: str,
        username: str = "ubuntu",
        client_key: asyncssh.SSHKey = CLIENT_KEY,
    ) -> asyncssh.SSHClientConnection:
        async with asyncio.timeout(20):
            while True:
                try:
                    connection = await once(machine, host_key, username, client_key)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)  # sshd is not up yet
                    continue
                connections.append(connection)
                return connection

    yield connect
    for connection in connections:
        connection.abort()
    for connection in connections:
        await connection.wait_closed()
