"""Puts a new client key into its file, so that a gateway at work never sees half of it."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from autoscaler.errors import ConfigError
from autoscaler.gateway.guarded import read_guarded
from autoscaler.gateway.keys import key_files, read_keys


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a key may ask for; None and nothing stand for the defaults, which bound nothing."""

    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


def entry(name: str, digest: str, bounds: Bounds) -> str:
    """Write a key as it stands in a file. JSON's text is TOML's too, for what a name or a pattern may hold."""
    lines = [f"[keys.{_quoted(name)}]", f'sha256 = "{digest}"']
    if bounds.models:
        lines.append(f"models = [{', '.join(map(_quoted, bounds.models))}]")
    lines += [
        f"{field} = {value}"
        for field in ("requests_per_minute", "tokens_per_minute", "concurrent")
        if (value := getattr(bounds, field)) is not None
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not text.isprintable():
        raise ConfigError(f"{text!r}: only printable characters may stand in a key's entry")
    return f'"{escaped}"'


def add(into: Path, name: str, text: str) -> Path:
    """Add an entry to a file, or as a file of its own to a directory; return the file.

    Raises:
        ConfigError: the name is taken, or what is there or would be is refused; nothing was changed.
    """
    file = into / f"{name}.toml" if into.is_dir() else into
    if any(path.exists() for path in key_files(into)):
        taken = {key.name for key in read_keys(into).by_digest.values()}
        if name in taken:
            raise ConfigError(f"{into}: has a key named {name}: choose another name")
    before = read_guarded(file, "the file of client keys").decode() if file.exists() else ""
    whole = f"{before.rstrip()}\n\n{text}" if before.strip() else text
    tomllib.loads(whole)
    _replace(file, whole)
    return file


def _replace(file: Path, text: str) -> None:
    """Write beside, then rename. It belongs to whom the file belonged, or else its directory."""
    beside = file.with_name(f".{file.name}.new")
    try:
        owner = (file if file.exists() else file.parent).stat()
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as written:
            if os.geteuid() == 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            written.write(text)
            written.flush()
            os.fsync(descriptor)
        beside.replace(file)
    except OSError as exc:
        raise ConfigError(
            f"{file}: cannot be written: {exc.strerror}: run it as root, or as the gateway's user"
        ) from exc
