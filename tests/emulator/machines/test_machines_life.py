"""A VM from boot to nothing: scripts, faults, and what is left, which is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncssh
import pytest

from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.local import LocalMachines
from autoscaler.emulator.machines.processes import namespaces_allowed

Build = Callable[..., MachineSpec]
LogIn = Callable[..., Awaitable[asyncssh.SSHClientConnection]]

DAEMONS = """#!/bin/bash
(setsid sleep 7171 &)
setsid sh -c 'sleep 7171 & sleep 7171' &
sleep 7171
"""


def processes_below(root: Path) -> list[int]:
    """Every process whose environment or command line knows a VM's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if str(root).encode() in known:
                    found.append(int(entry.name))
    return found


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.01)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture(params=["namespace", "subreaper"])
def isolated(request: pytest.FixtureRequest) -> bool:
    is_namespace = bool(request.param == "namespace")
    if is_namespace and not namespaces_allowed():
        pytest.fail("no PID namespaces here: sysctl -w kernel.unprivileged_userns_clone=1")
    return is_namespace


async def test_the_startup_script_runs_unchanged_by_its_own_shebang(
    machines: LocalMachines, spec: Build, tmp_path: Path
) -> None:
    script = (
        "#!/bin/bash\n"
        "echo said aloud\n"
        'ROOT=${VM_ROOT:-}\nmkdir -p "$ROOT/opt/autoscaler"\n'
        'printf "%s\\n" "$BASH_VERSION" "$PWD" "$VM_ADDRESS" "$USER" > "$ROOT/opt/autoscaler/seen"\n'
    )
    machine = spec(startup_script=script)
    root = tmp_path / "machines/vm-1"

    await machines.boot(machine, 60.0)

    seen = root / "opt/autoscaler/seen"
    await eventually(lambda: read(seen).count("\n") == 4)
    bash, directory, address, user = seen.read_text().splitlines()
    assert bash[0].isdigit()
    assert (directory, address, user) == (str(root), machine.address, "root")
    assert read(root / "var/log/cloud-init-output.log") == "said aloud\n"
    assert read(root / "usr/local/bin/crusoe") == script


