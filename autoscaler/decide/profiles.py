"""The shipped tables of GPU types and model shapes: the prior of the capacity model."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoscaler.errors import ConfigError
from autoscaler.policy import Facts, Policy


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """What one GPU can do.

    Attributes:
        memory_bytes: as `nvidia-smi` reports it, not the label on the box.
        bandwidth: memory bytes/s at peak; `mbu` is the share that decoding reaches.
        flops: dense bf16 FLOP/s at peak; `mfu` is the share that a prefill reaches.
        all_reduce_s, bus: seconds of a small all-reduce and bytes/s of a large one, by GPUs in the group.
    """

    name: str
    title: str
    memory_bytes: float
    bandwidth: float
    flops: float
    mbu: float
    mfu: float
    nvlink_domain: int
    all_reduce_s: Mapping[int, float]
    bus: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class EngineDefaults:
    """What a model server keeps for itself, whatever the GPU."""

    memory_share: float
    reserve_bytes: float
    step_overhead_s: float
    kv_fill: float
    int4_prefill_factor: float


@dataclass(frozen=True, slots=True)
class Profiles:
    """GPU types by the name that offers use, and model facts by lower-cased name."""

    gpus: Mapping[str, GpuProfile]
    models: Mapping[str, Facts]
    defaults: EngineDefaults

    @staticmethod
    def load() -> Profiles:
        """Read the tables that ship with the package, once per process."""
        return _shipped()

    @classmethod
    def parse(cls, gpu_profiles: str, known_models: str) -> Profiles:
        """Read both tables from TOML text.

        Raises:
            ConfigError: a table is not of the documented form.
        """
        try:
            gpus = _GpuFile.model_validate(tomllib.loads(gpu_profiles))
            models = _ModelFile.model_validate(tomllib.loads(known_models))
        except (tomllib.TOMLDecodeError, ValidationError) as exc:
            raise ConfigError(
                f"the table of GPU profiles or known models is broken: {exc}"
            ) from exc
        return cls(
            gpus={name: row.profile(name) for name, row in gpus.gpu.items()},
            models={name.lower(): facts for name, facts in models.model.items()},
            defaults=EngineDefaults(
                memory_share=gpus.defaults.gpu_memory_utilization,
                reserve_bytes=gpus.defaults.runtime_reserve_gib * 2**30,
                step_overhead_s=gpus.defaults.step_overhead_ms / 1e3,
                kv_fill=gpus.defaults.kv_target_fill,
                int4_prefill_factor=gpus.defaults.int4_prefill_factor,
            ),
        )

    def facts(self, policy: Policy) -> Facts | None:
        """The model's shape: the policy's own figures, else the known model of its weights or name."""
        if policy.facts is not None:
            return policy.facts
        names = (policy.server.weights, policy.server.served_name, policy.model)
        return next((self.models[n.lower()] for n in names if n and n.lower() in self.models), None)


class _GpuRow(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    memory_total_mib: float = Field(gt=0)
    memory_bandwidth_gbs: float = Field(gt=0)
    bf16_tflops: float = Field(gt=0)
    mbu_decode: float = Field(gt=0, le=1)
    mfu_prefill: float = Field(gt=0, le=1)
    nvlink_domain: int = Field(ge=1)
    allreduce_latency_us: dict[str, float]
    allreduce_busbw_gbs: dict[str, float]

    def profile(self, key: str) -> GpuProfile:
        return GpuProfile(
            name=key,
            title=self.name,
            memory_bytes=self.memory_total_mib * 2**20,
            bandwidth=self.memory_bandwidth_gbs * 1e9,
            flops=self.bf16_tflops * 1e12,
            mbu=self.mbu_decode,
            mfu=self.mfu_prefill,
            nvlink_domain=self.nvlink_domain,
            all_reduce_s={_group(k): v / 1e6 for k, v in self.allreduce_latency_us.items()},
            bus={_group(k): v * 1e9 for k, v in self.allreduce_busbw_gbs.items()},
        )


class _DefaultsRow(BaseModel):
    model_config = ConfigDict(extra="ignore")

    gpu_memory_utilization: float = Field(gt=0, le=1)
    runtime_reserve_gib: float = Field(ge=0)
    step_overhead_ms: float = Field(ge=0)
    kv_target_fill: float = Field(gt=0, le=1)
    int4_prefill_factor: float = Field(gt=0, le=1)


class _GpuFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    defaults: _DefaultsRow
    gpu: dict[str, _GpuRow]


class _ModelFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: dict[str, Facts]


def _group(key: str) -> int:
    return int(key.removeprefix("tp"))


@cache
def _shipped() -> Profiles:
    data = resources.files("autoscaler.data")
    return Profiles.parse(
        data.joinpath("gpu_profiles.toml").read_text("utf-8"),
        data.joinpath("known_models.toml").read_text("utf-8"),
    )
