"""Client keys: who may ask, for which models, how much. Kept as hashes, never as the keys themselves.

A key has 256 random bits, so a plain SHA-256 of it is as good as any slow hash, and finding it in a table tells a
listener nothing: what is compared is a hash that only the key's holder could have aimed at.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autoscaler.errors import ConfigError
from autoscaler.gateway.guarded import check_folder, read_guarded
from autoscaler.toml_file import parse_toml

PREFIX = "sk-as-"
MAX_KEYS = 10_000
NAME_FORM = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
_WHAT = "the file of client keys"
_HASH = re.compile(r"[0-9a-f]{64}")
_Rate = Annotated[int, Field(ge=1, le=1_000_000_000)]


@dataclass(frozen=True, slots=True)
class ClientKey:
    """One client.

    Attributes:
        digest: SHA-256 of the key.
        models: what matches a name of a model that it may use.
        requests_per_minute, tokens_per_minute, concurrent: its bounds; None is no bound.
        is_disabled: it is refused, and stays in the file for the record.
    """

    name: str
    digest: bytes
    models: re.Pattern[str]
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    is_disabled: bool = False

    def may_use(self, *names: str) -> bool:
        """Say whether it may use a model of one of these names."""
        return any(self.models.fullmatch(name) for name in names)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    models: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)] = ("*",)
    requests_per_minute: _Rate | None = None
    tokens_per_minute: _Rate | None = None
    concurrent: _Rate | None = None
    disabled: bool = False

    @model_validator(mode="before")
    @classmethod
    def _is_hash(cls, given: Any) -> Any:  # anything that TOML can hold
        """Check the hash here, where a message shows no value: somebody may have put the key itself."""
        found = given.get("sha256") if isinstance(given, dict) else None
        if found is not None and not (isinstance(found, str) and _HASH.fullmatch(found)):
            raise ValueError(
                "sha256: want 64 hex digits in lower case, the hash of a key and not the key; "
                "`autoscaler keys new NAME` prints both"
            )
        return given

    def value(self, name: str) -> ClientKey:
        return ClientKey(
            name=name,
            digest=bytes.fromhex(self.sha256),
            models=re.compile("|".join(map(fnmatch.translate, self.models))),
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrent=self.concurrent,
            is_disabled=self.disabled,
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: dict[Annotated[str, Field(pattern=NAME_FORM)], _Entry] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys of one reading, by their hash."""

    by_digest: Mapping[bytes, ClientKey]

    def find(self, given: bytes) -> ClientKey | None:
        """Find whose key this is. Takes as long for a wrong key as for a right one."""
        return self.by_digest.get(hashlib.sha256(given).digest())


def read_keys(path: Path) -> KeyRing:
    """Read a file of keys, or every `*.toml` of a directory: whole or not at all.

    Raises:
        ConfigError: unreadable, open to others, wrong, or without any key.
    """
    found: dict[bytes, ClientKey] = {}
    origin: dict[str, Path] = {}
    for file in key_files(path):
        for key in _keys_in(file):
            if key.name in origin:
                raise ConfigError(f"{file}: keys.{key.name}: {origin[key.name]} has this name too")
            if key.digest in found:
                raise ConfigError(
                    f"{file}: keys.{key.name}: the same key as {found[key.digest].name}'s: "
                    "one holder, one key; make another by `autoscaler keys new`"
                )
            origin[key.name] = file
            found[key.digest] = key
    if not found:
        raise ConfigError(
            f"{path}: holds no client key, so nobody could ask: "
            f"`autoscaler keys new NAME --into {path}` makes one"
        )
    if len(found) > MAX_KEYS:
        raise ConfigError(f"{path}: {len(found)} keys; {MAX_KEYS} are allowed")
    return KeyRing(found)


def key_files(path: Path) -> list[Path]:
    """List the files that `path` stands for.

    Raises:
        ConfigError: a directory into which others may write, or one that cannot be read.
    """
    if not path.is_dir():
        return [path]
    check_folder(path, "the directory of client keys")
    try:
        return sorted(file for file in path.glob("*.toml") if not file.name.startswith("."))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc


def _keys_in(file: Path) -> Iterator[ClientKey]:
    try:
        text = read_guarded(file, _WHAT).decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file}: not UTF-8 text (byte {exc.start})") from exc
    for name, entry in parse_toml(text, file, _File).keys.items():
        yield entry.value(name)


def new_key() -> str:
    """Draw a key. It is shown once and kept by nobody but its holder."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Say what stands in the file for a key."""
    return hashlib.sha256(key.encode()).hexdigest()
