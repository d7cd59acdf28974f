"""One HTTP exchange with the API: the only place that touches the network.

`Send` is the seam: whoever has a function of this type (a simulation, a test) can stand in for
the network. It knows nothing of retries, tokens or meanings.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from yarl import URL

from autoscaler.cloud.mkinf.settings import BODY_CAP_BYTES, MkinfSettings
from autoscaler.errors import CloudUnavailable, ConfigError, OutcomeUnknown

_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `target` is the quoted path and query below the API's root."""

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)  # the key is in there
    body: bytes | None = field(repr=False)
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Response:
    """One answer, body inflated. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Send = Callable[[Request], Awaitable[Response]]
"""Make one exchange.

Raises:
    CloudUnavailable: no connection was made, so nothing was sent.
    OutcomeUnknown: the request may have arrived; its answer did not, or not whole.
"""


class HttpTransport:
    """Sends by aiohttp: verified TLS, no proxies from the environment, no redirects, no cookies."""

    def __init__(self, settings: MkinfSettings) -> None:
        self._root = settings.url.rstrip("/")
        self._connect_timeout_s = settings.connect_timeout_s
        self._tls = _tls_context(settings)
        self._kept: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    async def send(self, request: Request) -> Response:
        """Make one exchange; see `Send`."""
        try:
            async with self._session(request.method).request(
                request.method,
                URL(self._root + request.target, encoded=True),
                headers=request.headers,
                data=request.body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=request.timeout_s, connect=self._connect_timeout_s
                ),
            ) as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                raw = await _read_capped(answer)
                return Response(answer.status, headers, _inflate(raw, headers))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise CloudUnavailable(f"no connection to {self._root}: {_reason(exc)}") from exc
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise OutcomeUnknown(
                f"{request.method} to {self._root} got no whole answer: {_reason(exc)}"
            ) from exc

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._kept, self._fresh):
            if session is not None:
                await session.close()
        self._kept = self._fresh = None

    def _session(self, method: str) -> aiohttp.ClientSession:
        """Give POST a connection of its own.

        A kept connection that the server is just closing loses the answer. aiohttp sends other
        methods again by itself; a lost POST would cost a whole settling time.
        """
        if method == "POST":
            if self._fresh is None:
                self._fresh = self._open(force_close=True)
            return self._fresh
        if self._kept is None:
            self._kept = self._open(force_close=False)
        return self._kept

    def _open(self, *, force_close: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0, force_close=force_close),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )


def _tls_context(settings: MkinfSettings) -> ssl.SSLContext | bool:
    """Make what verifies the server. True, for http to loopback, is aiohttp's word for "verify"."""
    if settings.ca_file is None and not settings.url.startswith("https:"):
        return True
    try:
        context = ssl.create_default_context(
            cafile=str(settings.ca_file) if settings.ca_file is not None else None
        )
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"mkinf ca_file {settings.ca_file}: {exc}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def _read_capped(answer: aiohttp.ClientResponse) -> bytes:
    parts = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
        parts += chunk
        if len(parts) > BODY_CAP_BYTES:
            raise ValueError(f"the body is larger than {BODY_CAP_BYTES} bytes")
    return bytes(parts)


def _inflate(raw: bytes, headers: Mapping[str, str]) -> bytes:
    match headers.get("content-encoding", "identity").strip().lower():
        case "" | "identity":
            return raw
        case "gzip" | "x-gzip":
            inflater = zlib.decompressobj(wbits=31)
        case "deflate":
            inflater = zlib.decompressobj()
        case other:
            raise ValueError(f"the body is encoded as {other[:20]!r}, which was not asked for")
    try:
        body = inflater.decompress(raw, BODY_CAP_BYTES + 1)
    except zlib.error as exc:
        raise ValueError(f"the compressed body is broken: {exc}") from None
    if len(body) > BODY_CAP_BYTES:
        raise ValueError(f"the body inflates to more than {BODY_CAP_BYTES} bytes")
    if not inflater.eof:
        raise ValueError("the compressed body was cut")
    return body


def _reason(exc: Exception) -> str:
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return "the connection was not made in time"
    if isinstance(exc, asyncio.TimeoutError):
        return "timed out"
    return (str(exc) or type(exc).__name__)[:300]
