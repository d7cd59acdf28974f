"""Reads requests' bodies whole, within bounds: of one, of all together, and of time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import hdrs, web

from autoscaler.gateway.admission import Account
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

    async def read(self, request: web.BaseRequest, account: Account | None = None) -> bytes:
        """Read a body. It counts until the caller says that it is `done` with it.

        Args:
            account: whose it is. No key takes more than what it leaves to the others, so that none can fill it all.

        Raises:
            RequestError: too large, too slow, too much at once, or broken. Nothing counts then.
        """
        chunks: list[bytes] = []
        connection = request.protocol
        try:
            if isinstance(connection, ClientConnection):
                connection.sends_body()
            async with asyncio.timeout(self.settings.body_timeout_s):
                await self._collect(request, chunks, account)
        except BaseException as exc:
            self._count(-sum(map(len, chunks)), account)
            if isinstance(exc, web.RequestPayloadError):
                raise RequestError(400, "bad_body", "the body's encoding is broken") from exc
            if isinstance(exc, TimeoutError):
                _stop_reading(request)
                raise self._too_slow() from exc
            raise
        finally:
            if isinstance(connection, ClientConnection):
                connection.sent_body()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def done(self, body: bytes, account: Account | None = None) -> None:
        """Stop counting a body that was read."""
        self._count(-len(body), account)

    def _count(self, size: int, account: Account | None) -> None:
        self.buffered_bytes += size
        if account is not None:
            account.buffered_bytes += size

    async def _collect(
        self, request: web.BaseRequest, chunks: list[bytes], account: Account | None
    ) -> None:
        limit = self.settings.max_body_bytes
        if (request.content_length or 0) > limit:
            raise self._too_large(request)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport:
            request.transport.write(_CONTINUE)
        size = 0
        while chunk := await request.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            self._count(len(chunk), account)
            if size > limit:
                raise self._too_large(request)
            left = self.settings.max_buffered_bytes - self.buffered_bytes
            if left < 0 or (account is not None and account.buffered_bytes > left):
                raise self._busy(request, account if left >= 0 else None)

    def _busy(self, request: web.BaseRequest, account: Account | None) -> RequestError:
        request.protocol.close()
        whose = "the requests" if account is None else f"the requests of `{account.key.name}`"
        have = self.buffered_bytes if account is None else account.buffered_bytes
        return RequestError(
            503,
            "gateway_busy",
            f"{whose} under way already have {have} bytes of {self.settings.max_buffered_bytes}: "
            "ask again when some have ended",
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
