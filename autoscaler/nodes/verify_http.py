"""HTTP to a node's model servers: bounded in time and size, no redirects, no proxy, nothing remembered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.tls_words import refusal, trusting

ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model server."""

    status: int
    body: bytes
    seconds: float

    def json(
        self, what: str
    ) -> Mapping[str, Any]:  # Any: a stranger's JSON, checked where it is used
        """The body as a JSON object. NaN and Infinity are not JSON.

        Raises:
            VerificationFailed: it is none.
        """
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError as exc:
            raise VerificationFailed(f"{what}: answered {self.status} without JSON") from exc
        if not isinstance(value, dict):
            raise VerificationFailed(f"{what}: answered JSON that is no object")
        return value


def node_session(authority_pem: str | None = None) -> aiohttp.ClientSession:
    """A session for nodes: no cookies, no proxy from the environment, no connection kept.

    Args:
        authority_pem: the one that must vouch for servers of https URLs, whose address then stands in their
            certificate; None leaves these to the system's.
    """
    tls = trusting(authority_pem) if authority_pem is not None else True
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=64, ssl=tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    *,
    timeout_s: float,
    payload: Mapping[str, object] | None = None,
) -> Answer:
    """GET, or POST a JSON payload.

    Raises:
        NodeUnreachable: no whole answer in time.
        VerificationFailed: an answer larger than any such answer is.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(10.0, timeout_s))
    method = "GET" if payload is None else "POST"
    data = None if payload is None else orjson.dumps(payload)
    headers = {"Accept-Encoding": "identity"}  # the cap is on what arrives
    if payload is not None:
        headers["Content-Type"] = "application/json"
    began = time.monotonic()
    try:
        async with session.request(
            method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            body = await _capped(response, url)
            return Answer(response.status, body, time.monotonic() - began)
    except TimeoutError as exc:
        raise NodeUnreachable(f"{url}: no answer within {timeout_s:.0f} s") from exc
    except aiohttp.ClientError as exc:
        raise NodeUnreachable(f"{url}: {_said(exc)}") from exc


async def _capped(response: aiohttp.ClientResponse, url: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(64 * 1024):
        size += len(chunk)
        if size > ANSWER_BYTES:
            raise VerificationFailed(f"{url}: answers more than {ANSWER_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _said(exc: aiohttp.ClientError) -> str:
    refused = refusal(exc)
    if refused is not None:
        return refused
    if isinstance(exc, aiohttp.ClientConnectorError):
        return exc.strerror or "cannot connect"
    return type(exc).__name__
