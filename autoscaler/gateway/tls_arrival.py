"""A client's connection from its first byte until TLS is agreed upon.

The server does the handshake itself, rather than leaving it to the event loop, so that a connection that never
finishes one counts, and is one of a bounded number.
"""

from __future__ import annotations

import asyncio
import ssl
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Protocol, TypeVar, cast

HANDSHAKE_S = 10.0
_SHUTDOWN_S = 5.0
_T = TypeVar("_T")


class Owner(Protocol):
    """Counts arrivals, and takes over what has arrived."""

    loop: asyncio.AbstractEventLoop

    def network_of(self, transport: asyncio.BaseTransport) -> str | None: ...

    def arrived(self, arrival: TlsArrival) -> bool: ...

    def agreed(self, arrival: TlsArrival) -> asyncio.Protocol: ...

    def disagreed(self, arrival: TlsArrival) -> None: ...


class TlsArrival(asyncio.Protocol):
    """Shakes hands, then hands the connection over. Its task ends with it.

    Attributes:
        network, has_asked, silent_since: what it is to the crowd (`Guest`).
    """

    def __init__(self, owner: Owner, context: ssl.SSLContext) -> None:
        self._owner = owner
        self._context = context
        self.network: str | None = None
        self.has_asked = False
        self._began_at = owner.loop.time()
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plain = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.network = self._owner.network_of(plain)
        if not self._owner.arrived(self):
            plain.abort()  # without TLS there is no way to say why
            return
        self._transport = plain
        early = _Early()
        upgrade = self._owner.loop.start_tls(
            *(plain, early, self._context),
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=_SHUTDOWN_S,
        )
        # Its first step, which puts TLS before us, is taken here and not by the task: uvloop reads from now on,
        # and a client's first bytes would come before the task does.
        awaited = upgrade.send(None)
        self._handshake = self._owner.loop.create_task(
            self._shake_hands(plain, early, _rest_of(upgrade, awaited))
        )

    @property
    def silent_since(self) -> float | None:
        """Since when it shakes hands; None once that is over (`Guest`)."""
        return None if self._handshake is None or self._handshake.done() else self._began_at

    def make_room(self) -> None:
        """Give up for somebody else's sake (`Guest`)."""
        self.abort()

    def abort(self) -> None:
        """Give up."""
        if self._handshake is not None:
            self._handshake.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _shake_hands(
        self,
        plain: asyncio.Transport,
        early: _Early,
        upgrade: Awaitable[asyncio.Transport | None],
    ) -> None:
        try:
            secured = await upgrade
        except (OSError, EOFError, RuntimeError):  # ssl.SSLError and timeouts are OSErrors
            secured = None
        except asyncio.CancelledError:
            self._owner.disagreed(self)
            plain.abort()
            raise
        if secured is None:
            self._owner.disagreed(self)
            plain.abort()
            return
        early.hand_over(secured, self._owner.agreed(self))


@types.coroutine
def _rest_of(begun: Coroutine[object, None, _T], awaited: object) -> Generator[object, None, _T]:
    """Run what is left of a coroutine whose first step was taken, and waits for `awaited`."""
    try:
        yield awaited
    except BaseException as exc:
        begun.throw(exc)
        raise
    rest: _T = yield from begun
    return rest


class _Early(asyncio.Protocol):
    """Keeps what comes between the end of the handshake and the moment that we hear of it."""

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._is_at_end = False
        self._is_lost = False
        self._error: Exception | None = None

    def data_received(self, data: bytes) -> None:
        self._data.append(bytes(data))

    def eof_received(self) -> None:
        self._is_at_end = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._error = exc

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Tell `protocol` all of it, in order, and leave the connection to it."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        for data in self._data:
            protocol.data_received(data)
        if self._is_at_end:
            protocol.eof_received()
        if self._is_lost:
            protocol.connection_lost(self._error)