async def test_the_host_key_that_is_told_is_the_one_on_the_disk(
    machines: LocalMachines, spec: Build, tmp_path: Path
) -> None:
    host_key = await machines.boot(spec(), 60.0)

    etc = tmp_path / "machines/vm-1/etc/ssh"
    assert read(etc / "ssh_host_ed25519_key.pub").strip() == host_key
    assert (etc / "ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600


async def test_a_disk_outlives_a_reboot_and_run_does_not(
    machines: LocalMachines, spec: Build, tmp_path: Path
) -> None:
    script = (
        '#!/bin/sh\n[ -e "$VM_ROOT/run/now" ] && echo stale >> "$VM_ROOT/opt/boots"\n'
        'touch "$VM_ROOT/run/now"\necho boot >> "$VM_ROOT/opt/boots"\n'
    )
    machine = spec(startup_script=script)
    boots = tmp_path / "machines/vm-1/opt/boots"

    first_key = await machines.boot(machine, 60.0)
    await eventually(lambda: read(boots) == "boot\n")
    await machines.power_off(machine.vm_id, 1.0)
    second_key = await machines.boot(machine, 60.0)

    await eventually(lambda: read(boots) == "boot\nboot\n")
    assert first_key == second_key


async def test_power_off_runs_the_shutdown_script_and_waits_for_it_no_longer_than_told(
    machines: LocalMachines, spec: Build, tmp_path: Path
) -> None:
    script = '#!/bin/sh\necho going > "$VM_ROOT/opt/last"\nsleep 900\n'
    machine = spec(shutdown_script=script)
    await machines.boot(machine, 60.0)

    await machines.power_off(machine.vm_id, 0.5)

    assert read(tmp_path / "machines/vm-1/opt/last") == "going\n"
    assert not machines.is_running(machine.vm_id)


async def test_a_crash_leaves_no_process_not_even_a_daemon(
    spec: Build, tmp_path: Path, isolated: bool
) -> None:
    machines = LocalMachines(tmp_path, namespace=isolated)
    machine = spec(startup_script=DAEMONS)
    await machines.boot(machine, 0.0)
    await eventually(lambda: len(processes_below(tmp_path)) >= 5)

    await machines.kill(machine.vm_id)

    assert processes_below(tmp_path) == []
    assert not machines.is_running(machine.vm_id)
    await machines.close()


EMULATOR = """
import asyncio, sys
from pathlib import Path
from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.local import LocalMachines

async def main():
    root, namespace, script, address = sys.argv[1:]
    machines = LocalMachines(Path(root), namespace=namespace == "True")
    spec = MachineSpec("vm-1", "n", "l", None, 0, 1, 1, 1, address, 2222, "", script, "", 60.0,
                       frozenset())
    await machines.boot(spec, 0.0)
    await asyncio.sleep(900)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_nothing_outlives_the_emulator_however_it_ends(
    spec: Build, tmp_path: Path, isolated: bool, number: signal.Signals
) -> None:
    emulator = subprocess.Popen(  # noqa: ASYNC220 - waited for below
        [sys.executable, "-c", EMULATOR, str(tmp_path), str(isolated), DAEMONS, spec().address],
        stderr=subprocess.DEVNULL,
    )
    try:
        await eventually(lambda: len(processes_below(tmp_path)) >= 6)
    finally:
        emulator.send_signal(number)
    emulator.wait(timeout=20)

    await eventually(lambda: processes_below(tmp_path) == [])


async def test_a_machine_can_shut_itself_down(spec: Build, tmp_path: Path, isolated: bool) -> None:
    machines = LocalMachines(tmp_path, namespace=isolated)
    machine = spec(startup_script="#!/bin/sh\nsudo shutdown -h now\nsleep 900\n")

    await machines.boot(machine, 0.0)

    await eventually(lambda: not machines.is_running(machine.vm_id))
    assert processes_below(tmp_path) == []
    await machines.boot(spec(address=machine.address), 0.0)
    assert machines.is_running(machine.vm_id)
    await machines.close()


async def test_destroy_removes_the_directory_and_an_unknown_machine_is_no_error(
    machines: LocalMachines, spec: Build, tmp_path: Path
) -> None:
    machine = spec()
    await machines.boot(machine, 0.0)

    await machines.destroy(machine.vm_id)
    await machines.destroy(machine.vm_id)
    await machines.kill("nobody")
    await machines.power_off("nobody", 1.0)

    assert not (tmp_path / "machines/vm-1").exists()
    assert not machines.is_running("nobody")


async def test_closing_the_backend_leaves_neither_process_nor_directory(
    spec: Build, tmp_path: Path, isolated: bool
) -> None:
    machines = LocalMachines(tmp_path, namespace=isolated)
    for vm_id in ("a", "b"):
        await machines.boot(spec(vm_id=vm_id, startup_script=DAEMONS), 0.0)
    await machines.kill("b")

    await machines.close()

    assert processes_below(tmp_path) == []
    assert os.listdir(tmp_path) == []


async def test_an_address_that_is_taken_is_an_error_at_boot(
    machines: LocalMachines, spec: Build
) -> None:
    machine = spec()
    await machines.boot(machine, 60.0)

    with pytest.raises(OSError, match="in use"):
        await machines.boot(spec(vm_id="vm-2", address=machine.address), 0.0)


@pytest.mark.parametrize("use", ["docker info", "true"])
async def test_a_script_that_is_to_fail_fails_and_one_that_is_to_hang_hangs(
    machines: LocalMachines, spec: Build, tmp_path: Path, use: str
) -> None:
    script = (
        '#!/bin/bash\nset -e\ntrap \'echo "$?" > "$VM_ROOT/opt/ended"\' EXIT\n'
        f'touch "$VM_ROOT/opt/begun"\n{use}\nexit 0\n'
    )
    fails = spec(vm_id="a", startup_script=script, boot_faults=frozenset({"script_exits_1"}))
    hangs = spec(vm_id="b", startup_script=script, boot_faults=frozenset({"script_hangs"}))

    await machines.boot(fails, 60.0)
    await machines.boot(hangs, 60.0)

    root = tmp_path / "machines"
    if use == "true":  # it never meets docker: it ends, or stays, before its first line
        await eventually(
            lambda: len(processes_below(root / "a")) < len(processes_below(root / "b"))
        )
        assert not (root / "a/opt/begun").exists()
    else:
        await eventually(lambda: read(root / "a/opt/ended") == "1\n")
        await eventually((root / "b/opt/begun").exists)
    assert not (root / "b/opt/ended").exists()
