"""What the emulated hub knows of a model: its shape, its size, whether it asks for a token."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

HUB = Path(__file__).with_name("hub.toml")
KV_BYTES = 2  # per cached key or value: bf16


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's figures. `params` and `active_params` are counts; `context` is in tokens."""

    params: float
    active_params: float
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    bytes_per_parameter: float
    context: int
    is_gated: bool
    is_embedding: bool

    @property
    def weight_bytes(self) -> float:
        return self.params * self.bytes_per_parameter

    @property
    def kv_bytes_per_token(self) -> float:
        return 2 * self.layers * self.kv_heads * self.head_dim * KV_BYTES


def model_shape(name: str) -> ModelShape:
    """Look a model up by its name on the hub; an unknown one has the default shape."""
    page = tomllib.loads(HUB.read_text("utf-8"))
    row = page["default"] | page["models"].get(name, {})
    params = row["params_b"] * 1e9
    return ModelShape(
        params=params,
        active_params=row.get("active_params_b", row["params_b"]) * 1e9,
        layers=row["layers"],
        hidden=row["hidden"],
        kv_heads=row["kv_heads"],
        head_dim=row["head_dim"],
        bytes_per_parameter=row["bytes_per_parameter"],
        context=row["context"],
        is_gated=row["gated"],
        is_embedding=row["kind"] == "embedding",
    )
