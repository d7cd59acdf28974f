"""Read a TOML file into validated values, and turn every mistake into a line that says what to do.

All mistakes of a file are reported at once, each with file, line, key, what was found, what is allowed and the nearest
right spelling.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autoscaler.errors import ConfigError

V = TypeVar("V", bound=BaseModel)
_LIMIT = 1024 * 1024
_SECRET = re.compile(r"password|token|secret|key$", re.IGNORECASE)
# What a pattern allows, in words: a person reads no regular expressions at night. A test holds this to every pattern.
FORMS = {
    r"^.+:\d{1,5}$": "HOST:PORT",
    r"^/[A-Za-z0-9._/-]*$": 'a path that begins with "/"; letters, digits and . _ / -',
    r"^[A-Za-z0-9-]{1,64}$": "1 to 64 letters, digits and -",
    r"^[A-Za-z0-9._-]{1,64}$": "1 to 64 letters, digits and . _ -",
    r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$": (
        "up to 128 letters, digits and . _ / : -, the first a letter or a digit"
    ),
    r"^[A-Z_][A-Z0-9_]*$": "capital letters, digits and _, as of an environment variable",
    r"^[a-z_][a-z0-9_.-]{0,31}@([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$": (
        "USER@HOST or USER@HOST:PORT, an IPv6 address in brackets"
    ),
    r"^(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/]+=*( [ -~]*)?$": (
        'a public key on one line, as in /etc/ssh/ssh_host_ed25519_key.pub: "ssh-ed25519 AAAA…"'
    ),
    r"^[a-z0-9]{8}$": "exactly 8 small letters and digits",
    r"^[a-z][a-z0-9-]{0,31}$": "up to 32 small letters, digits and -, the first a letter",
    r"^[a-z][a-z0-9]{0,7}$": "up to 8 small letters and digits, the first a letter",
    r"^[a-z][a-z0-9_-]{0,31}$": "up to 32 small letters, digits and _ -, the first a letter",
    r"^[a-z_][a-z0-9_-]{0,31}$": "a user name: up to 32 small letters, digits and _ -",
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": 'a time of day, UTC: "03:17"',
    r"^\d+(\.\d+)*$": "a version: numbers with dots between them",
}


def read_toml(path: Path, values: type[V]) -> V:
    """Read and validate one file.

    Raises:
        ConfigError: unreadable, not TOML, or not what `values` allows; the message has a line per mistake.
    """
    text = read_text(path)
    return parse_toml(text, path, values)


def read_text(path: Path) -> str:
    """Read a small UTF-8 file.

    Raises:
        ConfigError: unreadable, too large, or not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(raw) > _LIMIT:
        raise ConfigError(f"{path}: {len(raw)} bytes; a config of more than {_LIMIT} is a mistake")
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not UTF-8 text (byte {exc.start})") from exc


