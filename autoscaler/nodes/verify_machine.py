"""Whether a node is the machine that was ordered: GPUs, driver, links between them, disk space."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoscaler.domain.offer import Offer
from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.gpus import GPU_FIELDS, Gpu, parse_gpu, profile_of
from autoscaler.nodes.remote_text import redacted
from autoscaler.nodes.shell import NodeShell
from autoscaler.policy import Policy

MEMORY_TOLERANCE = 0.05  # ECC and driver reserve differ between cards of one name
# Xids after which a GPU cannot be trusted: memory errors beyond repair, a broken link, fallen off the bus, firmware
# dead. Others (13, 31, 43, 45) are a program's own fault.
FATAL_XIDS = frozenset({48, 62, 64, 74, 79, 92, 95, 119, 120})
_TENSOR_PARALLEL_NEEDS_LINKS = 4

_READ_GPUS = f"""
echo '== gpus'; timeout -k 2 30 nvidia-smi --query-gpu={GPU_FIELDS} --format=csv,noheader,nounits 2>&1
echo '== xids'
if [ -n "${{VM_ROOT:-}}" ]; then cat "$VM_ROOT/var/log/dmesg"
elif [ "$(id -u)" -eq 0 ]; then dmesg; else sudo -n dmesg; fi 2>/dev/null | grep -i 'NVRM: Xid' | tail -n 50
"""
_READ_REST = """
echo '== topology'; timeout -k 2 30 nvidia-smi topo -m 2>&1
echo '== disk'
data="$(cat "${VM_ROOT:-}/run/autoscaler/data" 2>/dev/null)"
df -Pk "${data:-${VM_ROOT:-}/var/lib}" | tail -n 1
"""
_XID = re.compile(r"NVRM: Xid \([^)]*\): (\d{1,4})\b")
_LINK = re.compile(r"\bNV\d+\b")


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What a node says of itself.

    Attributes:
        complaint: nvidia-smi's own words when it lists no GPU.
        xids: kernel-reported GPU faults since boot.
        has_nvlink: some two GPUs are joined by NVLink.
        free_bytes: on the file system that holds the weights; None when unknown.
    """

    gpus: tuple[Gpu, ...]
    complaint: str = ""
    xids: tuple[int, ...] = ()
    has_nvlink: bool = False
    free_bytes: int | None = None


async def read_machine(shell: NodeShell, *, has_gpus: bool) -> MachineFacts:
    """Ask a node about its GPUs, the links between them and its disk.

    Raises:
        NodeUnreachable: no answer.
    """
    command = (_READ_GPUS if has_gpus else "") + _READ_REST
    output = await shell.run(command, timeout_s=75, max_bytes=64 * 1024)
    if output.timed_out:
        raise NodeUnreachable("the node does not list its GPUs and disks within 75 s")
    return parse_machine(output.stdout)


async def read_gpus(shell: NodeShell) -> MachineFacts:
    """Ask a node about its GPUs alone, as the hourly recheck does.

    Raises:
        NodeUnreachable: no answer.
    """
    output = await shell.run(_READ_GPUS, timeout_s=45, max_bytes=64 * 1024)
    if output.timed_out:
        return MachineFacts((), complaint="nvidia-smi hangs")
    return parse_machine(output.stdout)


def parse_machine(text: str) -> MachineFacts:
    """Understand the answer; what is missing stays unknown."""
    sections = _sections(text)
    lines = sections.get("gpus", ())
    gpus = tuple(gpu for line in lines if (gpu := parse_gpu(line)))
    return MachineFacts(
        gpus=gpus,
        complaint="" if gpus else " ".join(lines)[:300],
        xids=tuple(int(m[1]) for line in sections.get("xids", ()) if (m := _XID.search(line))),
        has_nvlink=any(
            line.startswith("GPU") and _LINK.search(line) for line in sections.get("topology", ())
        ),
        free_bytes=_free(sections.get("disk", ())),
    )


def _sections(text: str) -> Mapping[str, Sequence[str]]:
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("== "):
            lines = sections.setdefault(line[3:].strip(), [])
        elif line.strip():
            lines.append(line.strip())
    return sections


def _free(lines: Sequence[str]) -> int | None:
    fields = lines[-1].split() if lines else []
    return int(fields[3]) * 1024 if len(fields) >= 6 and fields[3].isdecimal() else None


def check_gpus(gpus: Sequence[Gpu], offer: Offer, complaint: str = "") -> None:
    """Hold the GPUs that were found against the offer that was paid for.

    Raises:
        VerificationFailed: another number, model or memory, or memory errors.
    """
    if len(gpus) != offer.gpus:
        said = f" (nvidia-smi: {redacted(complaint)})" if complaint else ""
        raise VerificationFailed(
            f"gpus: {offer.key.type} has {offer.gpus}, {len(gpus)} found{said}"
        )
    profile = profile_of(offer.gpu) if offer.gpu else None
    for gpu in gpus:
        if gpu.ecc_errors > 0:
            raise VerificationFailed(
                f"gpus: GPU {gpu.index} has {gpu.ecc_errors} uncorrectable memory errors"
            )
        if profile is None:
            continue
        if gpu.name.lower() not in profile.matches:
            raise VerificationFailed(
                f"gpus: GPU {gpu.index} is {gpu.name!r}, {offer.key.type} has {profile.name}"
            )
        if abs(gpu.memory_mib - profile.memory_mib) > MEMORY_TOLERANCE * profile.memory_mib:
            raise VerificationFailed(
                f"gpus: GPU {gpu.index} shows {gpu.memory_mib} MiB of memory, "
                f"{profile.name} has {profile.memory_mib}"
            )


def check_xids(xids: Sequence[int]) -> None:
    """See that the kernel has reported no GPU as broken.

    Raises:
        VerificationFailed: it has.
    """
    fatal = sorted(set(xids) & FATAL_XIDS)
    if fatal:
        raise VerificationFailed(
            f"gpus: the kernel reports Xid {', '.join(map(str, fatal))}: a GPU is broken"
        )


def check_machine(facts: MachineFacts, policy: Policy, offer: Offer) -> None:
    """Hold the machine against offer and policy.

    Raises:
        VerificationFailed: it is not what was ordered, or too little disk is left.
    """
    check_gpus(facts.gpus, offer, facts.complaint)
    check_xids(facts.xids)
    hardware = policy.hardware
    if (
        hardware.tensor_parallel >= _TENSOR_PARALLEL_NEEDS_LINKS
        and not facts.has_nvlink
        and not hardware.allow_tensor_parallel_over_pcie
    ):
        raise VerificationFailed(
            f"gpus: no NVLink between the GPUs of {offer.key.type}, and tensor_parallel = "
            f"{hardware.tensor_parallel} is slow over PCIe: choose another type, or set "
            "hardware.allow_tensor_parallel_over_pcie"
        )
    if facts.free_bytes is not None and facts.free_bytes < policy.verify.min_free_disk:
        raise VerificationFailed(
            f"disk: {facts.free_bytes / 2**30:.1f} GiB free where the weights are, "
            f"verify.min_free_disk is {policy.verify.min_free_disk / 2**30:.1f} GiB"
        )
