"""A model's shape from the `config.json` of many families, and from none that is absurd."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.hub.dialects import UnknownShape, facts_of
from autoscaler.policy import Facts

QWEN3_8B: dict[str, object] = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3_32B: dict[str, object] = QWEN3_8B | {
    "hidden_size": 5120,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "intermediate_size": 25600,
}
MIXTRAL: dict[str, object] = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}
QWEN3_30B_A3B: dict[str, object] = QWEN3_8B | {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
}
GEMMA3: dict[str, object] = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16},
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3: dict[str, object] = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "vocab_size": 129280,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3"},
}
FALCON: dict[str, object] = {
    "model_type": "falcon",
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "multi_query": True,
    "vocab_size": 65024,
    "torch_dtype": "bfloat16",
}
BGE_M3: dict[str, object] = {
    "model_type": "xlm-roberta",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 250002,
    "torch_dtype": "float32",
}


def shape(facts: Facts) -> tuple[int, int, int, int]:
    return facts.layers, facts.hidden, facts.kv_heads, facts.head_dim


def test_a_dense_model_is_counted_by_the_size_of_its_weights() -> None:
    facts = facts_of(QWEN3_8B, total_bytes=16_381_470_720)

    assert shape(facts) == (36, 4096, 8, 128)
    assert facts.params_b == 8.191
    assert facts.active_params_b is None
    assert facts.weight_bytes_per_param == 2.0


def test_without_the_size_of_its_weights_its_figures_are_counted() -> None:
    assert facts_of(QWEN3_8B).params_b == pytest.approx(8.19, rel=0.01)
    assert facts_of(QWEN3_32B).params_b == pytest.approx(32.8, rel=0.01)
    assert facts_of(MIXTRAL).params_b == pytest.approx(46.7, rel=0.01)
    assert facts_of(QWEN3_30B_A3B).params_b == pytest.approx(30.5, rel=0.01)
    assert facts_of(BGE_M3).params_b == pytest.approx(0.568, rel=0.03)


def test_of_a_mixture_of_experts_those_that_rest_do_not_work_on_a_token() -> None:
    mixtral = facts_of(MIXTRAL, total_bytes=93_405_585_408)
    qwen = facts_of(QWEN3_30B_A3B, total_bytes=61_064_245_248)

    assert mixtral.params_b == pytest.approx(46.7, rel=0.01)
    assert mixtral.active_params_b == pytest.approx(12.9, rel=0.01)
    assert qwen.active_params_b == pytest.approx(3.35, rel=0.02)
    assert mixtral.head_dim == 128  # not in the file: the width over the heads


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "bitsandbytes", "_load_in_4bit": True},
        {"quant_method": "mxfp4"},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
        },
    ],
)
def test_packed_weights_are_not_taken_for_fewer_parameters(
    quantization: dict[str, object],
) -> None:
    config = QWEN3_32B | {"quantization_config": quantization, "torch_dtype": "float16"}

    told = facts_of(config, total_bytes=19_344_000_000, total_params=5_700_000_000)
    untold = facts_of(config)

    assert told.params_b == pytest.approx(32.8, rel=0.01)
    assert told.weight_bytes_per_param == pytest.approx(0.59, rel=0.01)
    assert untold.weight_bytes_per_param == pytest.approx(0.56)


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
    ],
)
def test_eight_bits_take_a_byte(quantization: dict[str, object]) -> None:
    config = QWEN3_8B | {"quantization_config": quantization}

    assert facts_of(config).weight_bytes_per_param == 1.0


def test_weights_kept_in_32_bits_are_served_in_16() -> None:
    facts = facts_of(BGE_M3, total_bytes=2_271_064_456, embeds=True)

    assert facts.params_b == pytest.approx(0.568, rel=0.01)
    assert facts.weight_bytes_per_param == 2.0
    assert facts.active_params_b == pytest.approx(0.312, rel=0.01)  # the token table is looked up


def test_the_text_part_of_a_model_that_sees_is_what_counts() -> None:
    facts = facts_of(GEMMA3, total_bytes=8_600_158_944)

    assert shape(facts) == (34, 2560, 4, 256)
    assert facts.params_b == pytest.approx(4.3, rel=0.01)


def test_latent_attention_keeps_one_vector_for_keys_and_values() -> None:
    facts = facts_of(DEEPSEEK_V3, total_bytes=688_586_727_753)

    assert 2 * facts.kv_heads * facts.head_dim == 512 + 64
    assert facts.weight_bytes_per_param == pytest.approx(1.03, rel=0.01)
    assert facts.params_b == pytest.approx(671, rel=0.01)
    assert facts.active_params_b == pytest.approx(37.5, rel=0.02)


def test_one_head_of_keys_for_all_queries_is_understood() -> None:
    assert shape(facts_of(FALCON, total_bytes=14_434_379_520)) == (32, 4544, 1, 64)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_hidden_layers": None}, "no layers in it"),
        ({"hidden_size": "4096"}, "hidden_size is '4096', not a whole number"),
        ({"hidden_size": -1}, "hidden_size is -1, which no model has"),
        ({"num_hidden_layers": 10**30}, "which no model has"),
        ({"num_attention_heads": True}, "not a whole number"),
        ({"num_key_value_heads": 0}, "which no model has"),
        ({"head_dim": 4.5}, "not a whole number"),
        ({"vocab_size": None}, "neither the size of its weights nor figures enough"),
        ({"hidden_size": {"a": 1}}, "not a whole number"),
    ],
)
def test_a_figure_that_is_missing_or_absurd_is_named(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UnknownShape) as refused:
        facts_of(QWEN3_8B | wrong)

    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)
KEYS = [
    *QWEN3_30B_A3B,
    "text_config",
    "quantization_config",
    "kv_lora_rank",
    "n_shared_experts",
    "bits",
]


@given(
    config=st.dictionaries(st.sampled_from(KEYS), json, max_size=8),
    size=st.none() | st.integers(1, 2**50),
)
def test_whatever_a_hub_says_is_a_shape_or_an_error(
    config: dict[str, object], size: int | None
) -> None:
    try:
        facts = facts_of(QWEN3_30B_A3B | config, total_bytes=size)
    except UnknownShape:
        return

    assert facts.params_b > 0
    assert facts.active_params_b is None or facts.active_params_b <= facts.params_b