def parse_toml(text: str, path: Path, values: type[V]) -> V:
    """Validate a file's text. Raises as `read_toml` does."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not TOML: {exc}") from exc
    try:
        return values.model_validate(table)
    except ValidationError as exc:
        problems = sorted(
            (_explain(path, text, values, error) for error in exc.errors()), key=lambda p: p[0]
        )
        raise ConfigError("\n".join(said for _, said in problems)) from exc


def check_answer(values: type[BaseModel], key: str, given: object) -> None:
    """Validate one key by itself, as somebody typed it: there is no file yet.

    Raises:
        ConfigError: what was found and what is allowed, without a place.
    """
    try:
        values.model_validate({key: given})
    except ValidationError as exc:
        for error in exc.errors():
            if error["loc"][:1] == (key,):
                raise ConfigError(_say(values, list(error["loc"]), error)) from exc


def _explain(
    path: Path, text: str, values: type[BaseModel], error: ErrorDetails
) -> tuple[int, str]:
    """The line of a mistake, 0 when it has none, and what to say of it."""
    where = [part for part in error["loc"] if not _is_union_tag(part)]
    key = _dotted(where)
    said = (
        error["msg"].removeprefix("Value error, ").split(" ")[0].rstrip(":")
    )  # a rule of the whole file names its key first
    line = line_of(text, where or said.split("."))
    place = f"{path}:{line}" if line else f"{path}"
    return line or 0, f"{place}: {key + ': ' if key else ''}{_say(values, where, error)}"


def _say(values: type[BaseModel], where: Sequence[int | str], error: ErrorDetails) -> str:
    found = error.get("input")
    context = error.get("ctx") or {}
    match error["type"]:
        case "extra_forbidden":
            allowed = sorted(_keys_at(values, where[:-1]))
            near = difflib.get_close_matches(str(where[-1]), allowed, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}? " if near else ""
            return f"no such key; {hint}allowed here: {', '.join(allowed)}"
        case "missing":
            return "is missing: this key is required"
        case "enum" | "literal_error":
            allowed_text = str(context.get("expected", ""))
            words = re.findall(r"'([^']+)'", allowed_text)
            near = difflib.get_close_matches(str(found), words, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return f"found {_show(where, found)}, allowed: {allowed_text}{hint}"
        case "value_error":
            message = str(context.get("error", error["msg"]))
            return message if isinstance(found, dict) else f"found {_show(where, found)}: {message}"
        case "string_pattern_mismatch":
            pattern = str(context.get("pattern"))
            return f"found {_show(where, found)}, allowed: {FORMS.get(pattern, pattern)}"
        case _:
            # pydantic writes the bound of a duration as Python would
            message = re.sub(r"datetime\.timedelta\(days=(\d+)\)", r"\1d", error["msg"])
            return f"found {_show(where, found)}: {message[:1].lower()}{message[1:]}"


def _show(where: Sequence[int | str], found: object) -> str:
    """What was found, short, and never a secret."""
    is_text = not isinstance(found, int | float)  # prompt_tokens is no secret
    if is_text and where and _SECRET.search(str(where[-1])) and not str(where[-1]).endswith("file"):
        return "a value"
    if isinstance(found, dict):
        return "a table"  # what is in it may be secret
    text = repr(found)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _dotted(where: Sequence[int | str]) -> str:
    key = ""
    for part in where:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _is_union_tag(part: int | str) -> bool:
    """pydantic names the branch of a union in a location; a person has no use for it."""
    return isinstance(part, str) and ("[" in part or "(" in part)


def _keys_at(values: type[BaseModel], where: Sequence[int | str]) -> Iterator[str]:
    table: type[BaseModel] | None = values
    is_name = False  # the next part is a name of the writer's own choice
    for part in where:
        if table is None or isinstance(part, int):
            continue
        if is_name:
            is_name = False
            continue
        field = next(
            (f for name, f in table.model_fields.items() if (f.alias or name) == part), None
        )
        table = _model_in(field.annotation) if field is not None else None
        is_name = field is not None and get_origin(field.annotation) is dict
    if table is not None:
        for name, field in table.model_fields.items():
            yield field.alias or name


def _model_in(annotation: Any) -> type[BaseModel] | None:  # an annotation can be anything
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)


def line_of(text: str, where: Sequence[int | str]) -> int | None:
    """The line of a key in a TOML text, or of its table when the key itself is not written, counted from 1."""
    names = [str(part) for part in where if not isinstance(part, int)]
    indices = [part for part in where if isinstance(part, int)]
    best: tuple[int, int] | None = None  # how many names match there, the line
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line)
        pair = re.match(r"\s*([A-Za-z0-9_\-\"'.@]+)\s*=", line)
        if header is not None:
            found = table = _key_parts(header[1])
            name = ".".join(table)
            seen[name] = seen.get(name, -1) + 1
            if indices and line.lstrip().startswith("[[") and seen[name] != indices[0]:
                table = ["\0another entry"]
                continue
        elif pair is not None:
            found = [*table, *_key_parts(pair[1])]
        else:
            continue
        if names[: len(found)] == found and (best is None or len(found) > best[0]):
            best = (len(found), number)
    return best[1] if best is not None else None


def _key_parts(key: str) -> list[str]:
    """A dotted TOML key as its parts; a dot within quotes parts nothing."""
    found = re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", key)
    return [part.strip("\"'") for part in found]
