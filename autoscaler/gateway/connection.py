"""A client's connection, with the bounds that aiohttp leaves to us: number, request heads, stuck closes.

A server that waits for ever for the rest of a request head can be filled with nothing. Each connection notes
since when it owes us one; a sweep each second closes those that are overdue, which costs the requests nothing.
With TLS a connection counts from the moment it is accepted, not from the end of its handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from autoscaler.gateway.crowd import Crowd, network_of
from autoscaler.gateway.errors import RequestError, error_body, error_response
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.gateway.tls_arrival import TlsArrival

log = structlog.get_logger(__name__)

_FULL_BODY = error_body(
    RequestError(503, "too_many_connections", "this gateway serves as many clients as it may")
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_FULL_BODY), _FULL_BODY)
# How long the rest of a refused body is read and thrown away, so that the client sees why and not a reset.
_LINGER_S = 5.0
_SILENT = logging.getLogger("autoscaler.gateway.aiohttp")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class ClientConnection(RequestHandler):
    """One connection of a client.

    Attributes:
        head_since: monotonic time since when a request head is owed, or None while one is served or
            the connection is idle between two requests.
        closing_since: since when the connection is being closed, or None.
        network: whose it is; None where that says nothing.
        has_asked: a request has come by it.
        body_due: from when on it counts as silent though it sends a body; None while it sends none.
        on_writable: called when the client takes bytes again after its buffer was full.
    """

    __slots__ = (
        *("body_due", "closing_since", "has_asked", "head_since", "heard_at", "network"),
        *("on_writable", "owner"),
    )

    def __init__(self, owner: ClientServer) -> None:
        settings = owner.settings
        super().__init__(
            owner.server,
            loop=owner.loop,
            keepalive_timeout=settings.keepalive_s,
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it, its hint is too narrow
            lingering_time=_LINGER_S,
            logger=_SILENT,
        )
        self.owner = owner
        self.head_since: float | None = None
        self.heard_at = owner.loop.time()
        self.closing_since: float | None = None
        self.network: str | None = None
        self.has_asked = False
        self.body_due: float | None = None
        self.on_writable: Callable[[], None] | None = None

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def stop_reading(self) -> None:
        """Close after the answer, and wait for nothing that the client still owes."""
        self._lingering_time = 0.0
        self.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.head_since = self.heard_at = self.owner.loop.time()
        self.network = self.owner.network_of(transport)
        self.owner.connections.add(self)
        if not self.owner.crowd.enter(self):
            if self.transport is not None:
                self.transport.write(_FULL)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.owner.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.head_since is None and self._current_request is None:
            self.head_since = self.heard_at = self.owner.loop.time()
        super().data_received(data)

    def asked(self) -> None:
        """Note that a request's head is whole."""
        self.head_since = None
        self.has_asked = True

    def answered(self) -> None:
        """Note that a request's answer is whole."""
        self.heard_at = self.owner.loop.time()

    def sends_body(self) -> None:
        """Note that a body comes. It has as long as a head before the connection may have to make room."""
        self.body_due = self.owner.loop.time() + self.owner.settings.header_timeout_s

    def sent_body(self) -> None:
        """Note that the body is whole, or given up."""
        self.body_due = None

    @property
    def silent_since(self) -> float | None:
        """Since when it has asked for nothing, or asks without end (`Guest`)."""
        if self.transport is None or self.transport.is_closing():
            return None
        if self._current_request is not None or self._messages:
            return self.body_due
        return self.heard_at

    def make_room(self) -> None:
        """Close it for somebody else's sake (`Guest`)."""
        self.force_close()

    @property
    def is_idle(self) -> bool:
        """Say whether nothing is asked or owed on this connection."""
        return self.head_since is None and self._current_request is None and not self._messages

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        self.head_since = None
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun, so it can only be broken off") from exc
        if status >= 500:
            log.error("request_crashed", exc_info=exc)
            failure = RequestError(status, "internal_error", "the gateway failed; see its log")
        else:
            failure = RequestError(status, "bad_http", "this is not a valid HTTP request")
        response = error_response(failure)
        response.force_close()
        return response


class ClientServer:
    """Makes the connections of one process and sweeps them.

    Attributes:
        tls: what makes TLS handshakes; None serves plain HTTP.
        connections: those that speak HTTP by now.
        arrivals: those whose TLS handshake is not done.
        crowd: all of both, within their bound.
        handshake_failures_total: clients that did not agree on TLS with us.
    """

    def __init__(
        self,
        server: web.Server,
        settings: GatewaySettings,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.server = server
        self.settings = settings
        self.loop = loop
        self.tls = tls
        self.connections: set[ClientConnection] = set()
        self.arrivals: set[TlsArrival] = set()
        self.crowd = Crowd(settings.max_connections, loop.time)
        self.handshake_failures_total = 0
        self._emptied = asyncio.Event()

    def __call__(self) -> asyncio.Protocol:
        if self.tls is None:
            return ClientConnection(self)
        return TlsArrival(self, self.tls)

    def network_of(self, transport: asyncio.BaseTransport) -> str | None:
        """Say whose a connection is; None behind a proxy, from which all come."""
        if self.settings.behind_proxy:
            return None
        return network_of(transport.get_extra_info("peername"))

    # while TLS is agreed upon

    def arrived(self, arrival: TlsArrival) -> bool:
        """Note a connection that begins its handshake; say whether there is room for it."""
        if not self.crowd.enter(arrival):
            return False
        self.arrivals.add(arrival)
        return True

    def agreed(self, arrival: TlsArrival) -> ClientConnection:
        """Make what speaks HTTP on a connection whose handshake is done."""
        self._forget(arrival)
        return ClientConnection(self)

    def disagreed(self, arrival: TlsArrival) -> None:
        """Note that a handshake failed, or was given up."""
        self._forget(arrival)
        self.handshake_failures_total += 1

    def _forget(self, arrival: TlsArrival) -> None:
        self.arrivals.discard(arrival)
        self.crowd.leave(arrival)

    def sweep(self) -> None:
        """Close the connections that owe a request head for too long, or will not finish closing."""
        now = self.loop.time()
        for connection in tuple(self.connections):
            transport = connection.transport
            head_since = connection.head_since
            if head_since is not None and now - head_since > self.settings.header_timeout_s:
                connection.force_close()
            if transport is not None and transport.is_closing():
                connection.closing_since = connection.closing_since or now
                if now - connection.closing_since > self.settings.write_timeout_s:
                    transport.abort()

    def close_idle(self) -> None:
        """Close the connections between two requests; the others close after their answer."""
        for connection in tuple(self.connections):
            if connection.is_idle:
                connection.force_close()

    def lost(self, connection: ClientConnection) -> None:
        self.crowd.leave(connection)
        self.connections.discard(connection)
        if not self.connections:
            self._emptied.set()

    async def emptied(self, timeout_s: float) -> None:
        """Wait until no connection is left, or for `timeout_s`."""
        self._emptied.clear()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._emptied.wait()

    def abort_all(self) -> None:
        """Drop every connection."""
        for arrival in tuple(self.arrivals):
            arrival.abort()
        for connection in tuple(self.connections):
            connection.abort()

    async def shutdown(self) -> None:
        """End every connection at once, whatever it does."""
        for arrival in tuple(self.arrivals):
            arrival.abort()
        await self.server.shutdown(0.01)  # 0 would mean no limit
