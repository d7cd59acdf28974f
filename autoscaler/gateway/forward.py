"""One request's way to an endpoint and its answer's way back, byte for byte.

Retried only while no byte was sent: when connecting failed. An answer that the node breaks off is broken off
towards the client too, never ended cleanly. A client that goes takes its request at the node with it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp
import structlog
from aiohttp import hdrs, web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from autoscaler.gateway.errors import RequestError
from autoscaler.gateway.pool import Endpoint, Pool, Refused, Ticket
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.gateway.tokens import TokenMeter

log = structlog.get_logger(__name__)

COLD_START = "x-autoscaler-cold-start"
HELD_MS = "x-autoscaler-held-ms"

_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)
# The body was read whole and inflated, so these no longer describe it.
_NOT_TO_NODE = _HOP_BY_HOP | {"host", "content-length", "content-encoding", "expect"}
_OWN_HEADERS = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE)
_CONNECT_FAILURES = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_NODE_FAILURES = (aiohttp.ClientError, OSError, asyncio.TimeoutError)
# aiohttp wants larger bodies in pieces, so that one write does not hold up the loop.
_WHOLE_BODY_BYTES = 1024 * 1024
_PIECE_BYTES = 256 * 1024
# Output tokens are credited in lots, and some events behind: a few carry no token, and a counter cannot go back.
_CREDIT_LOT = 16
_CREDIT_LAG = 4


@dataclass(frozen=True, slots=True)
class Call:
    """A request to be forwarded: where to, and the body as it is to be sent."""

    request: web.BaseRequest
    pool: Pool
    ticket: Ticket
    body: bytes


@dataclass(eq=False, slots=True)
class Forwarder:
    """Sends calls to endpoints over kept-alive connections."""

    settings: GatewaySettings
    session: aiohttp.ClientSession
    probing: aiohttp.ClientSession  # the same connections, but tells when one was made
    _timeouts: dict[tuple[float, float], aiohttp.ClientTimeout] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: GatewaySettings) -> Forwarder:
        """Open the connection pool; `close` it in the same loop."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=settings.node_keepalive_s)
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_note_connected)
        trace.on_connection_reuseconn.append(_note_connected)
        return cls(
            settings,
            _session(connector, None, owns_connector=True),
            _session(connector, [trace], owns_connector=False),
        )

    async def close(self) -> None:
        await self.probing.close()
        await self.session.close()

    async def forward(self, call: Call) -> web.StreamResponse:
        """Send a call to an endpoint and stream its answer.

        Raises:
            RequestError: nothing was answered yet; tell the client.
            ConnectionError: the answer was broken off, by either side.
        """
        pool, ticket = call.pool, call.ticket
        while True:
            endpoint = await self._acquire(call)
            try:
                upstream = await self._send(call, endpoint)
            except _CONNECT_FAILURES as failure:
                ticket.tries += 1
                pool.connect_failed(endpoint)
                log.debug("connect_failed", endpoint=endpoint.id, error=type(failure).__name__)
                continue
            except _NODE_FAILURES as failure:
                pool.connected(endpoint)
                pool.release(endpoint)
                pool.figures.failed_total += 1
                raise _no_answer(failure) from failure
            except asyncio.CancelledError:
                pool.release(endpoint)
                pool.figures.client_gone_total += 1
                raise
            except BaseException:
                pool.release(endpoint)
                pool.figures.failed_total += 1
                raise
            pool.connected(endpoint)
            pool.figures.queue_time.observe(ticket.waited_s)
            pool.figures.cold_starts_total += ticket.is_cold
            try:
                return await self._answer(call, upstream)
            finally:
                upstream.close()
                pool.release(endpoint)

    async def _acquire(self, call: Call) -> Endpoint:
        pool, ticket = call.pool, call.ticket
        try:
            endpoint = await pool.acquire(ticket)
        except Refused as refused:
            pool.figures.reject(refused.reason)
            raise RequestError(
                503, refused.reason, str(refused), retry_after_s=pool.settings.retry_after_s
            ) from refused
        except asyncio.CancelledError:
            pool.figures.client_gone_total += 1
            raise
        return endpoint

    async def _send(self, call: Call, endpoint: Endpoint) -> aiohttp.ClientResponse:
        request, body = call.request, call.body
        headers = _passed_on(request.headers, _NOT_TO_NODE)
        data: bytes | AsyncIterator[bytes] = body
        if len(body) > _WHOLE_BODY_BYTES:
            headers[hdrs.CONTENT_LENGTH] = str(len(body))
            data = _in_pieces(body)
        url = URL(endpoint.url + request.raw_path, encoded=True)
        timeout = self._timeout(call.pool)
        if not endpoint.connect_failures:
            return await self.session.post(url, data=data, headers=headers, timeout=timeout)
        return await self.probing.post(
            url,
            data=data,
            headers=headers,
            timeout=timeout,
            trace_request_ctx=SimpleNamespace(pool=call.pool, endpoint=endpoint),
        )

    async def _answer(self, call: Call, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        figures = call.pool.figures
        response = _response_like(upstream, call.ticket)
        passage = _Passage(call, upstream, self.settings.write_timeout_s)
        try:
            writer = await response.prepare(call.request)
            assert isinstance(writer, StreamWriter)
            await passage.run(writer)
            await response.write_eof()
        except _NodeDied as died:
            figures.failed_total += 1
            _break_off(call.request, response)
            raise ConnectionError("the node broke its answer off") from died.__cause__
        except (TimeoutError, OSError) as gone:
            figures.client_gone_total += 1
            _abort(call.request)
            raise ConnectionError("the client went away, or took nothing") from gone
        except asyncio.CancelledError:
            figures.client_gone_total += 1
            raise
        passage.finish()
        if upstream.status < 500:
            figures.completed_total += 1
        else:
            figures.failed_total += 1
        if upstream.status < 400:
            figures.e2e.observe(time.monotonic() - call.ticket.arrived)
        return response

    def _timeout(self, pool: Pool) -> aiohttp.ClientTimeout:
        key = (pool.settings.connect_timeout_s, pool.settings.read_timeout_s)
        timeout = self._timeouts.get(key)
        if timeout is None:
            self._timeouts.clear() if len(self._timeouts) > 1000 else None
            timeout = self._timeouts[key] = aiohttp.ClientTimeout(
                total=None, sock_connect=key[0], sock_read=key[1]
            )
        return timeout


class _NodeDied(Exception):
    """The node ended its answer before it was complete."""


class _Passage:
    """The bytes of one answer on their way, and what is counted while they pass."""

    __slots__ = ("call", "credited", "last", "meter", "upstream", "write_timeout_s")

    def __init__(
        self, call: Call, upstream: aiohttp.ClientResponse, write_timeout_s: float
    ) -> None:
        self.call = call
        self.upstream = upstream
        self.write_timeout_s = write_timeout_s
        is_stream = upstream.headers.get(hdrs.CONTENT_TYPE, "").startswith("text/event-stream")
        self.meter = TokenMeter(is_stream)
        self.credited = 0
        self.last: float | None = None

    async def run(self, writer: StreamWriter) -> None:
        content = self.upstream.content
        while True:
            try:
                chunk = await content.readany()
            except _NODE_FAILURES as exc:
                raise _NodeDied from exc
            if not chunk:
                return
            # Written first: counting may take its microseconds after the client has the bytes.
            await writer.write(chunk, drain=False)
            begun = self.meter.feed(chunk)
            if begun:
                self._note_events(begun)
            if writer.protocol.writing_paused:
                async with asyncio.timeout(self.write_timeout_s):
                    await writer.drain()

    def _note_events(self, begun: int) -> None:
        pool = self.call.pool
        now = time.monotonic()
        if self.last is None:
            if self.upstream.status < 400:
                pool.figures.ttft.observe(now - self.call.ticket.arrived)
        else:
            pool.figures.inter_token.observe((now - self.last) / begun, begun)
        self.last = now
        if self.meter.events - self.credited >= _CREDIT_LOT + _CREDIT_LAG:
            self._credit(self.meter.events - _CREDIT_LAG)

    def finish(self) -> None:
        """Settle the tokens, now that the answer is whole."""
        pool, size = self.call.pool, self.call.ticket.size
        if self.upstream.status >= 400:
            return
        self._credit(self.meter.output_tokens())
        prompt = self.meter.prompt_tokens()
        if prompt is None:
            prompt = size // 4
        elif size:
            pool.tokens_per_byte += 0.05 * (min(2.0, prompt / size) - pool.tokens_per_byte)
        pool.figures.prompt_tokens_total += prompt

    def _credit(self, tokens: int) -> None:
        pool = self.call.pool
        more = tokens - self.credited
        if more > 0:
            pool.figures.output_tokens_total += more
            pool.ring.output_tokens[pool.tick()] += more
            self.credited = tokens


def _session(
    connector: aiohttp.TCPConnector,
    traces: list[aiohttp.TraceConfig] | None,
    *,
    owns_connector: bool,
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=owns_connector,
        trace_configs=traces,
        auto_decompress=False,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_OWN_HEADERS,
        requote_redirect_url=False,
        max_line_size=64 * 1024,
        max_field_size=64 * 1024,
    )


async def _note_connected(_session: object, context: SimpleNamespace, _params: object) -> None:
    asked = context.trace_request_ctx
    asked.pool.connected(asked.endpoint)


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]


def _passed_on(headers: CIMultiDictProxy[str], dropped: frozenset[str]) -> CIMultiDict[str]:
    named = headers.get(hdrs.CONNECTION)
    if named:
        dropped = dropped | {name.strip().lower() for name in named.split(",")}
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in dropped)


def _response_like(upstream: aiohttp.ClientResponse, ticket: Ticket) -> web.StreamResponse:
    headers = _passed_on(upstream.headers, _HOP_BY_HOP)
    if ticket.waited_s:
        headers[HELD_MS] = str(round(ticket.waited_s * 1000))
    if ticket.is_cold:
        headers[COLD_START] = "1"
    return web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)


def _no_answer(failure: BaseException) -> RequestError:
    if isinstance(failure, asyncio.TimeoutError):
        return RequestError(504, "node_timeout", "the node sent nothing for too long")
    return RequestError(502, "node_failed", "the node closed the connection without an answer")


def _break_off(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """End the connection so that the client cannot take the answer for whole."""
    transport = request.transport
    if transport is None:
        return
    if response.chunked or response.content_length is not None:
        transport.close()  # what has come is still delivered; the missing rest tells
        return
    # HTTP/1.0: a closed connection is the regular end there, so it must be a reset.
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
