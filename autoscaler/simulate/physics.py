"""What one replica of one model on one GPU type does in a step: the backtest's own physics.

It stands apart from the capacity model of `decide` on purpose: another table, fitted to published measurements of whole
servers (docs/server-model.md), other terms. What the daemon believes of a replica is judged against this, so neither
may be made of the other.

A step of an engine with continuous batching reads the weights once, gives every running sequence one token and works
off a piece of the prompts that are being read. Its length is the sum of what cannot overlap.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoscaler.errors import ConfigError
from autoscaler.policy import Facts

_FEW_BITS = 0.75  # bytes: weights of fewer per parameter are dequantised on the fly

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class ServerPhysics:
    """How long the steps of one replica take, and what it holds.

    Attributes:
        weights_s: seconds to read all weights once, the least that a step of a dense model works.
        prefill_s: seconds of arithmetic per token, of a prompt or of a running sequence.
        attention_s: seconds per prompt token and token before it: what makes long prompts quadratic.
        cache_s: seconds to read one cached token of a running sequence, each step.
        mixed_s: the same in a step that reads prompts too: the attention kernels of both at once are slower.
        sequence_s, fixed_s: seconds per running sequence and per step that no GPU figure explains.
        request_s: seconds of the step that takes a request in: its way through HTTP, tokenizer and scheduler.
        bus_s: seconds per token to add it up over a group of GPUs; 0 for one GPU.
        expert_share: share of the weights that one token needs; below 1 for a mixture of experts.
        kv_tokens: tokens that the cache holds.
        chunk_tokens: tokens that one step works off at most, running sequences included.
        max_num_seqs: requests that are computed on at once, at most.
        max_model_len: tokens of one request, prompt and output, at most.
    """

    weights_s: float
    prefill_s: float
    attention_s: float
    cache_s: float
    mixed_s: float
    sequence_s: float
    fixed_s: float
    request_s: float
    bus_s: float
    expert_share: float
    kv_tokens: int
    chunk_tokens: int
    max_num_seqs: int
    max_model_len: int

    def base_s(self, batch: int, prompt_tokens: int = 0) -> float:
        """One step without what depends on context: weights, arithmetic, the bus and the engine itself."""
        tokens = batch + prompt_tokens
        read = self.weights_s
        if self.expert_share < 1:
            read *= 1 - (1 - self.expert_share) ** tokens
        busy = max(read, tokens * self.prefill_s) + tokens * self.bus_s
        return self.fixed_s + batch * self.sequence_s + busy

    def step_s(
        self, batch: int, context_tokens: float, prompt_tokens: int = 0, attended: float = 0
    ) -> float:
        """One step of `batch` running sequences that hold `context_tokens` together.

        `prompt_tokens` of a prompt are read in it, and `attended` is the sum of the tokens before each of them.
        """
        read_s = self.mixed_s if prompt_tokens else self.cache_s
        attention_s = context_tokens * read_s + attended * self.attention_s
        return self.base_s(batch, prompt_tokens) + attention_s


@dataclass(frozen=True, slots=True)
class GpuSpeed:
    """What one GPU has, and the shares of it that a whole server was seen to reach."""

    title: str
    memory_bytes: float
    bandwidth: float
    flops: float
    decode: float
    prefill: float
    chunk_tokens: int
    all_reduce_s: Mapping[int, float]
    bus: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class ServerTable:
    """GPU types by the name that offers use, and what an engine costs on any of them."""

    gpus: Mapping[str, GpuSpeed]
    memory_share: float
    reserve_bytes: float
    step_s: float
    sequence_s: float
    request_s: float
    attention_share: float
    mixed_share: float
    few_bits_prefill: float
    few_bits_decode: float

    @staticmethod
    def load() -> ServerTable:
        """Read the table that ships with the package, once per process."""
        return _shipped()

    @classmethod
    def parse(cls, text: str) -> ServerTable:
        """Read a table from TOML text.

        Raises:
            ConfigError: it is not of the documented form.
        """
        try:
            file = _File.model_validate(tomllib.loads(text))
        except (tomllib.TOMLDecodeError, ValidationError) as exc:
            raise ConfigError(f"the table of the server model is broken: {exc}") from exc
        engine = file.engine
        return cls(
            gpus={name: row.speed(engine.chunk_tokens) for name, row in file.gpu.items()},
            memory_share=engine.memory_share,
            reserve_bytes=engine.reserve_gib * 2**30,
            step_s=engine.step_ms / 1e3,
            sequence_s=engine.sequence_us / 1e6,
            request_s=engine.request_ms / 1e3,
            attention_share=engine.attention_share,
            mixed_share=engine.mixed_share,
            few_bits_prefill=engine.few_bits_prefill,
            few_bits_decode=engine.few_bits_decode,
        )

    def gpu(self, name: str) -> GpuSpeed:
        """The figures of one GPU type.

        Raises:
            ConfigError: the table has no such type.
        """
        try:
            return self.gpus[name]
        except KeyError:
            known = ", ".join(self.gpus)
            raise ConfigError(
                f"no server model for the GPU type {name!r}; known: {known}"
            ) from None


def server_physics(
    facts: Facts,
    gpu: str,
    tensor_parallel: int,
    *,
    max_num_seqs: int,
    max_model_len: int | None,
    table: ServerTable,
) -> ServerPhysics:
    """Say what one replica does on `tensor_parallel` GPUs of one type.

    `max_model_len` None allows requests as long as the cache.

    Raises:
        ConfigError: the table has no such GPU or group, or the weights and one request do not fit.
    """
    speed = table.gpu(gpu)
    few_bits = facts.weight_bytes_per_param <= _FEW_BITS
    active = facts.active_params_b or facts.params_b
    weight_bytes = facts.params_b * 1e9 * facts.weight_bytes_per_param
    kv_bytes = 2 * facts.layers * facts.kv_heads * facts.head_dim * 2
    flops = tensor_parallel * speed.flops
    bandwidth = tensor_parallel * speed.bandwidth * speed.decode
    reach = speed.prefill * (table.few_bits_prefill if few_bits else 1)
    read = bandwidth * (table.few_bits_decode if few_bits else 1)
    bus_s, added_s = _group(facts, speed, gpu, tensor_parallel)
    usable = tensor_parallel * (table.memory_share * speed.memory_bytes - table.reserve_bytes)
    kv_tokens = int((usable - weight_bytes) // kv_bytes)
    longest = max_model_len or kv_tokens
    if kv_tokens < max(longest, 1):
        raise ConfigError(
            f"{tensor_parallel} × {speed.title} hold {usable / 1e9:.1f} GB: not enough for"
            f" {weight_bytes / 1e9:.1f} GB of weights and the cache of one request"
            f" (max_model_len {longest}); raise tensor_parallel, lower max_model_len, or take a larger GPU"
        )
    return ServerPhysics(
        weights_s=weight_bytes / read,
        prefill_s=2 * active * 1e9 / (flops * reach),
        attention_s=4 * facts.layers * facts.hidden / (flops * table.attention_share),
        cache_s=kv_bytes / bandwidth,
        mixed_s=kv_bytes / bandwidth / table.mixed_share,
        sequence_s=table.sequence_s,
        fixed_s=table.step_s + added_s,
        request_s=table.request_s,
        bus_s=bus_s,
        expert_share=active / facts.params_b,
        kv_tokens=kv_tokens,
        chunk_tokens=speed.chunk_tokens,
        max_num_seqs=max_num_seqs,
        max_model_len=longest,
    )


def _group(facts: Facts, speed: GpuSpeed, gpu: str, tensor_parallel: int) -> tuple[float, float]:
    """Seconds per token and per step to add up over a group: two all-reduces per layer."""
    if tensor_parallel == 1:
        return 0.0, 0.0
    sizes = [size for size in speed.bus if size >= tensor_parallel]
    if not sizes:
        raise ConfigError(f"no server model for {tensor_parallel} GPUs of {gpu} in one replica")
    size = min(sizes)
    share = 2 * (tensor_parallel - 1) / tensor_parallel
    per_token = 2 * facts.layers * 2 * facts.hidden * share / speed.bus[size]
    return per_token, 2 * facts.layers * speed.all_reduce_s[size]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str
    memory_mib: Positive
    bandwidth_gbs: Positive
    bf16_tflops: Positive
    decode: Share
    prefill: Share
    chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    all_reduce_us: dict[str, Positive]
    bus_gbs: dict[str, Positive]

    def speed(self, chunk_tokens: int) -> GpuSpeed:
        return GpuSpeed(
            title=self.title,
            memory_bytes=self.memory_mib * 2**20,
            bandwidth=self.bandwidth_gbs * 1e9,
            flops=self.bf16_tflops * 1e12,
            decode=self.decode,
            prefill=self.prefill,
            chunk_tokens=self.chunk_tokens or chunk_tokens,
            all_reduce_s={
                int(k.removeprefix("tp")): v / 1e6 for k, v in self.all_reduce_us.items()
            },
            bus={int(k.removeprefix("tp")): v * 1e9 for k, v in self.bus_gbs.items()},
        )


class _Engine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    memory_share: Share
    reserve_gib: NotNegative
    chunk_tokens: Annotated[int, Field(ge=1)]
    step_ms: NotNegative
    sequence_us: NotNegative
    request_ms: NotNegative
    attention_share: Share
    mixed_share: Share
    few_bits_prefill: Share
    few_bits_decode: Share


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    engine: _Engine
    gpu: dict[str, _Row]


@cache
def _shipped() -> ServerTable:
    data = resources.files("autoscaler.data")
    return ServerTable.parse(data.joinpath("server_model.toml").read_text("utf-8"))
