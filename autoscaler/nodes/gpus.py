"""What `nvidia-smi` should call the GPUs of an offer, and how much memory they should show."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

# What nvidia-smi is asked for, by the startup script and by verification, in the order of `Gpu`.
GPU_FIELDS = "index,name,memory.total,driver_version,ecc.errors.uncorrected.volatile.total"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as nvidia-smi describes it.

    Attributes:
        ecc_errors: memory errors since boot that could not be corrected; 0 where the card does not count.
    """

    index: int
    name: str
    memory_mib: int
    driver: str
    ecc_errors: int = 0


def parse_gpu(line: str) -> Gpu | None:
    """Read one line of nvidia-smi's CSV without units, or None when it is something else."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 5 or not (fields[0].isdecimal() and fields[2].isdecimal()):
        return None
    errors = int(fields[4]) if fields[4].isdecimal() else 0
    return Gpu(int(fields[0]), fields[1], int(fields[2]), fields[3], errors)


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """The facts of one GPU type that a node can be held against.

    Attributes:
        matches: the names that specs and nvidia-smi use, lower-cased, to be compared whole.
        memory_mib: what nvidia-smi shows as memory.total.
    """

    name: str
    matches: frozenset[str]
    memory_mib: int
    compute_capability: str


@cache
def profiles() -> Mapping[str, GpuProfile]:
    """Read the profiles of `gpu_profiles.toml`, by the price list's name."""
    text = resources.files("autoscaler.data").joinpath("gpu_profiles.toml").read_text("utf-8")
    return {
        key: GpuProfile(
            name=row["name"],
            matches=frozenset(name.lower() for name in row["match"]),
            memory_mib=row["memory_total_mib"],
            compute_capability=row["compute_capability"],
        )
        for key, row in tomllib.loads(text)["gpu"].items()
    }


def profile_of(gpu: str) -> GpuProfile | None:
    """The profile under the price list's name, or None for a GPU that nobody has described."""
    return profiles().get(gpu)
