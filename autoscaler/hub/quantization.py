"""How many bytes a parameter takes, in the hub's files and on the GPU, from a `config.json`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_STORED: Mapping[str, float] = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "float8_e4m3fn": 1.0,
    "int8": 1.0,
}
_SERVED_FULL = 2.0  # engines serve what is stored in 32 bits in 16
_PACKED_OVERHEAD = 1.12  # scales and zeros of groups of 128, layers that stay as they were


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes per parameter.

    Attributes:
        stored_bytes: in the hub's files.
        served_bytes: in the GPU's memory.
        packed: several parameters share a number, so that counting numbers is not counting parameters.
    """

    stored_bytes: float
    served_bytes: float
    packed: bool = False


def weights_of(config: Mapping[str, object]) -> Weights:
    """Read the precision and the quantization; without any word of them, 16 bits."""
    quantized = _table(config, "quantization_config", "compression_config")
    if quantized is not None:
        bits = _bits(quantized)
        if bits is not None and bits < 16:
            size = bits / 8 * (_PACKED_OVERHEAD if bits < 8 else 1.0)
            return Weights(size, size, packed=True)
    stored = _STORED.get(_dtype(config), 2.0)
    return Weights(stored, min(stored, _SERVED_FULL))


def _table(config: Mapping[str, object], *names: str) -> Mapping[str, object] | None:
    """A table by name, also in the part of a model that is about text."""
    places = [config, *(v for k, v in config.items() if k.endswith("_config"))]
    for place in places:
        if isinstance(place, Mapping):
            for name in names:
                found = place.get(name)
                if isinstance(found, Mapping):
                    return found
    return None


def _dtype(config: Mapping[str, object]) -> str:
    for place in (config, config.get("text_config")):
        if isinstance(place, Mapping):
            for key in ("torch_dtype", "dtype"):
                found = place.get(key)
                if isinstance(found, str):
                    return found.removeprefix("torch.")
    return "bfloat16"


def _bits(quantized: Mapping[str, object]) -> float | None:
    """Bits per weight, in the words of AWQ, GPTQ, bitsandbytes, compressed-tensors, ModelOpt, fp8 and mxfp4."""
    for key in ("bits", "w_bit", "num_bits", "weight_bits"):
        found = quantized.get(key)
        if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= 16:
            return float(found)
    groups = quantized.get("config_groups")
    if isinstance(groups, Mapping):
        for group in groups.values():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            if isinstance(weights, Mapping) and (bits := _bits(weights)) is not None:
                return bits
    if quantized.get("load_in_4bit") is True or quantized.get("_load_in_4bit") is True:
        return 4.0
    if quantized.get("load_in_8bit") is True or quantized.get("_load_in_8bit") is True:
        return 8.0
    said = f"{quantized.get('quant_method', '')} {quantized.get('quant_algo', '')} {quantized.get('fmt', '')}".lower()
    if any(word in said for word in ("fp8", "float8", "e4m3", "int8", "w8a8")):
        return 8.0
    if any(word in said for word in ("fp4", "int4", "awq", "gptq", "w4a16")):
        return 4.0
    return None
