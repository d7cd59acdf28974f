"""What a client sees of a VM's SSH server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncssh
from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.local import LocalMachines

Build = Callable[..., MachineSpec]
LogIn = Callable[..., Awaitable[asyncssh.SSHClientConnection]]


async def test_a_command_gets_its_input_and_gives_its_output_and_exit_code(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))

    result = await connection.run("cat; echo oops >&2; exit 7", input="hello")

    assert (result.stdout, result.stderr, result.exit_status) == ("hello", "oops\n", 7)
