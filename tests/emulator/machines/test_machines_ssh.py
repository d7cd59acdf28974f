"""What a client sees of a VM's SSH server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncssh
import pytest

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


@pytest.mark.parametrize("login", ["root", "ubuntu", "crusoe"])
async def test_any_login_name_gets_in_and_sudo_runs_its_command(
    machines: LocalMachines, spec: Build, log_in: LogIn, login: str
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0), username=login)

    result = await connection.run("sudo -n sh -c 'echo $USER; exit 3'")

    assert (result.stdout, result.exit_status) == (f"{login}\n", 3)


async def test_another_client_key_is_refused(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    machine = spec()
    host_key = await machines.boot(machine, 0.0)
    stranger = asyncssh.generate_private_key("ssh-ed25519")

    with pytest.raises(asyncssh.PermissionDenied):
        await log_in(machine, host_key, client_key=stranger)


async def test_each_machine_has_a_host_key_of_its_own(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    first, second = spec(vm_id="a"), spec(vm_id="b")
    first_key = await machines.boot(first, 0.0)
    await machines.boot(second, 0.0)

    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await log_in(second, first_key)


async def test_a_changed_host_key_shows_from_the_second_connection_on(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    machine = spec(boot_faults=frozenset({"host_key_changed"}))
    host_key = await machines.boot(machine, 0.0)

    await log_in(machine, host_key)

    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await log_in(machine, host_key)


async def test_ssh_is_refused_until_its_time_comes(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    late = spec(vm_id="late")
    never = spec(vm_id="never", boot_faults=frozenset({"no_ssh"}))
    host_key = await machines.boot(late, 0.3)
    await machines.boot(never, 0.0)

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(late.address, late.ssh_port)
    assert (await (await log_in(late, host_key)).run("true")).exit_status == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(never.address, never.ssh_port)
    assert machines.is_running("never")


async def test_a_client_that_goes_takes_its_command_with_it_but_not_what_was_left_behind(
    machines: LocalMachines, spec: Build, log_in: LogIn, tmp_path: Path
) -> None:
    machine = spec()
    host_key = await machines.boot(machine, 0.0)
    connection = await log_in(machine, host_key)
    await connection.run("nohup sleep 4242 </dev/null >/dev/null 2>&1 &", check=True)
    running = await connection.create_process("timeout -k 5 900 sh -c 'echo up; sleep 5151; true'")
    assert await running.stdout.readline() == "up\n"
    other = await log_in(machine, host_key)

    connection.abort()

    async with asyncio.timeout(10):
        while "sleep 5151" in str((await other.run("ps ax; sleep 0.02")).stdout):
            pass
    assert "sleep 4242" in str((await other.run("ps ax")).stdout)


async def test_a_signal_from_the_client_reaches_the_command(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    process = await connection.create_process(
        "trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.01; done"
    )
    assert await process.stdout.readline() == "up\n"

    process.send_signal("TERM")

    result = await process.wait(timeout=10)
    assert (result.stdout, result.exit_status) == ("asked\n", 5)


async def test_a_command_ended_by_a_signal_says_which(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))

    result = await connection.run("kill -KILL $$")

    assert result.exit_signal is not None
    assert result.exit_signal[0] == "KILL"


async def test_megabytes_pass_both_ways_unharmed(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    text = "0123456789abcde\n" * 200_000

    result = await connection.run("cat", input=text)

    assert result.stdout == text


@pytest.mark.parametrize("letter", ["x", '"'])
async def test_a_command_that_is_too_long_fails_alone(
    machines: LocalMachines, spec: Build, log_in: LogIn, letter: str
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))

    refused = await connection.run(f"true {letter * 127_000} {letter * 10_000}")
    # within the kernel's limit for one argument, but twice as long as JSON
    quoted = await connection.run(f"true '{letter * 120_000}'")

    assert (refused.exit_status, "too long" in str(refused.stderr)) == (126, True)
    assert quoted.exit_status == (0 if letter == "x" else 126)
    assert (await connection.run("true")).exit_status == 0


async def test_a_terminal_is_one(machines: LocalMachines, spec: Build, log_in: LogIn) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))

    result = await connection.run("tty; stty size", term_type="xterm", term_size=(90, 33))

    assert "/dev/pts/" in str(result.stdout)
    assert "33 90" in str(result.stdout)


async def test_sftp_sees_the_machines_root_and_nothing_above_it(
    machines: LocalMachines, spec: Build, log_in: LogIn, tmp_path: Path
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    (tmp_path / "outside").write_text("secret")

    async with connection.start_sftp_client() as sftp:
        async with sftp.open("/run/token", "w") as file:
            await file.write("hf_x")
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.stat("/../../outside")

    result = await connection.run('cat "${VM_ROOT:-}/run/token"')
    assert result.stdout == "hf_x"


async def test_commands_of_a_machine_that_dies_end_with_its_connection(
    machines: LocalMachines, spec: Build, log_in: LogIn
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    process = await connection.create_process("echo up; sleep 900")
    assert await process.stdout.readline() == "up\n"

    await machines.kill(machine.vm_id)

    async with asyncio.timeout(10):
        await connection.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(machine.address, machine.ssh_port)
