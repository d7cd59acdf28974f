"""Connections that a client has led through a VM's SSH server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncssh
import pytest

from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.local import LocalMachines

Build = Callable[..., MachineSpec]
LogIn = Callable[..., Awaitable[asyncssh.SSHClientConnection]]


async def test_a_vms_loopback_is_its_own_address(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    vm = spec()

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"from the VM")
        writer.close()

    async with await asyncio.start_server(greet, vm.address, 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = await log_in(vm, await machines.boot(vm, 0.0))
        reader, writer = await connection.open_connection("127.0.0.1", port)

        assert await reader.read() == b"from the VM"
        writer.close()


async def test_no_other_host_is_reached_through_a_vm(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    vm = spec()
    connection = await log_in(vm, await machines.boot(vm, 0.0))

    with pytest.raises(asyncssh.ChannelOpenError, match="reaches itself only"):
        await connection.open_connection("127.0.0.2", 80)
    with pytest.raises(asyncssh.ChannelOpenError, match="Connect call failed"):
        await connection.open_connection("localhost", 1)
