"""A model's facts as a hub told them, kept beside its policy: `.facts/<owner>--<name>.json`.

They are read whenever the policy is, so that no daemon ever needs the hub. Delete the file to forget them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from autoscaler.errors import ConfigError
from autoscaler.policy import Facts, Policy

_FOLDER = ".facts"
_LARGEST = 64 * 1024
_AGAIN = "delete it, or make it anew: autoscaler validate --online"


class KeptFacts(BaseModel):
    """One file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    weights: str
    source: str
    revision: str | None = None
    read_at: AwareDatetime
    facts: Facts


def weights_name(policy: Policy) -> str:
    """The repository of a policy's weights, without the file that llama.cpp picks in it."""
    return (policy.server.weights or policy.model).partition(":")[0]


def kept_path(policy_file: Path, policy: Policy) -> Path:
    """Where a policy's facts are kept."""
    return policy_file.parent / _FOLDER / f"{weights_name(policy).replace('/', '--')}.json"


def read_kept(policy_file: Path, policy: Policy) -> KeptFacts | None:
    """What a hub told of a policy's model, None when it was never asked.

    Raises:
        ConfigError: the file is not what was written.
    """
    path = kept_path(policy_file, policy)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}: {_AGAIN}") from exc
    if len(raw) > _LARGEST:
        raise ConfigError(f"{path}: {len(raw)} bytes are too many for a model's shape: {_AGAIN}")
    try:
        kept = KeptFacts.model_validate_json(raw)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where or 'the file'}: {first['msg']}: {_AGAIN}") from exc
    if kept.weights != weights_name(policy):
        raise ConfigError(
            f"{path}: is about {kept.weights!r}, not {weights_name(policy)!r}: {_AGAIN}"
        )
    return kept


def keep(
    policy_file: Path,
    policy: Policy,
    source: str,
    revision: str | None,
    facts: Facts,
    now: datetime,
) -> Path:
    """Keep what a hub told, whole or not at all; returns the file.

    Raises:
        ConfigError: it cannot be written.
    """
    kept = KeptFacts(
        weights=weights_name(policy), source=source, revision=revision, read_at=now, facts=facts
    )
    path = kept_path(policy_file, policy)
    text = kept.model_dump_json(indent=2, by_alias=True, exclude_none=True) + "\n"
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".new") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(file.name).replace(path)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from exc
    return path


def describe(facts: Facts) -> str:
    """A model's shape in one line."""
    active = f" ({facts.active_params_b:g} active)" if facts.active_params_b else ""
    return (
        f"{facts.params_b:g} billion parameters{active} of {facts.weight_bytes_per_param:g} bytes, "
        f"{facts.layers} layers, width {facts.hidden}, {facts.kv_heads} KV heads of {facts.head_dim}"
    )


def differences(mine: Facts, theirs: Facts) -> Mapping[str, tuple[float, float]]:
    """The figures in which two descriptions of a model differ, beyond what rounding explains."""
    found = {}
    for name in ("params_b", "layers", "hidden", "kv_heads", "head_dim", "weight_bytes_per_param"):
        a, b = getattr(mine, name), getattr(theirs, name)
        tolerance = 0.0 if isinstance(a, int) else 0.1 * max(a, b)
        if abs(a - b) > tolerance:
            found[name] = (a, b)
    return found
