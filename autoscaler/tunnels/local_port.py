"""A port on loopback that stays ours whether or not it takes connections.

Bound and not listening, the kernel refuses every connection on it at once, and gives it to nobody else: that is what a
tunnel that does not stand looks like. (On Linux, shutting a listening socket for reading takes it back to bound.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

HOST = "127.0.0.1"
_BACKLOG = 1024


class PortTaken(Exception):
    """Another process has it."""


class LocalPort:
    """One reserved port.

    Raises:
        PortTaken: it cannot be had.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._server: asyncio.Server | None = None
        try:
            # Without SO_REUSEADDR nobody else can bind it while we do not listen.
            self._reserved = _bound(number, reuse=False)
        except OSError:
            try:
                self._reserved = _bound(number, reuse=True)
            except OSError as exc:
                raise PortTaken(f"port {number} on {HOST}: {exc.strerror}") from exc

    @property
    def is_listening(self) -> bool:
        return self._server is not None

    async def listen(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Take connections from now on.

        Raises:
            PortTaken: another process listens there.
        """
        if self._server is not None:
            return
        # the server closes the descriptor that it was given, and with it would go the reservation
        opened = socket.socket(fileno=os.dup(self._reserved.fileno()))
        opened.setblocking(False)
        # Connections inherit it: those of a process that was killed linger for a minute, and without it they would
        # keep the port from the next process.
        self._let_reuse(True)
        loop = asyncio.get_running_loop()
        try:
            # in two steps: who is cancelled in the second has a server that close() knows of
            self._server = await loop.create_server(
                protocol, sock=opened, backlog=_BACKLOG, start_serving=False
            )
            await self._server.start_serving()
        except OSError as exc:
            self.refuse()
            opened.close()
            self._let_reuse(False)
            raise PortTaken(
                f"port {self.number} on {HOST}: {exc.strerror}: ss -ltnp shows who has it"
            ) from exc

    def refuse(self) -> None:
        """Take none from now on; those that were taken go on."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            with contextlib.suppress(OSError):
                self._reserved.shutdown(socket.SHUT_RD)
            self._let_reuse(False)

    def _let_reuse(self, allowed: bool) -> None:
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(allowed))

    def close(self) -> None:
        """Give the port back."""
        self.refuse()
        self._reserved.close()


def _bound(number: int, *, reuse: bool) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setblocking(False)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        opened.bind((HOST, number))
    except OSError:
        opened.close()
        raise
    return opened
