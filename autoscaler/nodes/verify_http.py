"""HTTP to a node's model servers: bounded in time and size, no redirects, no proxy, nothing remembered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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


class PortClosed(NodeUnreachable):
    """Nobody takes a connection there.

    Attributes:
        source: from where it was tried, if not from this host.
    """

    def __init__(self, message: str, source: str | None = None) -> None:
        super().__init__(message)
        self.source = source


class TlsRefused(NodeUnreachable):
    """There is no TLS there, or the certificate is not the node's own."""


class Door(Protocol):
    """Where requests set out from, if not from this process: a balancer, towards one of its servers."""

    async def ask(
        self, url: str, *, timeout_s: float, payload: Mapping[str, object] | None
    ) -> Answer:
        """As the function `ask`, and it raises the same."""


Asker = aiohttp.ClientSession | Door


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
    session: Asker,
    url: str,
    *,
    timeout_s: float,
    payload: Mapping[str, object] | None = None,
    server_name: str | None = None,
) -> Answer:
    """GET, or POST a JSON payload.

    Args:
        server_name: whom the certificate must name, if not the URL's host.

    Raises:
        PortClosed, TlsRefused: no connection.
        NodeUnreachable: no whole answer in time.
        VerificationFailed: an answer larger than any such answer is.
    """
    if not isinstance(session, aiohttp.ClientSession):
        return await session.ask(url, timeout_s=timeout_s, payload=payload)
    timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(10.0, timeout_s))
    method = "GET" if payload is None else "POST"
    data = None if payload is None else orjson.dumps(payload)
    headers = {"Accept-Encoding": "identity"}  # the cap is on what arrives
    if payload is not None:
        headers["Content-Type"] = "application/json"
    began = time.monotonic()
    try:
        async with session.request(
            method,
            url,
            data=data,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            server_hostname=server_name,
        ) as response:
            body = await _capped(response, url)
            return Answer(response.status, body, time.monotonic() - began)
    except aiohttp.ConnectionTimeoutError as exc:
        raise PortClosed(f"{url}: no connection in time") from exc
    except TimeoutError as exc:
        raise NodeUnreachable(f"{url}: no answer within {timeout_s:.0f} s") from exc
    except aiohttp.ClientError as exc:
        raise _trouble(url, exc) from exc


async def _capped(response: aiohttp.ClientResponse, url: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(64 * 1024):
        size += len(chunk)
        if size > ANSWER_BYTES:
            raise VerificationFailed(f"{url}: answers more than {ANSWER_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _trouble(url: str, exc: aiohttp.ClientError) -> NodeUnreachable:
    refused = refusal(exc)
    if refused is not None:
        return TlsRefused(f"{url}: {refused}")
    if isinstance(exc, aiohttp.ClientConnectorError):
        return PortClosed(f"{url}: {exc.strerror or 'cannot connect'}")
    return NodeUnreachable(f"{url}: {type(exc).__name__}")
