"""The bytes of one answer on their way from node to client, and what is counted while they pass.

Called from the node's socket callback: what comes is written to the client at once and only then looked at. A client
that reads more slowly than the node writes stops the node, and is cut when it takes nothing for too long.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from autoscaler.gateway.connection import ClientConnection
from autoscaler.gateway.line import Ticket
from autoscaler.gateway.pool import Pool
from autoscaler.gateway.tokens import TokenMeter
from autoscaler.gateway.upstream import NodeConnection

# Output tokens are credited in lots, and some events behind: a few carry no token, and a counter cannot go back.
_CREDIT_LOT = 16
_CREDIT_LAG = 4


class Passage:
    """The sink of one answer.

    Attributes:
        is_chunked: the client is sent chunks (it cannot know the length).
    """

    __slots__ = (
        *("_client", "_credited", "_is_good", "_last", "_meter", "_node", "_pool", "_ticket"),
        *("_timer", "_transport", "_write_timeout_s", "is_chunked"),
    )

    def __init__(
        self,
        pool: Pool,
        ticket: Ticket,
        node: NodeConnection,
        client: ClientConnection,
        write_timeout_s: float,
    ) -> None:
        self._pool = pool
        self._ticket = ticket
        self._node = node
        self._client = client
        self._transport = client.transport
        self._write_timeout_s = write_timeout_s
        self._meter = TokenMeter(is_stream=False)
        self._is_good = False
        self._credited = 0
        self._last: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_chunked = False

    def begin(self, status: int, content_type: str) -> None:
        """Note what kind of answer comes."""
        self._meter.is_stream = content_type.startswith("text/event-stream")
        self._is_good = status < 400

    def __call__(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # the client is gone: its handler is being cancelled, and drops the node
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self.is_chunked else data)
        if self._client.writing_paused:
            self._hold_node()
        self.look_at(data)

    def look_at(self, data: bytes) -> None:
        """Count what has passed."""
        begun = self._meter.feed(data)
        if begun:
            self._note_events(begun)

    def finish(self) -> None:
        """Settle the tokens, now that the answer is whole."""
        if not self._is_good:
            return
        pool, size = self._pool, self._ticket.size
        self._credit(self._meter.output_tokens())
        prompt = self._meter.prompt_tokens()
        if prompt is None:
            prompt = size // 4
        elif size:
            pool.tokens_per_byte += 0.05 * (min(2.0, prompt / size) - pool.tokens_per_byte)
        pool.figures.prompt_tokens_total += prompt

    def detach(self) -> None:
        """End the watch over the client's pace."""
        self._client.on_writable = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hold_node(self) -> None:
        if self._timer is None:
            self._node.pause()
            self._client.on_writable = self._let_node_go
            self._timer = self._pool.loop.call_later(self._write_timeout_s, self._cut)

    def _let_node_go(self) -> None:
        self.detach()
        self._node.resume()

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _note_events(self, begun: int) -> None:
        figures, now = self._pool.figures, time.monotonic()
        if self._last is None:
            if self._is_good:
                figures.ttft.observe(now - self._ticket.arrived)
        else:
            figures.inter_token.observe((now - self._last) / begun, begun)
        self._last = now
        if self._meter.events - self._credited >= _CREDIT_LOT + _CREDIT_LAG:
            self._credit(self._meter.events - _CREDIT_LAG)

    def _credit(self, tokens: int) -> None:
        more = tokens - self._credited
        if more > 0 and self._is_good:
            pool = self._pool
            pool.figures.output_tokens_total += more
            pool.ring.output_tokens[pool.tick()] += more
            self._credited = tokens


class PassedResponse(web.StreamResponse):
    """An answer whose head waits for the first bytes of its body, to leave in one packet with them."""

    _send_headers_immediately = False
