"""Reads requests' bodies whole, within bounds: of one, of all together, and of time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import hdrs, web

from autoscaler.gateway.connection import ClientConnection
from autoscaler.gateway.errors import RequestError
from autoscaler.gateway.settings import GatewaySettings

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BUSY_RETRY_S = 5.0


@dataclass(eq=False, slots=True)
class Bodies:
    """The bodies of all requests under way.

    Attributes:
        buffered_bytes: what they take together.
    """

    settings: GatewaySettings
    buffered_bytes: int = 0

    async def read(self, request: web.BaseRequest) -> bytes:
        """Read a body. It counts until the caller says that it is `done` with it.

        Raises:
            RequestError: too large, too slow, too much at once, or broken. Nothing counts then.
        """
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                await self._collect(request, chunks)
        except BaseException as exc:
            self.buffered_bytes -= sum(map(len, chunks))
            if isinstance(exc, web.RequestPayloadError):
                raise RequestError(400, "bad_body", "the body's encoding is broken") from exc
            if isinstance(exc, TimeoutError):
                _stop_reading(request)
                raise self._too_slow() from exc
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def done(self, body: bytes) -> None:
        """Stop counting a body that was read."""
        self.buffered_bytes -= len(body)

    async def _collect(self, request: web.BaseRequest, chunks: list[bytes]) -> None:
        limit = self.settings.max_body_bytes
        if (request.content_length or 0) > limit:
            raise self._too_large(request)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport:
            request.transport.write(_CONTINUE)
        size = 0
        while chunk := await request.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            self.buffered_bytes += len(chunk)
            if size > limit:
                raise self._too_large(request)
            if self.buffered_bytes > self.settings.max_buffered_bytes:
                request.protocol.close()
                raise RequestError(
                    503,
                    "gateway_busy",
                    f"the requests under way already have {self.settings.max_buffered_bytes} bytes",
                    retry_after_s=_BUSY_RETRY_S,
                )

    def _too_large(self, request: web.BaseRequest) -> RequestError:
        request.protocol.close()  # after the answer: nobody wants the rest
        return RequestError(
            413,
            "request_too_large",
            f"the body is larger than {self.settings.max_body_bytes} bytes: send less, or have the "
            "gateway allow more ([front] max_body)",
        )

    def _too_slow(self) -> RequestError:
        return RequestError(
            408,
            "body_timeout",
            f"the body did not arrive within {self.settings.body_timeout_s:g} s: send it again",
        )


def _stop_reading(request: web.BaseRequest) -> None:
    if isinstance(request.protocol, ClientConnection):
        request.protocol.stop_reading()
