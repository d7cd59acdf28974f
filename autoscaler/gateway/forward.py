"""One request's way to an endpoint and its answer's way back, byte for byte.

Retried only while no byte was sent: when connecting failed. An answer that the node breaks off is broken off
towards the client too, never ended cleanly. A client that goes takes its request at the node with it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from autoscaler.gateway.affinity import key_of
from autoscaler.gateway.connection import ClientConnection
from autoscaler.gateway.endpoint import Endpoint
from autoscaler.gateway.errors import RequestError
from autoscaler.gateway.framing import Head
from autoscaler.gateway.held import COLD_START, Collected, HeldStream, asks_for_events
from autoscaler.gateway.line import Ticket
from autoscaler.gateway.passage import Passage, PassedResponse
from autoscaler.gateway.pool import Pool, Refused
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.gateway.upstream import (
    ConnectFailed,
    NodeConnection,
    NodeFailed,
    NodeSilent,
    Upstreams,
)

log = structlog.get_logger(__name__)

HELD_MS = "x-autoscaler-held-ms"
ENDPOINT = "x-autoscaler-endpoint"  # the first thing that is asked about a bad answer

_HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
        *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    )
)
# The body was read whole and inflated, so these no longer describe it.
_REPLACED = {b"host", b"content-length", b"content-encoding", b"expect"}
# What opens this door is no node's business.
_SECRETS = {b"authorization", b"cookie", b"api-key", b"x-api-key"}
_NOT_TO_NODE = _HOP_BY_HOP | _REPLACED | _SECRETS


@dataclass(frozen=True, slots=True)
class Call:
    """A request to be forwarded: where to, the body as it is to be sent, and headers for its answer."""

    request: web.BaseRequest
    pool: Pool
    ticket: Ticket
    body: bytes
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Forwarder:
    """Sends calls to endpoints over kept-alive connections."""

    settings: GatewaySettings
    upstreams: Upstreams

    async def forward(self, call: Call) -> web.StreamResponse:
        """Send a call to an endpoint and stream its answer.

        Raises:
            RequestError: nothing was answered yet; tell the client.
            ConnectionError: the answer was broken off, by either side.
        """
        pool, ticket = call.pool, call.ticket
        if pool.settings.affinity is not None:
            ticket.affinity = key_of(pool.settings.affinity, call.request.headers, call.body)
        endpoint = pool.take_now(ticket)
        if endpoint is not None:
            node = await self._reach(call, endpoint)
            if node is not None:
                return await self._serve(call, endpoint, node, None)
        every_s = pool.settings.sse_comment_s
        if not every_s or not asks_for_events(call.body):
            return await self._wait(call, None)
        held = HeldStream(call.request, ticket, every_s)
        try:
            async with held.beating():
                return await self._wait(call, held)
        except RequestError as error:
            if held.response is None:
                raise
            return await held.fail(error)

    async def _wait(self, call: Call, held: HeldStream | None) -> web.StreamResponse:
        while True:
            endpoint = await _acquire(call)
            node = await self._reach(call, endpoint)
            if node is not None:
                return await self._serve(call, endpoint, node, held)

    async def _reach(self, call: Call, endpoint: Endpoint) -> NodeConnection | None:
        """Connect to an endpoint that was taken; None when it refuses, and the call is to wait for another."""
        pool = call.pool
        try:
            return await self._connect(pool, endpoint)
        except ConnectFailed as failure:
            call.ticket.tries += 1
            pool.connect_failed(endpoint)
            log.debug("connect_failed", endpoint=endpoint.id, error=str(failure))
            return None
        except asyncio.CancelledError:
            endpoint.is_probed = False
            pool.release(endpoint)
            pool.figures.client_gone_total += 1
            raise

    async def _serve(
        self, call: Call, endpoint: Endpoint, node: NodeConnection, held: HeldStream | None
    ) -> web.StreamResponse:
        pool = call.pool
        pool.connected(endpoint)
        pool.figures.queue_time.observe(call.ticket.waited_s)
        pool.figures.cold_starts_total += call.ticket.is_cold
        try:
            return await self._exchange(call, endpoint, node, held)
        finally:
            pool.release(endpoint)

    async def _connect(self, pool: Pool, endpoint: Endpoint) -> NodeConnection:
        # An idle connection proves nothing about an endpoint that refused the last one.
        if not endpoint.connect_failures:
            idle = self.upstreams.reuse(endpoint.way)
            if idle is not None:
                return idle
        return await self.upstreams.connect(
            endpoint.url, pool.settings.connect_timeout_s, endpoint.trust
        )

    async def _exchange(
        self, call: Call, endpoint: Endpoint, node: NodeConnection, held: HeldStream | None
    ) -> web.StreamResponse:
        figures = call.pool.figures
        is_whole = False
        try:
            head = await self._ask(call, endpoint, node)
            if held is not None:
                await held.quiet()
            if held is not None and held.response is not None:
                response = await self._answer_held(call, endpoint, node, head, held)
            else:
                response = _response_like(head, call.ticket, endpoint.id)
                response.headers.update(call.told)
                await self._pass_on(call, endpoint, node, head, response)
            is_whole = True
        except asyncio.CancelledError:
            figures.client_gone_total += 1
            raise
        finally:
            if is_whole:
                self.upstreams.give_back(endpoint.way, node)
            else:
                node.abort()
        call.pool.answered(endpoint, well=head.status < 500)
        if head.status < 500:
            figures.completed_total += 1
        else:
            figures.failed_total += 1
        if head.status < 400:
            figures.e2e.observe(time.monotonic() - call.ticket.arrived)
        return response

    async def _ask(self, call: Call, endpoint: Endpoint, node: NodeConnection) -> Head:
        try:
            return await node.send(
                _request_bytes(call, endpoint.url), call.pool.settings.read_timeout_s
            )
        except NodeFailed as failure:
            raise _node_failed(call, endpoint, failure) from failure

    async def _answer_held(
        self, call: Call, endpoint: Endpoint, node: NodeConnection, head: Head, held: HeldStream
    ) -> web.StreamResponse:
        """Let the node's events follow the comments; anything else that it says becomes one event."""
        if held.response is None or held.writer is None:
            raise ConnectionError("the client went away")
        if _is_plain_stream(head):
            await self._pass_on(call, endpoint, node, head, held.response, held.writer)
            return held.response
        collected = Collected(node.take_early())
        try:
            await node.stream_to(collected)
        except NodeFailed as failure:
            raise _node_failed(call, endpoint, failure) from failure
        return await held.fail_with(head.status, collected.body)

    async def _pass_on(
        self,
        call: Call,
        endpoint: Endpoint,
        node: NodeConnection,
        head: Head,
        response: web.StreamResponse,
        writer: StreamWriter | None = None,
    ) -> None:
        """Stream a node's body as that of `response`, whose head was sent already if there is a `writer`."""
        client = call.request.protocol
        assert isinstance(client, ClientConnection)
        passage = Passage(call.pool, call.ticket, node, client, self.settings.write_timeout_s)
        passage.begin(head.status, response.headers.get("Content-Type", ""))
        try:
            if writer is None:
                if call.pool.is_leaving:
                    response.force_close()
                prepared = await response.prepare(call.request)
                assert isinstance(prepared, StreamWriter)
                writer = prepared
            await _send_head(writer, passage, node.take_early())
            await node.stream_to(passage)
            async with asyncio.timeout(self.settings.write_timeout_s):
                await response.write_eof()
        except NodeFailed as failure:
            call.pool.figures.failed_total += 1
            call.pool.answered(endpoint, well=False)
            _break_off(client, writer)
            raise ConnectionError("the node broke its answer off") from failure
        except OSError as gone:
            call.pool.figures.client_gone_total += 1
            client.abort()
            raise ConnectionError("the client went away") from gone
        finally:
            passage.detach()
        passage.finish()


