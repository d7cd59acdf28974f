"""Facts about a model from its `config.json`, in the words of the many families that write one. Pure.

Every family has the same few figures under other names, sometimes in a table of its own for the text part. What cannot
be known is an error that says which figure is missing: a guess here would size a fleet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoscaler.hub.quantization import Weights, weights_of
from autoscaler.policy import Facts

_TEXT_PARTS = ("text_config", "language_config", "llm_config", "thinker_config", "model_config")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": (
        "num_key_value_heads",
        "num_kv_heads",
        "n_head_kv",
        "n_kv_heads",
        "multi_query_group_num",
    ),
    "head_dim": ("head_dim", "kv_channels", "attention_head_size"),
    "intermediate": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "hidden_dim"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "experts_per_token": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "moe_topk",
        "top_k_experts",
    ),
    "expert_intermediate": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "shared_experts": ("n_shared_experts", "num_shared_experts"),
    "shared_intermediate": ("shared_expert_intermediate_size",),
    "dense_layers": ("first_k_dense_replace", "num_dense_layers"),
    "sparse_step": ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq"),
    "latent": ("kv_lora_rank",),
    "latent_rope": ("qk_rope_head_dim",),
    "query_latent": ("q_lora_rank",),
    "plain_dim": ("qk_nope_head_dim",),
    "value_dim": ("v_head_dim",),
}
_MOST: Mapping[str, int] = {
    "layers": 2000,
    "hidden": 1_000_000,
    "heads": 10_000,
    "kv_heads": 10_000,
    "head_dim": 65_536,
    "intermediate": 10_000_000,
    "vocabulary": 10_000_000,
    "experts": 100_000,
    "experts_per_token": 100_000,
    "expert_intermediate": 10_000_000,
}
_UNNAMED_MOST = 10_000_000
# Figures that a family leaves out of its files, since its code has them.
_IMPLIED: Mapping[str, Mapping[str, int]] = {
    "gemma3_text": {"heads": 8, "kv_heads": 4, "head_dim": 256},
}
# Families without a gate in their feed-forward part: two matrices instead of three.
_UNGATED = (
    "bert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "gpt2",
    "gpt_neox",
    "opt",
    "falcon",
    "phi",
    "bloom",
)


class UnknownShape(ValueError):
    """The text is no description of a model that this program understands; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The figures of a transformer, as one family's file has them."""

    figures: Mapping[str, int]
    model_type: str
    tied: bool

    def get(self, name: str, default: int = 0) -> int:
        return self.figures.get(name, default)

    def need(self, name: str) -> int:
        """Raises `UnknownShape` when the file does not say."""
        if name not in self.figures:
            raise UnknownShape(
                f"no {name.replace('_', ' ')} in it (looked for {', '.join(_NAMES[name])})"
            )
        return self.figures[name]


def facts_of(
    config: Mapping[str, object],
    *,
    total_bytes: int | None = None,
    total_params: int | None = None,
    embeds: bool = False,
) -> Facts:
    """What the capacity model must know of a model.

    Args:
        config: its `config.json`.
        total_bytes: size of all its weights, where the hub tells it.
        total_params: how many parameters they are, where the hub tells it.
        embeds: it serves embeddings: its token table is looked up, and not multiplied.

    Raises:
        UnknownShape: a figure is missing or absurd.
    """
    weights = weights_of(config)
    shape = _shape(config)
    layers, hidden = shape.need("layers"), shape.need("hidden")
    kv_heads, head_dim = _kept_per_token(shape)
    counted = _parameters(shape)
    params = _total(weights, counted, total_bytes, total_params)
    active = params - _resting(shape)
    if embeds:
        active -= shape.get("vocabulary") * hidden
    return Facts(
        params_b=_billions(params),
        active_params_b=_billions(active) if 0 < active < params else None,
        layers=layers,
        hidden=hidden,
        kv_heads=kv_heads,
        head_dim=head_dim,
        weight_bytes_per_param=_bytes_per_param(weights, params, total_bytes),
    )


def _shape(config: Mapping[str, object]) -> Shape:
    """The text part's figures; what it does not say, the whole's."""
    parts: list[Mapping[str, object]] = [config]
    for _ in range(2):  # one family nests two deep
        for name in _TEXT_PARTS:
            inner = parts[0].get(name)
            if isinstance(inner, Mapping):
                parts.insert(0, inner)
                break
    kind = next((t for part in parts if isinstance(t := part.get("model_type"), str)), "")
    figures: dict[str, int] = dict(_IMPLIED.get(kind, {}))
    for name, keys in _NAMES.items():
        for part in parts:
            found = _figure(part, name, keys)
            if found is not None:
                figures[name] = found
                break
    if parts[0].get("multi_query") is True and "kv_heads" not in figures:
        figures["kv_heads"] = 1
    tied = next(
        (t for part in parts if isinstance(t := part.get("tie_word_embeddings"), bool)), False
    )
    return Shape(figures, kind, tied)


