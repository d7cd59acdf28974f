"""What a step costs, and what fits: monotone in what matters, and refused in words where it cannot be."""

from __future__ import annotations

import pytest

from autoscaler.errors import ConfigError
from autoscaler.policy import Facts
from autoscaler.simulate.physics import ServerPhysics, ServerTable, server_physics

TABLE = ServerTable.load()
LLAMA = Facts(params_b=8.03, layers=32, hidden=4096, kv_heads=8, head_dim=128)
QWEN_32B = Facts(params_b=32.8, layers=64, hidden=5120, kv_heads=8, head_dim=128)
MIXTURE = Facts(
    params_b=30.5, active_params_b=3.3, layers=48, hidden=2048, kv_heads=4, head_dim=128
)


def physics(
    facts: Facts = LLAMA, gpu: str = "a100-80gb-sxm", tensor_parallel: int = 1, length: int = 8192
) -> ServerPhysics:
    return server_physics(
        facts, gpu, tensor_parallel, max_num_seqs=256, max_model_len=length, table=TABLE
    )


def test_the_table_knows_every_gpu_that_can_be_rented() -> None:
    assert {"a40", "l40s", "a100-40gb-pcie", "a100-80gb-pcie", "a100-80gb-sxm"} <= set(TABLE.gpus)


@pytest.mark.parametrize("gpu", list(TABLE.gpus))
def test_a_step_grows_with_sequences_context_and_prompts(gpu: str) -> None:
    server = physics(gpu=gpu)

    alone = server.step_s(1, 500)

    assert alone < server.step_s(64, 500) < server.step_s(64, 32_000)
    assert server.step_s(64, 32_000) < server.step_s(64, 32_000, 1024, 512 * 1024)
    assert server.base_s(64) == server.step_s(64, 0)


def test_a_better_gpu_is_faster_and_holds_no_less() -> None:
    a40, sxm = physics(gpu="a40"), physics()

    assert sxm.step_s(32, 20_000) < a40.step_s(32, 20_000)
    assert sxm.prefill_s < a40.prefill_s
    assert sxm.kv_tokens > a40.kv_tokens


def test_a_mixture_of_experts_reads_few_weights_for_one_token_and_most_of_them_for_many() -> None:
    server = physics(MIXTURE)

    one, many = server.base_s(1), server.base_s(64)

    assert one < 0.3 * server.weights_s
    assert many > 0.9 * server.weights_s


def test_a_group_of_gpus_shares_the_weights_and_pays_for_adding_up() -> None:
    alone, group = physics(QWEN_32B), physics(QWEN_32B, tensor_parallel=2)

    assert group.weights_s == pytest.approx(alone.weights_s / 2)
    assert group.kv_tokens > 2 * alone.kv_tokens
    assert group.bus_s > 0
    assert group.fixed_s > alone.fixed_s


def test_without_a_longest_request_the_cache_is_the_limit() -> None:
    server = server_physics(LLAMA, "a40", 1, max_num_seqs=256, max_model_len=None, table=TABLE)

    assert server.max_model_len == server.kv_tokens


def test_what_does_not_fit_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"not enough for 65\.6 GB of weights.*tensor_parallel"):
        physics(QWEN_32B, "l40s")


def test_an_unknown_gpu_and_an_unknown_group_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'b300'; known: a40"):
        physics(gpu="b300")
    with pytest.raises(ConfigError, match="16 GPUs of a40"):
        physics(gpu="a40", tensor_parallel=16)


def test_a_broken_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="server model is broken"):
        ServerTable.parse("[engine]\nmemory_share = 2")
