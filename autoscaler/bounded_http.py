"""Bounds on an HTTP page of ours that aiohttp leaves to its user: how many connections, and how slowly a head may come.

For pages that programs and people read: the daemon's, and the gateway's metrics. Clients of models have a door of their
own. None of these pages is HTML, and no browser may take one for it: names and words of policies, clouds and nodes
stand in them as they are.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

_INERT = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'"}
_FULL_BODY = b'{"error": "too many connections: close some, or try again"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_FULL_BODY), _FULL_BODY)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one page may be asked for.

    Attributes:
        connections: at the same time; one more is answered 503 and closed.
        header_timeout_s: for a whole head, from the connection or its first byte.
        keepalive_s: between two requests.
    """

    connections: int = 100
    header_timeout_s: float = 10.0
    keepalive_s: float = 75.0


class BoundedPage:
    """Makes the connections of one page, for `loop.create_server`.

    Attributes:
        connections: those that are open and were let in.
    """

    def __init__(self, server: web.Server, bounds: Bounds | None = None) -> None:
        self.server = server
        self.bounds = bounds or Bounds()
        self.loop = asyncio.get_running_loop()
        self.connections: set[_Connection] = set()

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self)


class _Connection(RequestHandler):
    __slots__ = ("_head_due", "_page")

    def __init__(self, page: BoundedPage) -> None:
        super().__init__(
            page.server,
            loop=page.loop,
            keepalive_timeout=page.bounds.keepalive_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it, its hint is too narrow
        )
        self._page = page
        self._head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._page.connections) < self._page.bounds.connections:
            self._page.connections.add(self)
            self._expect_head()
            return
        if self.transport is not None:
            self.transport.write(_FULL)
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._page.connections.discard(self)
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._has_head:
            self._expect_head()
        super().data_received(data)
        if self._has_head:
            self._expect_nothing()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what no handler did; aiohttp would write HTML for whoever accepts it."""
        answer = super().handle_error(request, status, exc, message)
        answer.content_type = "text/plain"
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if not resp.prepared:
            resp.headers.update(_INERT)
        return await super().finish_response(request, resp, start_time)

    @property
    def _has_head(self) -> bool:
        return self._current_request is not None or bool(self._messages)

    def _expect_head(self) -> None:
        if self._head_due is None:
            timeout_s = self._page.bounds.header_timeout_s
            self._head_due = self._page.loop.call_later(timeout_s, self.force_close)

    def _expect_nothing(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None