def _figure(part: Mapping[str, object], name: str, keys: tuple[str, ...]) -> int | None:
    for key in keys:
        found = part.get(key)
        if found is None:
            continue
        if isinstance(found, list):  # one for each layer
            if len({str(each) for each in found}) != 1:
                continue
            found = found[0]
        if isinstance(found, bool) or not isinstance(found, int):
            raise UnknownShape(f"{key} is {str(found)[:60]!r}, not a whole number")
        most = _MOST.get(name, _UNNAMED_MOST)
        least = 1 if name in ("layers", "hidden", "heads", "kv_heads", "head_dim") else 0
        if not least <= found <= most:
            raise UnknownShape(f"{key} is {str(found)[:30]}, which no model has")
        return found
    return None


def _kept_per_token(shape: Shape) -> tuple[int, int]:
    """Key-value heads and their width, so that twice their product is what a layer keeps of a token."""
    if shape.get("latent"):
        # one latent vector instead of keys and values; half of it stands for each of the two
        return 1, max(1, (shape.get("latent") + shape.get("latent_rope") + 1) // 2)
    heads = shape.need("heads")
    kv_heads = shape.get("kv_heads") or heads
    return kv_heads, shape.get("head_dim") or max(1, shape.need("hidden") // heads)


def _parameters(shape: Shape) -> int | None:
    """How many parameters the figures make; None when they do not say enough."""
    known = shape.figures
    if not {"heads", "vocabulary", "hidden", "layers"} <= known.keys():
        return None
    sparse = _sparse_layers(shape)
    if sparse == 0 and not shape.get("intermediate"):
        return None
    hidden, layers = known["hidden"], known["layers"]
    dense = _matrices(shape) * hidden * shape.get("intermediate")
    shared = shape.get("shared_intermediate") or (
        shape.get("shared_experts") * shape.get("expert_intermediate")
    )
    mixture = (
        shape.get("experts") * _expert(shape)
        + _matrices(shape) * hidden * shared
        + hidden * shape.get("experts")
    )
    tables = known["vocabulary"] * hidden * (1 if shape.tied or _encodes(shape) else 2)
    return tables + layers * _attention(shape) + (layers - sparse) * dense + sparse * mixture


def _attention(shape: Shape) -> int:
    """Parameters of one layer's attention."""
    hidden, heads = shape.get("hidden"), shape.get("heads")
    if not shape.get("latent"):
        kv_heads, width = _kept_per_token(shape)
        return 2 * hidden * heads * width + 2 * hidden * kv_heads * width
    latent, rope = shape.get("latent"), shape.get("latent_rope")
    plain, value = shape.get("plain_dim"), shape.get("value_dim")
    via = shape.get("query_latent")
    queries = heads * (plain + rope) * (via or hidden) + via * hidden
    return queries + hidden * (latent + rope) + heads * (latent * (plain + value) + hidden * value)


def _encodes(shape: Shape) -> bool:
    return "bert" in shape.model_type or shape.model_type == "mpnet"


def _matrices(shape: Shape) -> int:
    return 2 if shape.model_type in _UNGATED else 3


def _expert(shape: Shape) -> int:
    width = shape.get("expert_intermediate") or shape.get("intermediate")
    return _matrices(shape) * shape.get("hidden") * width


def _sparse_layers(shape: Shape) -> int:
    """Layers whose feed-forward part is a mixture of experts."""
    if not shape.get("experts") or not _expert(shape):
        return 0
    step = max(1, shape.get("sparse_step", 1))
    return max(0, shape.get("layers") - shape.get("dense_layers")) // step


def _resting(shape: Shape) -> int:
    """Parameters of the experts that do not work on a given token."""
    working = shape.get("experts_per_token")
    if not working:
        return 0
    return _sparse_layers(shape) * max(0, shape.get("experts") - working) * _expert(shape)


def _total(
    weights: Weights, counted: int | None, total_bytes: int | None, total_params: int | None
) -> int:
    if total_params is not None and not weights.packed:
        return total_params
    if total_bytes is not None and (not weights.packed or counted is None):
        return round(total_bytes / weights.stored_bytes)
    if counted is None:
        raise UnknownShape("neither the size of its weights nor figures enough to count them")
    return counted


def _bytes_per_param(weights: Weights, params: int, total_bytes: int | None) -> float:
    if weights.packed and total_bytes is not None:
        measured = total_bytes / params
        # parts that stay unpacked raise it; far outside, the count of parameters is wrong
        if weights.served_bytes * 0.7 <= measured <= 2.5 * weights.served_bytes:
            return round(measured, 3)
    return weights.served_bytes


def _billions(params: int) -> float:
    if not 0 < params < 10**14:
        raise UnknownShape(f"its figures make {params:,} parameters, which no model has")
    return float(f"{params / 1e9:.4g}")
