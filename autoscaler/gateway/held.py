"""A streaming answer that begins before there is a node: comments of the event stream, then the node's events.

A middlebox cuts a connection on which nothing moves, often after 30 or 60 seconds; a boot takes minutes. With the first
comment the answer's head is sent, as 200: whatever goes wrong later can only be told by an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from aiohttp import web
from aiohttp.http import StreamWriter

from autoscaler.gateway.errors import RequestError, error_response
from autoscaler.gateway.line import Ticket

COLD_START = "x-autoscaler-cold-start"
_COMMENT = b": waiting for a node\n\n"
_ERROR_LIMIT = 64 * 1024


class HeldStream:
    """The answer to one request that waits.

    Attributes:
        response: what was begun, or None while nothing was sent yet.
        writer: where its body goes, once it was begun.
    """

    def __init__(self, request: web.BaseRequest, ticket: Ticket, every_s: float) -> None:
        self._request = request
        self._ticket = ticket
        self._every_s = every_s
        self._beat: asyncio.Task[None] | None = None
        self.response: web.StreamResponse | None = None
        self.writer: StreamWriter | None = None

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Send comments until `quiet`, or until the block is left."""
        self._beat = asyncio.get_running_loop().create_task(self._send_comments())
        try:
            yield
        finally:
            await self.quiet()

    async def quiet(self) -> None:
        """Send no more comments. What was begun of one has been sent."""
        beat, self._beat = self._beat, None
        if beat is not None:
            beat.cancel()
            await asyncio.wait((beat,))
            if not beat.cancelled():
                beat.exception()  # the client is gone, which its own handler hears

    async def fail(self, error: RequestError) -> web.StreamResponse:
        """Tell an error of ours as an event, and end the answer."""
        if error.retry_after_s is not None:
            told = f"{error}; try again in {error.retry_after_s:.0f} s"
            error = RequestError(error.status, error.code, told, param=error.param)
        body = error_response(error).body
        assert isinstance(body, bytes)
        return await self._end(body)

    async def fail_with(self, status: int, body: bytes) -> web.StreamResponse:
        """Pass on as an event what a node answered instead of a stream, and end the answer."""
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            fields = None
        if isinstance(fields, dict) and isinstance(fields.get("error"), dict):
            return await self._end(orjson.dumps({"error": fields["error"]}))
        text = body[:1000].decode("utf-8", "replace")
        message = f"the node answered {status}: {text}"
        return await self.fail(RequestError(max(status, 400), "node_error", message))

    async def _end(self, error: bytes) -> web.StreamResponse:
        assert self.response is not None
        self.response.force_close()
        await self.response.write(b"data: " + error.replace(b"\n", b" ") + b"\n\n")
        await self.response.write_eof()
        return self.response

    async def _send_comments(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            if self.writer is None:
                await self._begin()
            assert self.response is not None
            await self.response.write(_COMMENT)

    async def _begin(self) -> None:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        if self._ticket.is_cold:
            headers[COLD_START] = "1"
        response = web.StreamResponse(headers=headers)
        self.response = response  # from here on there is no other head
        writer = await response.prepare(self._request)
        assert isinstance(writer, StreamWriter)
        self.writer = writer


class Collected:
    """The sink of an answer that is not passed on as it comes: its first 64 KiB."""

    def __init__(self, early: bytes) -> None:
        self._pieces = [early]
        self._left = _ERROR_LIMIT - len(early)

    def __call__(self, data: bytes) -> None:
        if self._left > 0:
            self._pieces.append(data[: self._left])
            self._left -= len(data)

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)


def asks_for_events(body: bytes) -> bool:
    """Say whether a request asks for its answer as an event stream."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(fields, dict) and fields.get("stream") is True
