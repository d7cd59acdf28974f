"""The figures of GPU types, read from `gpu_profiles.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).parents[2] / "data" / "gpu_profiles.toml"
GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """One GPU type, in plain units: bytes, bytes per second, operations per second, seconds.

    `smi_name` is what nvidia-smi calls it; "" for the CPU.
    """

    key: str
    smi_name: str
    memory_bytes: float
    memory_mib: int
    bandwidth: float
    bf16_flops: float
    fp8_flops: float
    decode_efficiency: float
    prefill_efficiency: float
    allreduce_latency_s: Mapping[int, float]
    allreduce_bandwidth: Mapping[int, float]
    has_nvlink: bool
    tdp_w: int
    compute_capability: str


# A CPU-only VM serves too, slowly: the figures of some cores of a server.
CPU = GpuProfile(
    key="cpu",
    smi_name="",
    memory_bytes=32e9,
    memory_mib=30517,
    bandwidth=60e9,
    bf16_flops=2e12,
    fp8_flops=0.0,
    decode_efficiency=0.6,
    prefill_efficiency=0.5,
    allreduce_latency_s={},
    allreduce_bandwidth={},
    has_nvlink=False,
    tdp_w=0,
    compute_capability="",
)


@cache
def gpu_profiles() -> Mapping[str, GpuProfile]:
    """Read every profile of the package's data, and the CPU's, by name."""
    text = DATA.read_text("utf-8")
    profiles = {"cpu": CPU}
    for key, row in tomllib.loads(text)["gpu"].items():
        profiles[key] = GpuProfile(
            key=key,
            smi_name=next(name for name in row["match"] if name.startswith("NVIDIA")),
            memory_bytes=row["memory_total_mib"] * 2.0**20,
            memory_mib=row["memory_total_mib"],
            bandwidth=row["memory_bandwidth_gbs"] * 1e9,
            bf16_flops=row["bf16_tflops"] * 1e12,
            fp8_flops=row["fp8_tflops"] * 1e12,
            decode_efficiency=row["mbu_decode"],
            prefill_efficiency=row["mfu_prefill"],
            allreduce_latency_s=_by_degree(row["allreduce_latency_us"], 1e-6),
            allreduce_bandwidth=_by_degree(row["allreduce_busbw_gbs"], 1e9),
            has_nvlink=row["nvlink_domain"] > 1,
            tdp_w=row["tdp_w"],
            compute_capability=row["compute_capability"],
        )
    return profiles


def _by_degree(row: Mapping[str, float], unit: float) -> dict[int, float]:
    return {int(degree.removeprefix("tp")): value * unit for degree, value in row.items()}
