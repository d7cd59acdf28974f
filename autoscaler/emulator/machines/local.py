"""`LocalMachines`: the machines of the emulated cloud, as processes of this computer."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import structlog

from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.descriptors import Streams
from autoscaler.emulator.machines.layout import Layout
from autoscaler.emulator.machines.processes import (
    Command,
    MachineEnded,
    Supervisor,
    namespaces_allowed,
)
from autoscaler.emulator.machines.sshd import SshServer, load_host_key, public_line, reserve

log = structlog.get_logger(__name__)

CONTAINERS_TIMEOUT_S = 20.0


@dataclass(slots=True)
class _Machine:
    """A VM that is switched on."""

    spec: MachineSpec
    layout: Layout
    supervisor: Supervisor
    key: asyncssh.SSHKey
    life: asyncio.Task[None] | None = None

    async def start(self, script: Path, *arguments: str) -> Command:
        """Run one of the VM's scripts as the kernel would, by its shebang, its output logged."""
        is_startup = script == self.layout.startup_script
        faults = self.layout.fault_environment(self.spec) if is_startup else {}
        with (
            open(os.devnull, "rb") as nothing,  # noqa: ASYNC230 - local files, no waiting
            open(self.layout.boot_log, "ab") as printed,  # noqa: ASYNC230
        ):
            return await self.supervisor.run(
                [str(script), *arguments],
                env=self.layout.environment(self.spec) | faults,
                cwd=self.layout.root,
                streams=Streams(nothing.fileno(), printed.fileno(), printed.fileno()),
            )

    async def live(self, reserved: socket.socket, ssh_after_s: float) -> None:
        """Answer SSH from `ssh_after_s` on, until the VM's last process has gone."""
        server = SshServer(self.spec, self.layout, self.supervisor, self.key)
        try:
            if await self._ends_within(ssh_after_s):
                return
            if "no_ssh" not in self.spec.boot_faults:
                try:
                    await server.start(reserved)
                except OSError as error:
                    log.error("emulated_sshd_failed", vm=self.spec.name, error=str(error))
            await self.supervisor.ended()
            log.info("emulated_machine_ended", vm=self.spec.name)
        finally:
            server.close()
            reserved.close()

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.supervisor.ended()
        except TimeoutError:
            return False
        return True


class LocalMachines:
    """A `MachineBackend` whose machines are process trees below `root`.

    Args:
        root: a directory of the emulator's own; each VM gets `root/<vm_id>`.
        real_llama_cpp: containers of llama.cpp's image run the real server, not the emulated engine.
        engine_arguments: appended to every emulated engine's command line, e.g. ("--speed", "4").
        namespace: have the kernel contain each VM; None probes whether it can.
    """

    def __init__(
        self,
        root: Path,
        *,
        real_llama_cpp: bool = False,
        engine_arguments: Sequence[str] = (),
        namespace: bool | None = None,
    ) -> None:
        self._root = root.resolve()
        self._real_llama_cpp = real_llama_cpp
        self._engine_arguments = tuple(engine_arguments)
        self._namespace = namespace
        self._machines: dict[str, _Machine] = {}
        self._booted: set[str] = set()  # and not destroyed since

    async def boot(self, spec: MachineSpec, ssh_after_s: float) -> str:
        """Start the VM's processes; see `MachineBackend`.

        Raises:
            OSError: its SSH port is taken, or its directory cannot be written.
            MachineEnded: no process could be started.
            RuntimeError: it is running already.
        """
        if self.is_running(spec.vm_id):
            raise RuntimeError(f"{spec.vm_id} is running already")
        endpoint = (spec.address, spec.ssh_port)
        if any((m.spec.address, m.spec.ssh_port) == endpoint for m in self._running()):
            # two sockets that do not listen yet may share an address: the kernel would not say it
            raise OSError(errno.EADDRINUSE, f"{spec.address}:{spec.ssh_port} is in use")
        if self._namespace is None:
            self._namespace = await asyncio.to_thread(namespaces_allowed)
        layout = Layout(self._root / spec.vm_id)
        self._booted.add(spec.vm_id)
        layout.prepare(
            spec,
            engine_arguments=self._engine_arguments,
            real_llama_cpp=self._real_llama_cpp,
        )
        key = load_host_key(layout.host_key)
        reserved = reserve(spec.address, spec.ssh_port)
        try:
            supervisor = await Supervisor.start(spec.name, namespace=self._namespace)
        except BaseException:
            reserved.close()
            raise
        (layout.root / "run/supervisor.pid").write_text(f"{supervisor.own_pid}\n")
        machine = _Machine(spec, layout, supervisor, key)
        machine.life = asyncio.create_task(
            machine.live(reserved, ssh_after_s), name=f"machine-{spec.name}"
        )
        self._machines[spec.vm_id] = machine
        await self._run_boot_commands(machine)
        return public_line(key)

    async def _run_boot_commands(self, machine: _Machine) -> None:
        """Docker comes up with the containers it kept, then the startup script begins."""
        layout = machine.layout
        try:
            if any((layout.root / "var/lib/docker/containers").iterdir()):
                restored = await machine.start(layout.root / "bin/docker", "restore-containers")
                async with asyncio.timeout(CONTAINERS_TIMEOUT_S):
                    await restored.wait()
            if machine.spec.startup_script:
                await machine.start(layout.startup_script)
        except (MachineEnded, TimeoutError) as error:
            log.warning("emulated_boot_incomplete", vm=machine.spec.name, error=str(error))

    async def power_off(self, vm_id: str, timeout_s: float) -> None:
        """Run the shutdown script for at most `timeout_s`, then kill all processes."""
        machine = self._machines.get(vm_id)
        if machine is None:
            return
        try:
            if machine.spec.shutdown_script and self.is_running(vm_id):
                script = await machine.start(machine.layout.shutdown_script)
                async with asyncio.timeout(timeout_s):
                    await script.wait()
        except (MachineEnded, TimeoutError) as error:
            log.info("emulated_shutdown_script_cut", vm=machine.spec.name, error=str(error))
        finally:
            await self.kill(vm_id)

    async def kill(self, vm_id: str) -> None:
        """Kill the VM's whole tree at once. Its directory stays."""
        machine = self._machines.get(vm_id)
        if machine is None:
            return
        await machine.supervisor.kill()
        if machine.life is not None:
            await asyncio.wait([machine.life])
            if not machine.life.cancelled() and (error := machine.life.exception()):
                log.error("emulated_machine_failed", vm=machine.spec.name, error=str(error))
        if self._machines.get(vm_id) is machine:
            del self._machines[vm_id]

    async def destroy(self, vm_id: str) -> None:
        """Kill the VM and remove its directory. Unknown is no error."""
        await self.kill(vm_id)
        self._booted.discard(vm_id)
        directory = self._root / vm_id
        if directory.parent == self._root:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _running(self) -> list[_Machine]:
        return [m for vm_id, m in self._machines.items() if self.is_running(vm_id)]

    def is_running(self, vm_id: str) -> bool:
        """Whether any process of the VM may still run."""
        machine = self._machines.get(vm_id)
        return machine is not None and machine.supervisor.is_running

    async def close(self) -> None:
        """Kill every VM that was ever booted here, and remove its directory."""
        await asyncio.gather(*(self.destroy(vm_id) for vm_id in list(self._booted)))
