"""A VM's root directory and the environment of everything that runs in it.

    ROOT/bin        the commands a VM has of its own (docker, nvidia-smi, …), first on the PATH
    ROOT/bin/.machine   what they answer by: shell assignments, read by each of them
    ROOT/etc/ssh    the host key; ROOT/run and ROOT/tmp are emptied at each boot, the rest stays
    ROOT/usr/local/bin/crusoe   the startup script, where the real cloud keeps it

    ROOT/var/log/cloud-init-output.log   what the scripts print

Conventions for scripts and commands, all unset on a real VM: `VM_ROOT` is ROOT, to stand before any
absolute path; `VM_ADDRESS` is the VM's own address, its 127.0.0.1; `VM_NAME` its name.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoscaler.emulator.engine.profiles import gpu_profiles
from autoscaler.emulator.machine import MachineSpec

SHIMS = Path(__file__).with_name("shims")
PACKAGE_ROOT = Path(__file__).parents[3]
DIRECTORIES = (
    "bin",
    "etc/ssh",
    "home/ubuntu",
    "opt",
    "root",
    "run",
    "srv",
    "tmp",
    "usr/local/bin",
    "var/lib/docker/containers",
    "var/lib/docker/images",
    "var/lib/docker/models",
    "var/log",
)
VOLATILE = ("run", "tmp")
DO_NOTHING = (
    "apt-get",
    "apt",
    "dpkg",
    "groupadd",
    "iptables",
    "modprobe",
    "nvidia-ctk",
    "nvidia-persistenced",
    "sysctl",
    "ufw",
    "useradd",
    "usermod",
)
SHUT_DOWN = ("halt", "poweroff", "reboot", "shutdown")
# A local NVMe is no device of its own here: the system's disk is as large as both.
LOCAL_NVME_GB_PER_GPU = {"a40": 960, "a100-40gb-pcie": 960, "a100-80gb-pcie": 960}
DRIVER_VERSION = "535.161.08"
STARTUP_FAULTS = {"script_exits_1": "exits", "script_hangs": "hangs"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one VM keeps what."""

    root: Path

    @property
    def startup_script(self) -> Path:
        return self.root / "usr/local/bin/crusoe"

    @property
    def shutdown_script(self) -> Path:
        return self.root / "usr/local/bin/crusoe-shutdown"

    @property
    def boot_log(self) -> Path:
        """What the scripts print, as cloud-init keeps it."""
        return self.root / "var/log/cloud-init-output.log"

    @property
    def host_key(self) -> Path:
        return self.root / "etc/ssh/ssh_host_ed25519_key"

    def prepare(
        self, spec: MachineSpec, *, engine_arguments: Sequence[str], real_llama_cpp: bool
    ) -> None:
        """Make the directories, commands and scripts of this boot. What a disk keeps is kept."""
        for name in VOLATILE:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in DIRECTORIES:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self._install_commands()
        facts = _facts(spec, engine_arguments=engine_arguments, real_llama_cpp=real_llama_cpp)
        lines = [f"{key}={shlex.quote(value)}" for key, value in facts.items()]
        (self.root / "bin/.machine").write_text(
            "\n".join([*lines, f"VM_ROOT={shlex.quote(str(self.root))}", ""])
        )
        (self.root / "bin/.fault").write_text(
            "exit 1\n" if _startup_fault(spec) == "exits" else "sleep 1000000\n"
        )
        _write_script(self.startup_script, spec.startup_script)
        _write_script(self.shutdown_script, spec.shutdown_script)
        (self.root / "etc/hostname").write_text(f"{spec.name}\n")

    def environment(self, spec: MachineSpec, user: str = "root") -> dict[str, str]:
        """The environment of the scripts and of a login. Nothing of the emulator's own is in it."""
        home = self.root / ("root" if user == "root" else f"home/{user}")
        home.mkdir(parents=True, exist_ok=True)
        return {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "LOGNAME": user,
            "PATH": f"{self.root / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SHELL": "/bin/bash",
            "TMPDIR": str(self.root / "tmp"),
            "USER": user,
            "VM_ADDRESS": spec.address,
            "VM_NAME": spec.name,
            "VM_ROOT": str(self.root),
        }

    def fault_environment(self, spec: MachineSpec) -> dict[str, str]:
        """What makes a startup script fail that would not meet the failing docker: see `_facts`."""
        if not _startup_fault(spec) or "docker" in spec.startup_script:
            return {}
        return {"BASH_ENV": str(self.root / "bin/.fault")}

    def _install_commands(self) -> None:
        bin_directory = self.root / "bin"
        for shim in SHIMS.iterdir():
            if shim.is_file():
                installed = bin_directory / shim.name
                shutil.copyfile(shim, installed)
                installed.chmod(0o755)
        for names, target in ((DO_NOTHING, "do-nothing"), (SHUT_DOWN, "end-machine")):
            for name in names:
                link = bin_directory / name
                if not link.is_symlink():
                    link.symlink_to(target)


def _write_script(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    if text:
        path.write_text(text)
        path.chmod(0o700)


def _startup_fault(spec: MachineSpec) -> str:
    return next((STARTUP_FAULTS[f] for f in sorted(spec.boot_faults) if f in STARTUP_FAULTS), "")


def _facts(
    spec: MachineSpec, *, engine_arguments: Sequence[str], real_llama_cpp: bool
) -> Mapping[str, str]:
    """What the VM's own commands answer by."""
    profile = gpu_profiles()[spec.gpu] if spec.gpu else None
    gpus = spec.gpus - (1 if "wrong_gpus" in spec.boot_faults else 0)
    nvme_gb = LOCAL_NVME_GB_PER_GPU.get(spec.gpu or "", 0)
    garbage = "health_ok_generation_garbage" in spec.boot_faults
    return {
        "EMULATED_VM_ID": spec.vm_id,
        "EMULATED_VM_NAME": spec.name,
        "EMULATED_VM_ADDRESS": spec.address,
        "EMULATED_VCPU": str(spec.vcpu),
        "EMULATED_DISK_GB": str(spec.disk_gb + nvme_gb * spec.gpus),
        "EMULATED_GPU": spec.gpu or "",
        "EMULATED_GPUS": str(max(gpus, 0) if profile else 0),
        "EMULATED_GPU_NAME": profile.smi_name if profile else "",
        "EMULATED_GPU_MEMORY_MIB": str(profile.memory_mib if profile else 0),
        "EMULATED_GPU_UUIDS": " ".join(_gpu_uuid(spec.vm_id, index) for index in range(gpus)),
        "EMULATED_GPU_WATTS": str(profile.tdp_w if profile else 0),
        "EMULATED_GPU_CAPABILITY": profile.compute_capability if profile else "",
        "EMULATED_GPU_LINK": "NV12" if profile and profile.has_nvlink else "PHB",
        "EMULATED_DRIVER": DRIVER_VERSION,
        "EMULATED_TIME_FACTOR": str(spec.time_factor),
        "EMULATED_DOCKER_FAULT": _startup_fault(spec),
        "EMULATED_ENGINE_FAULT": "health_ok_generation_garbage" if garbage else "",
        "EMULATED_ENGINE_ARGUMENTS": shlex.join(engine_arguments),
        "EMULATED_REAL_LLAMA_CPP": "1" if real_llama_cpp else "",
        "EMULATED_PYTHON": sys.executable,
        "EMULATED_PYTHONPATH": str(PACKAGE_ROOT),
    }


def _gpu_uuid(vm_id: str, index: int) -> str:
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{vm_id}/{index}')}"
