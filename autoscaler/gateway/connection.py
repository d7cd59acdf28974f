"""A client's connection, with the bounds that aiohttp leaves to us: number, request heads, stuck closes.

A server that waits for ever for the rest of a request head can be filled with nothing. Each connection notes
since when it owes us one; a sweep each second closes those that are overdue, which costs the requests nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from autoscaler.gateway.errors import RequestError, error_response
from autoscaler.gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
# How long the rest of a refused body is read, so that the client sees why and not a reset.
_LINGER_S = 1.0
_SILENT = logging.getLogger("autoscaler.gateway.aiohttp")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class ClientConnection(RequestHandler):
    """One connection of a client.

    Attributes:
        head_since: monotonic time since when a request head is owed, or None while one is served or
            the connection is idle between two requests.
        closing_since: since when the connection is being closed, or None.
        on_writable: called when the client takes bytes again after its buffer was full.
    """

    __slots__ = ("closing_since", "head_since", "on_writable", "owner")

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
        self.closing_since: float | None = None
        self.on_writable: Callable[[], None] | None = None

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.head_since = self.owner.loop.time()
        if len(self.owner.connections) >= self.owner.settings.max_connections:
            self.owner.refused_total += 1
            if self.transport is not None:
                self.transport.write(_FULL)
            self.force_close()
        self.owner.connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.owner.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.head_since is None and self._current_request is None:
            self.head_since = self.owner.loop.time()
        super().data_received(data)

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
    """Makes the connections of one process and sweeps them."""

    def __init__(
        self, server: web.Server, settings: GatewaySettings, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.server = server
        self.settings = settings
        self.loop = loop
        self.connections: set[ClientConnection] = set()
        self.refused_total = 0
        self._emptied = asyncio.Event()

    def __call__(self) -> ClientConnection:
        return ClientConnection(self)

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
        for connection in tuple(self.connections):
            connection.abort()

    async def shutdown(self) -> None:
        """End every connection at once, whatever it does."""
        await self.server.shutdown(0.01)  # 0 would mean no limit
