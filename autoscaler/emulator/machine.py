"""What the emulated cloud needs from whatever runs its machines.

The cloud keeps the books (states, addresses, stock, money); a `MachineBackend` keeps processes. The
local backend starts real ones; a test or a simulation may bring one that only remembers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

BOOT_FAULTS = frozenset(
    {
        "no_ssh",
        "host_key_changed",
        "script_exits_1",
        "script_hangs",
        "wrong_gpus",
        "health_ok_generation_garbage",
    }
)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine as the cloud hands it to the backend.

    Attributes:
        vm_id: the cloud's id, unique for ever.
        gpu: the profile's name in gpu_profiles.toml ("l40s"); None for CPU types.
        ram_gb: decimal gigabytes, as is `disk_gb`.
        address: a loopback address of its own, e.g. 127.20.0.5.
        authorized_key: an OpenSSH public key line.
        startup_script: run at each boot; "" for none. `shutdown_script`: at each power-off.
        time_factor: emulated seconds per real second (60: a minute per second).
        boot_faults: names of `BOOT_FAULTS` that this boot suffers from.
    """

    vm_id: str
    name: str
    location: str
    gpu: str | None
    gpus: int
    vcpu: int
    ram_gb: int
    disk_gb: int
    address: str
    ssh_port: int
    authorized_key: str
    startup_script: str
    shutdown_script: str
    time_factor: float
    boot_faults: frozenset[str]


class MachineBackend(Protocol):
    """Runs machines. Every method may be called for a machine that is not running."""

    async def boot(self, spec: MachineSpec, ssh_after_s: float) -> str:
        """Bring the network up: run the startup script now, sshd after `ssh_after_s` real seconds.

        A machine booted again keeps its root directory and its host key (unless a fault says
        otherwise). Returns the host's public key.
        """

    async def power_off(self, vm_id: str, timeout_s: float) -> None:
        """Run the shutdown script for at most `timeout_s` real seconds, then kill all processes."""

    async def kill(self, vm_id: str) -> None:
        """Crash: SIGKILL of the whole tree at once. The root directory stays."""

    async def destroy(self, vm_id: str) -> None:
        """Kill it, and remove its root directory. Unknown is no error."""

    def is_running(self, vm_id: str) -> bool:
        """Say whether any process of the machine may still run."""

    async def close(self) -> None:
        """Kill everything, leave nothing."""