def _node_failed(call: Call, endpoint: Endpoint, failure: NodeFailed) -> RequestError:
    call.pool.figures.failed_total += 1
    call.pool.answered(endpoint, well=False)
    if isinstance(failure, NodeSilent):
        return RequestError(504, "node_timeout", str(failure))
    return RequestError(502, "node_failed", str(failure))


def _is_plain_stream(head: Head) -> bool:
    """Say whether a node's answer can follow a head that we sent for it: 200, events, not compressed."""
    is_events = head.get(b"content-type").lower().startswith(b"text/event-stream")
    return head.status == 200 and is_events and head.get(b"content-encoding") in (b"", b"identity")


async def _acquire(call: Call) -> Endpoint:
    pool = call.pool
    try:
        return await pool.acquire(call.ticket)
    except Refused as refused:
        pool.figures.reject(refused.reason)
        raise RequestError(
            503, refused.reason, str(refused), retry_after_s=pool.retry_after_s()
        ) from refused
    except asyncio.CancelledError:
        pool.figures.client_gone_total += 1
        raise


async def _send_head(writer: StreamWriter, passage: Passage, early: bytes) -> None:
    """Send the answer's head, in one packet with what of its body has come."""
    passage.is_chunked = writer.chunked
    if early:
        await writer.write(early, drain=False)
        passage.look_at(early)
    else:
        writer.send_headers()


def _request_bytes(call: Call, url: str) -> bytes:
    request, parts = call.request, urlsplit(url)
    dropped = _NOT_TO_NODE | _named_by_connection(request.raw_headers)
    target = parts.path + request.rel_url.raw_path_qs
    lines = [b"POST %b HTTP/1.1\r\nHost: %b" % (target.encode("ascii"), parts.netloc.encode())]
    lines += [b"%b: %b" % pair for pair in request.raw_headers if pair[0].lower() not in dropped]
    lines.append(b"Content-Length: %d\r\n\r\n" % len(call.body))
    return b"\r\n".join(lines) + call.body


def _named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """List the headers that a Connection header declares to be of one connection only."""
    return frozenset(
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    )


def _response_like(head: Head, ticket: Ticket, endpoint: str) -> web.StreamResponse:
    dropped = _HOP_BY_HOP | _named_by_connection(head.headers)
    headers = CIMultiDict(
        (name.decode("ascii"), value.decode("utf-8", "replace"))
        for name, value in head.headers
        if name.lower() not in dropped
    )
    headers[ENDPOINT] = endpoint
    if ticket.waited_s:
        headers[HELD_MS] = str(round(ticket.waited_s * 1000))
    if ticket.is_cold:
        headers[COLD_START] = "1"
    return PassedResponse(status=head.status, reason=head.reason, headers=headers)


def _break_off(client: ClientConnection, writer: StreamWriter | None) -> None:
    """End the connection so that the client cannot take the answer for whole."""
    transport = client.transport
    if transport is None:
        return
    if writer is not None and (writer.chunked or writer.length is not None):
        transport.close()  # what has come is still delivered; the missing rest tells
        return
    # HTTP/1.0: a closed connection is the regular end there, so it must be a reset.
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
