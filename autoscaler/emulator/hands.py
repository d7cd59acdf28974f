"""The cloud's hands: what the books decide, done to real machines, in order for each machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from autoscaler.emulator.machine import MachineBackend, MachineSpec

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Hands:
    """Carries commands out in tasks of their own; commands for one machine never overlap."""

    def __init__(
        self, machines: MachineBackend, failed: Callable[[str, str, Exception], None]
    ) -> None:
        """`failed` is told the machine's id, the command and why it could not be carried out."""
        self.machines = machines
        self._failed = failed
        self._group: asyncio.TaskGroup | None = None
        self._turns: dict[str, asyncio.Lock] = {}
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def use(self, group: asyncio.TaskGroup) -> None:
        """Take the group that owns all commands."""
        self._group = group

    async def idle(self) -> None:
        """Wait until no command is under way."""
        await self._idle.wait()

    def boot(self, spec: MachineSpec, ssh_after_s: float, then: Callable[[str], None]) -> None:
        self._do(spec.vm_id, "boot", lambda: self.machines.boot(spec, ssh_after_s), then)

    def power_off(self, vm_id: str, timeout_s: float, then: Callable[[None], None]) -> None:
        self._do(vm_id, "power_off", lambda: self.machines.power_off(vm_id, timeout_s), then)

    def kill(self, vm_id: str) -> None:
        """Kill at once, and again after a command under way, which might have been a boot."""
        self._do(vm_id, "kill", lambda: self.machines.kill(vm_id), _nothing, in_turn=False)
        self.kill_in_turn(vm_id)

    def kill_in_turn(self, vm_id: str) -> None:
        self._do(vm_id, "kill", lambda: self.machines.kill(vm_id), _nothing)

    def destroy(self, vm_id: str, then: Callable[[None], None]) -> None:
        self._do(vm_id, "destroy", lambda: self.machines.destroy(vm_id), then)

    def forget(self, vm_id: str) -> None:
        """No more commands will come for this machine."""
        self._turns.pop(vm_id, None)

    def _do(
        self,
        vm_id: str,
        command: str,
        work: Callable[[], Awaitable[T]],
        then: Callable[[T], None],
        *,
        in_turn: bool = True,
    ) -> None:
        assert self._group is not None, "the emulator is not running"
        self._busy += 1
        self._idle.clear()
        turn = self._turns.setdefault(vm_id, asyncio.Lock()) if in_turn else asyncio.Lock()
        self._group.create_task(self._carry_out(vm_id, command, work, then, turn))

    async def _carry_out(
        self,
        vm_id: str,
        command: str,
        work: Callable[[], Awaitable[T]],
        then: Callable[[T], None],
        turn: asyncio.Lock,
    ) -> None:
        try:
            async with turn:
                outcome = await work()
            then(outcome)
        except Exception as exc:
            log.exception("machine_command_failed", command=command, vm=vm_id)
            self._failed(vm_id, command, exc)
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()


def _nothing(_: None) -> None:
    """Nothing follows."""
