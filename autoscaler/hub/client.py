"""Reads a model's `config.json` and the size of its weights from a hub that serves files as Hugging Face does.

A hub is somebody else's server: every answer has a time and a size that it must keep to, and a token goes only to an
address that nobody on the way can read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import orjson

from autoscaler.cloud.secret import Secret
from autoscaler.errors import ConfigError, SourceUnavailable
from autoscaler.hub.dialects import UnknownShape, facts_of
from autoscaler.policy import Facts

HUB = "https://huggingface.co"
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10, sock_read=15)
_CONFIG_BYTES = 1024 * 1024
_INDEX_BYTES = 32 * 1024 * 1024  # a line for each tensor of a mixture of many experts
_LARGEST_BYTES = 2**50
_MOST_PARAMS = 10**14
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FORMATS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)


@dataclass(frozen=True, slots=True)
class HubModel:
    """What a hub tells of a model.

    Attributes:
        source: the address of its `config.json`.
        revision: the commit that was read, None when the hub does not say.
    """

    facts: Facts
    source: str
    revision: str | None


def repository_of(weights: str) -> str:
    """The hub's repository of what a model server loads; llama.cpp's `:Q4_K_M` says which of its files.

    Raises:
        ConfigError: no repository has such a name.
    """
    name = weights.partition(":")[0]
    if _REPOSITORY.fullmatch(name) is None or ".." in name:
        raise ConfigError(
            f"{weights!r} is no repository of a hub (owner/name): write the model's shape into [facts]"
        )
    return name


def checked_hub(url: str) -> str:
    """The hub's address without a slash at its end.

    Raises:
        ConfigError: not an address of this form.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ConfigError(
            f"the hub's address {url[:200]!r} is not of the form {HUB} (--hub or HF_ENDPOINT)"
        )
    return url.rstrip("/")


async def read_model(
    http: aiohttp.ClientSession,
    weights: str,
    *,
    hub: str = HUB,
    token: Secret | None = None,
    embeds: bool = False,
) -> HubModel:
    """Ask a hub about a model.

    Args:
        weights: what a model server would load, such as `Qwen/Qwen3-8B`.
        token: for a model that not everybody may read.
        embeds: it serves embeddings.

    Raises:
        ConfigError: the hub does not have it, does not show it, or tells what cannot be understood; the message says
            what to do.
        SourceUnavailable: no answer now.
    """
    base = f"{checked_hub(hub)}/{repository_of(weights)}/resolve/main"
    headers = _authorization(hub, token)
    source = f"{base}/config.json"
    found = await _json(http, source, headers, _CONFIG_BYTES)
    if found is None:
        raise ConfigError(
            f"{source}: there is no such file: is {weights!r} right (model, or server.weights)? Else write the "
            "model's shape into [facts]"
        )
    config, revision = found
    size, count = await _size(http, base, headers)
    try:
        facts = facts_of(config, total_bytes=size, total_params=count, embeds=embeds)
    except UnknownShape as exc:
        raise ConfigError(f"{source}: {exc}: write the model's shape into [facts]") from exc
    return HubModel(facts, source, revision)


def _authorization(hub: str, token: Secret | None) -> Mapping[str, str]:
    if token is None:
        return {}
    parts = urlsplit(hub)
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise ConfigError(
            f"{hub}: server.token_file is not sent over plain HTTP: use an https address of the hub"
        )
    return {"Authorization": f"Bearer {token.reveal().strip()}"}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _size(
    http: aiohttp.ClientSession, base: str, headers: Mapping[str, str]
) -> tuple[int | None, int | None]:
    """Bytes and, where it is told, number of all weights."""
    for index, single in _FORMATS:
        found = await _json(http, f"{base}/{index}", headers, _INDEX_BYTES)
        if found is not None:
            about = found[0].get("metadata")
            told = about if isinstance(about, Mapping) else {}
            return (
                _whole(told.get("total_size"), _LARGEST_BYTES),
                _whole(told.get("total_parameters"), _MOST_PARAMS),
            )
        size = await _length(http, f"{base}/{single}", headers)
        if size is not None:
            return size, None
    return None, None


def _whole(found: object, most: int) -> int | None:
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int):
        return None
    return found if 0 < found < most else None


async def _json(
    http: aiohttp.ClientSession, url: str, headers: Mapping[str, str], most: int
) -> tuple[Mapping[str, object], str | None] | None:
    """A JSON table and the commit it is of; None when there is no such file."""
    try:
        async with http.get(url, headers=headers, timeout=_TIMEOUT, max_redirects=3) as answer:
            if answer.status == 404:
                return None
            _check(url, answer.status)
            body = bytearray()
            async for chunk in answer.content.iter_chunked(64 * 1024):
                body += chunk
                if len(body) > most:
                    raise ConfigError(
                        f"{url}: more than {most // 1024} KiB: no hub has such a file; write [facts]"
                    )
            revision = answer.headers.get("X-Repo-Commit", "")
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise _away(url, exc) from exc
    try:
        table = orjson.loads(body)
    except ValueError as exc:
        raise ConfigError(
            f"{url}: is not JSON ({str(exc)[:80]}): is this a hub? Write the model's shape into [facts]"
        ) from exc
    if not isinstance(table, dict):
        raise ConfigError(f"{url}: is JSON, but no table: write the model's shape into [facts]")
    return table, revision if re.fullmatch(r"[0-9a-f]{40}", revision) else None


async def _length(http: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> int | None:
    """The size of a file; None when there is none, or the hub does not say."""
    try:
        # not followed: the large files are elsewhere, and their size is told here
        async with http.head(
            url, headers=headers, timeout=_TIMEOUT, allow_redirects=False
        ) as answer:
            if answer.status == 404:
                return None
            if answer.status >= 400:
                _check(url, answer.status)
            told = answer.headers.get("X-Linked-Size")
            if told is None and answer.status == 200:
                told = answer.headers.get("Content-Length")
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise _away(url, exc) from exc
    return _whole(int(told), _LARGEST_BYTES) if told and told.isdecimal() else None


def _check(url: str, status: int) -> None:
    """Raises what an answer other than 200 means."""
    if status in (401, 403):
        raise ConfigError(
            f"{url}: {status}: the hub shows it only to those who may: accept its terms there and name a file with "
            "a token in server.token_file, or write the model's shape into [facts]"
        )
    if status == 429 or status >= 500:
        raise SourceUnavailable(f"{url}: the hub answers {status}: try again later")
    if status != 200:
        raise ConfigError(f"{url}: the hub answers {status}: write the model's shape into [facts]")


def _away(url: str, exc: Exception) -> SourceUnavailable:
    why = str(exc)[:200] or type(exc).__name__
    return SourceUnavailable(
        f"{url}: no answer ({why}): try again, or write the model's shape into [facts]"
    )
