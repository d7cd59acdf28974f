"""Connections to model servers: one request at a time each, kept alive between two.

The bytes of an answer go from this socket's callback straight to a sink, without a task in between: a proxied
event costs little more than its two system calls.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from autoscaler.gateway.endpoint import Trust
from autoscaler.gateway.framing import MAX_HEAD_BYTES, BadAnswer, Chunks, Head, parse_head
from autoscaler.tls_words import refusal, trusting

Sink = Callable[[bytes], None]
_MAX_EARLY_BYTES = 256 * 1024
_MAX_IDLE_PER_NODE = 512
# llama.cpp ends some connections right after a whole answer without having said so: one that was reused 0.1 ms later
# met its end, and the request could not be sent again.
_SETTLED_S = 0.05
_MAX_CONTEXTS = 64


class ConnectFailed(Exception):
    """The node accepted no connection: no byte was sent."""


class CertificateRefused(ConnectFailed):
    """It speaks no TLS there, or shows a certificate that is not its own."""


class NodeFailed(Exception):
    """The node broke off, or sent what is no answer. The request may have been worked on."""


class NodeSilent(NodeFailed):
    """The node sent nothing for too long."""


class NodeConnection(asyncio.Protocol):
    """One connection to a node.

    Attributes:
        idle_since: monotonic time since when it may serve another request, or None while it serves.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[NodeConnection], None]):
        self._loop = loop
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._head: asyncio.Future[Head] | None = None
        self._end: asyncio.Future[None] | None = None
        self._received = b""
        self._chunks: Chunks | None = None
        self._left: int | None = None
        self._sink: Sink | None = None
        self._early: list[bytes] = []
        self._early_size = 0
        self._keeps_alive = False
        self._heard = 0.0
        self._read_timeout_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self.idle_since: float | None = None

    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing came since the last answer, asked of the kernel: a busy loop hears of an end late."""
        connection = self._transport.get_extra_info("socket") if self._transport else None
        if connection is None:
            return False
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
        return not poller.poll(0)

    # one request

    def send(self, data: bytes, read_timeout_s: float) -> asyncio.Future[Head]:
        """Send a whole request; the answer's head comes as the result, or `NodeFailed`."""
        assert self._transport is not None
        self.idle_since = None
        self._head = self._loop.create_future()
        self._end = self._loop.create_future()
        # Nobody may be left to ask for it; the failure is then told by the head, or by a cancel.
        self._end.add_done_callback(_retrieved)
        self._head.add_done_callback(_retrieved)
        self._read_timeout_s = read_timeout_s
        self._heard = time.monotonic()
        self._timer = self._loop.call_later(read_timeout_s, self._check_silence)
        self._transport.write(data)
        return self._head

    def take_early(self) -> bytes:
        """Take what of the body came before there was a sink."""
        early, self._early, self._early_size = b"".join(self._early), [], 0
        return early

    def stream_to(self, sink: Sink) -> asyncio.Future[None]:
        """Give the body to `sink` from now on; the result is its end, or `NodeFailed`."""
        assert self._end is not None
        self._sink = sink
        early = self.take_early()
        if early:
            sink(early)
        self.resume()
        return self._end

    def pause(self) -> None:
        """Stop reading: the client takes no more."""
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._heard = time.monotonic()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection, and with it whatever it serves."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if (
            exc is None
            and self._head is not None
            and self._head.done()
            and self._chunks is None
            and self._left is None
            and self._end is not None
            and not self._end.done()
        ):
            self._end.set_result(None)  # HTTP/1.0: the end of the connection is that of the body
        self._fail(NodeFailed("the node closed the connection"))
        self._on_end(self)

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        if self._end is None or self._end.done():
            self.abort()  # nothing was asked
            return
        try:
            if self._head is not None and not self._head.done():
                data = self._take_head(data)
            if data or self._left == 0:
                self._take_body(data)
        except BadAnswer as bad:
            self._fail(NodeFailed(str(bad)))
            self.abort()

    # helpers

    def _take_head(self, data: bytes) -> bytes:
        self._received += data
        while True:
            head_bytes, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                if len(self._received) > MAX_HEAD_BYTES:
                    raise BadAnswer("the head does not end")
                return b""
            head = parse_head(head_bytes)
            self._received = rest
            if head.status >= 200:
                break
            if head.status == 101:
                raise BadAnswer("the node changed the protocol unasked")
        self._received = b""
        self._keeps_alive = head.keeps_alive
        self._chunks = Chunks() if head.is_chunked else None
        self._left = head.length
        assert self._head is not None
        self._head.set_result(head)
        return rest

    def _take_body(self, data: bytes) -> None:
        if self._head is None or not self._head.done():
            return
        chunks, is_whole, surplus = self._chunks, False, 0
        if chunks is not None:
            data = chunks.feed(data)
            is_whole, surplus = chunks.is_complete, chunks.surplus
        elif self._left is not None:
            surplus = max(0, len(data) - self._left)
            data = data[: self._left] if surplus else data
            self._left -= len(data)
            is_whole = self._left == 0
        if data:
            if self._sink is not None:
                self._sink(data)
            else:
                self._early.append(data)
                self._early_size += len(data)
                if self._early_size > _MAX_EARLY_BYTES:
                    self.pause()
        if is_whole:
            self._finish(surplus)

    def _finish(self, surplus: int) -> None:
        transport = self._transport
        self._stop_timer()
        assert self._end is not None
        if not self._end.done():
            self._end.set_result(None)
        is_sent = transport is not None and not transport.get_write_buffer_size()
        if not self._keeps_alive or surplus or not is_sent:
            self.close()

    def release(self) -> None:
        """Make ready for the next request; called when the answer has been passed on whole."""
        self.resume()
        self._head = self._end = self._sink = self._chunks = None
        self._left = None
        self._received = b""
        self.idle_since = time.monotonic()

    def _fail(self, failure: NodeFailed) -> None:
        self._stop_timer()
        for waited in (self._head, self._end):
            if waited is not None and not waited.done():
                waited.set_exception(failure)

    def _check_silence(self) -> None:
        quiet_s = 0.0 if self._is_paused else time.monotonic() - self._heard
        left_s = self._read_timeout_s - quiet_s
        if left_s > 0.001:
            self._timer = self._loop.call_later(left_s, self._check_silence)
            return
        self._fail(NodeSilent("the node sent nothing for too long"))
        self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Upstreams:
    """All connections to nodes, the idle ones by their way (`Endpoint.way`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keepalive_s: float) -> None:
        self._loop = loop
        self._keepalive_s = keepalive_s
        self._open: set[NodeConnection] = set()
        self._idle: dict[str, list[NodeConnection]] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    def reuse(self, way: str) -> NodeConnection | None:
        """Take an idle connection that the node will not be about to close."""
        idle, now = self._idle.get(way, []), time.monotonic()
        for position in range(len(idle) - 1, -1, -1):
            connection = idle[position]
            since = connection.idle_since
            if connection.is_usable and since is not None and now - since < _SETTLED_S:
                continue
            del idle[position]
            if connection.is_usable and since is not None:
                if now - since < self._keepalive_s and connection.is_quiet:
                    return connection
                connection.close()
        return None

    async def connect(
        self, url: str, timeout_s: float, trust: Trust | None = None
    ) -> NodeConnection:
        """Open a connection.

        Raises:
            ConnectFailed: the node did not accept it in time, or its certificate is not what `trust` asks for.
        """
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: NodeConnection(self._loop, self._open.discard),
                    parts.hostname or "",
                    parts.port or (443 if is_tls else 80),
                    ssl=self._context(trust) if is_tls else None,
                    server_hostname=trust.host_name if trust is not None and is_tls else None,
                )
        except (OSError, TimeoutError) as exc:
            refused = refusal(exc)
            if refused is not None:
                raise CertificateRefused(refused) from exc
            raise ConnectFailed(type(exc).__name__) from exc
        if connection.is_usable:
            self._open.add(connection)
        return connection

    def _context(self, trust: Trust | None) -> ssl.SSLContext | bool:
        """What checks a server's certificate: one for each authority, and there are few."""
        if trust is None:
            return True
        context = self._contexts.get(trust.authority)
        if context is None:
            if len(self._contexts) >= _MAX_CONTEXTS:
                self._contexts.clear()
            context = self._contexts[trust.authority] = trusting(trust.authority)
        return context

    def give_back(self, way: str, connection: NodeConnection) -> None:
        """Keep a connection whose answer is whole, if it can serve again."""
        if not connection.is_usable:
            return
        idle = self._idle.setdefault(way, [])
        if len(idle) >= _MAX_IDLE_PER_NODE:
            connection.close()
            return
        connection.release()
        idle.append(connection)

    def sweep(self) -> None:
        """Close what has been idle too long, and forget nodes without idle connections."""
        oldest = time.monotonic() - self._keepalive_s
        for way, idle in tuple(self._idle.items()):
            for connection in idle:
                if connection.idle_since is not None and connection.idle_since < oldest:
                    connection.close()
            kept = [c for c in idle if c.is_usable]
            if kept:
                self._idle[way] = kept
            else:
                del self._idle[way]

    def close(self) -> None:
        """Drop every connection."""
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()


def _retrieved(future: asyncio.Future[Head] | asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
