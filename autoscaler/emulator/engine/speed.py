"""How fast a model runs on a GPU type: a roofline of the engine's own.

A decode step reads the weights once, and the KV cache of every sequence; or it is bound by compute,
at large batches. A prompt token costs compute. Tensor parallelism divides both and adds two
all-reduces per layer. The figures of the GPU types are shared with the daemon (a data sheet is a
data sheet), the arithmetic is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoscaler.emulator.engine.hub import ModelShape
from autoscaler.emulator.engine.profiles import GIB, GpuProfile

STEP_OVERHEAD_S = 0.002
RUNTIME_RESERVE_BYTES = 2 * GIB  # per GPU: context, graphs, activations
INT4_PREFILL = 0.85  # dequantisation
SMALL_MODEL_PREFILL = 0.6  # below 1e9 parameters the kernels do not fill the GPU
ALLREDUCES_PER_LAYER = 2


class DoesNotFit(Exception):
    """The weights leave no memory for a KV cache."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Times of one replica, in seconds; `factor` divides all of them.

    Attributes:
        prefill_s: per uncached prompt token.
        weights_s: to read all weights once: the floor of a decode step.
        sequence_s: of compute, per sequence of a decode step.
        cached_s: to read one cached token.
        overhead_s: per step, whatever its size.
        kv_tokens: what the KV cache holds.
    """

    prefill_s: float
    weights_s: float
    sequence_s: float
    cached_s: float
    overhead_s: float
    kv_tokens: int
    factor: float = 1.0

    def step_s(self, sequences: int, cached_tokens: int, prompt_tokens: int = 0) -> float:
        """How long a step takes that decodes one token of each sequence and prefills so many."""
        prefill_s = prompt_tokens * self.prefill_s
        if sequences:
            decode_s = max(self.weights_s, sequences * self.sequence_s)
            seconds = self.overhead_s + prefill_s + decode_s + cached_tokens * self.cached_s
        else:
            seconds = self.overhead_s + max(self.weights_s, prefill_s)
        return seconds / self.factor


def roofline(
    shape: ModelShape,
    gpu: GpuProfile,
    *,
    tensor_parallel: int = 1,
    memory_utilization: float = 0.9,
    factor: float = 1.0,
) -> Speed:
    """Work out a replica's speed.

    Raises:
        DoesNotFit: the weights do not fit.
    """
    room = tensor_parallel * (memory_utilization * gpu.memory_bytes - RUNTIME_RESERVE_BYTES)
    kv_tokens = int((room - shape.weight_bytes) / shape.kv_bytes_per_token)
    if kv_tokens < 1:
        raise DoesNotFit(
            f"{shape.weight_bytes / GIB:.1f} GiB of weights and no KV cache in {room / GIB:.1f} GiB"
        )
    bandwidth = tensor_parallel * gpu.bandwidth * gpu.decode_efficiency
    efficiency = gpu.prefill_efficiency
    efficiency *= INT4_PREFILL if shape.bytes_per_parameter < 1 else 1.0
    efficiency *= SMALL_MODEL_PREFILL if shape.params < 1e9 else 1.0
    per_token_s = 2 * shape.active_params / (tensor_parallel * gpu.bf16_flops * efficiency)
    return Speed(
        prefill_s=per_token_s + _allreduce_s_per_token(shape, gpu, tensor_parallel),
        weights_s=shape.weight_bytes / bandwidth,
        sequence_s=per_token_s,
        cached_s=shape.kv_bytes_per_token / bandwidth,
        overhead_s=STEP_OVERHEAD_S
        + ALLREDUCES_PER_LAYER * shape.layers * _at(gpu.allreduce_latency_s, tensor_parallel, 0.0),
        kv_tokens=kv_tokens,
        factor=factor,
    )


def _allreduce_s_per_token(shape: ModelShape, gpu: GpuProfile, degree: int) -> float:
    if degree == 1:
        return 0.0
    moved = ALLREDUCES_PER_LAYER * shape.layers * 2 * shape.hidden * 2 * (degree - 1) / degree
    return moved / _at(gpu.allreduce_bandwidth, degree, 1e9)


def _at(table: Mapping[int, float], degree: int, default: float) -> float:
    """The figure of a degree, or of the nearest larger one that is known."""
    if degree == 1:
        return default
    return next((table[known] for known in sorted(table) if known >= degree), default)
