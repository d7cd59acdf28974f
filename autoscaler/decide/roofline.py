"""What one replica can do by the roofline: weights and cache against bandwidth, FLOPs against the tensor units.

Symbols and formulas are those of docs/capacity.md. Trust it to ±30 %: a figure of the operator's own replaces it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoscaler.decide.profiles import EngineDefaults, GpuProfile
from autoscaler.decide.work import Work
from autoscaler.policy import Facts

_MAX_PREFILL_SHARE = 0.7  # beyond it prefills stall the decoding of everybody else
_INT4_BYTES = 0.75  # weights smaller than this per parameter are dequantised on the fly
_SMALL_B, _SMALL_FACTOR = 1.0, 0.6  # an embedding model under 1 B parameters does not fill the GPU


@dataclass(frozen=True, slots=True)
class Goal:
    """The latency goal that a batch must meet; `itl_s` None sets no bound between tokens."""

    share: float
    ttft_s: float
    itl_s: float | None


@dataclass(frozen=True, slots=True)
class Roofline:
    """Times of one model on one group of GPUs, for one mix of requests.

    Attributes:
        prefill_s: seconds per uncached prompt token.
        weights_s: seconds to read the weights once, the least length of a decode step.
        compute_s: seconds of arithmetic per sequence and step.
        cache_s: seconds to read one sequence's cache in a step, and to add it up over the group.
        fixed_s: seconds of every step that no batch size changes.
        sequences: how many fit into the KV cache; below 1 not even one request does.
        free_bytes: memory left for the KV cache; negative when the weights alone do not fit.
    """

    work: Work
    prefill_s: float
    weights_s: float
    compute_s: float
    cache_s: float
    fixed_s: float
    sequences: float
    free_bytes: float
    weight_bytes: float

    def step_s(self, batch: float) -> float:
        """One decode step with `batch` sequences."""
        busy = max(self.weights_s, self.compute_s * batch)
        return busy + batch * self.cache_s + self.fixed_s

    def rate(self, batch: float) -> float:
        """Requests/s when `batch` are always being served (Little's law closed over prefill and decode)."""
        decode_s = self.work.output_tokens * self.step_s(batch)
        return batch / (decode_s + batch * self.work.prompt_tokens * self.prefill_s)

    def meets(self, batch: float, goal: Goal) -> bool:
        """Whether requests at this batch size meet the latency goal."""
        prefill_s = self.work.prompt_tokens * self.prefill_s
        share = self.rate(batch) * prefill_s
        if share > _MAX_PREFILL_SHARE:
            return False
        step_s = self.step_s(batch)
        if goal.itl_s is not None and step_s / (1 - share) > goal.itl_s:
            return False
        return self._ttft_s(prefill_s, step_s, share, goal) <= goal.ttft_s

    def largest_batch(self, limit: int, goal: Goal) -> int:
        """The largest batch up to `limit` and the cache that meets the goal; 0 when not even one does."""
        low, high = 0, min(limit, math.floor(self.sequences))
        while low < high:
            middle = (low + high + 1) // 2
            if self.meets(middle, goal):
                low = middle
            else:
                high = middle - 1
        return low

    def embedding_rate(self, goal: Goal) -> float:
        """Requests/s of a model that only reads: the largest share of prefill that meets the goal, 0 for none."""
        prefill_s = self.work.prompt_tokens * self.prefill_s
        shares = (step / 100 for step in range(round(_MAX_PREFILL_SHARE * 100), 0, -5))
        best = next(
            (s for s in shares if self._ttft_s(prefill_s, 0.0, s, goal) <= goal.ttft_s), 0.0
        )
        return best / prefill_s

    @staticmethod
    def _ttft_s(prefill_s: float, step_s: float, share: float, goal: Goal) -> float:
        queued = math.log(share / (1 - goal.share)) if share > 0 else 0.0
        return prefill_s + step_s + prefill_s * max(0.0, queued) / (1 - share)


def roofline(
    facts: Facts, gpu: GpuProfile, tensor_parallel: int, work: Work, engine: EngineDefaults
) -> Roofline:
    """Build the roofline of `tensor_parallel` GPUs of one type that serve one replica.

    Raises:
        ValueError: no all-reduce figures for a group of that size.
    """
    weight_bytes = facts.params_b * 1e9 * facts.weight_bytes_per_param
    active = (facts.active_params_b or facts.params_b) * 1e9
    kv_bytes = 2 * facts.layers * facts.kv_heads * facts.head_dim * 2
    context = work.prompt_tokens + work.output_tokens / 2
    mfu = gpu.mfu
    if facts.weight_bytes_per_param <= _INT4_BYTES:
        mfu *= engine.int4_prefill_factor
    if facts.params_b < _SMALL_B and work.output_tokens == 0:
        mfu *= _SMALL_FACTOR
    flops = tensor_parallel * gpu.flops * mfu
    bandwidth = tensor_parallel * gpu.bandwidth * gpu.mbu
    fixed_s, bus_s = engine.step_overhead_s, 0.0
    if tensor_parallel > 1:
        group = min(size for size in gpu.bus if size >= tensor_parallel)
        share = 2 * (tensor_parallel - 1) / tensor_parallel
        bus_s = 2 * facts.layers * 2 * facts.hidden * share / gpu.bus[group]
        fixed_s += 2 * facts.layers * gpu.all_reduce_s[group]
    usable = tensor_parallel * (engine.memory_share * gpu.memory_bytes - engine.reserve_bytes)
    free_bytes = usable - weight_bytes
    return Roofline(
        work=work,
        prefill_s=2 * active / flops + bus_s,
        weights_s=active * facts.weight_bytes_per_param / bandwidth,
        compute_s=2 * active / flops,
        cache_s=context * kv_bytes / bandwidth + bus_s,
        fixed_s=fixed_s,
        sequences=engine.kv_fill * free_bytes / kv_bytes / context,
        free_bytes=free_bytes,
        weight_bytes=weight_bytes,
    )
