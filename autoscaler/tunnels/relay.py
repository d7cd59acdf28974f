"""One client's connection and its channel to the node, byte for byte, each as fast as the other takes.

An answer that breaks off on its way is broken off towards the client with a reset, never ended cleanly.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

import asyncssh

_RESET = struct.pack("ii", 1, 0)  # linger for no time: the close is a reset


class Relay(asyncio.Protocol):
    """The client's side of one stream; `node` is the other.

    Args:
        taken: told that a client has connected; it opens the channel, or lets go.
        over: told once that nothing is left of it.
    """

    def __init__(self, taken: Callable[[Relay], None], over: Callable[[Relay], None]) -> None:
        self.node = NodeSide(self)
        self._taken = taken
        self._over = over
        self._transport: asyncio.Transport | None = None
        self._early = bytearray()  # came before there was somewhere to put it
        self._ended_early = False

    # what the tunnel and the node's side do

    def abort(self) -> None:
        """Break the stream off, towards both."""
        transport, self._transport = self._transport, None
        if transport is not None:
            connection = transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        self.node.abort()

    def close(self) -> None:
        """End it once what has come is delivered."""
        if self._transport is not None:
            self._transport.close()

    def opened(self) -> None:
        """There is a way now."""
        if self._early:
            self.node.write(bytes(self._early))
            self._early.clear()
        if self._ended_early:
            self.node.write_eof()
        self.resume_reading()

    @property
    def is_gone(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        if not self.is_gone and self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.is_gone and self._transport is not None:
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._taken(self)

    def data_received(self, data: bytes) -> None:
        if self.node.is_opened:
            self.node.write(data)
            return
        # One piece is taken before the pause: uvloop begins to read whatever was said in connection_made.
        self._early += data
        self.pause_reading()

    def eof_received(self) -> bool:
        if self.node.is_opened:
            self.node.write_eof()
        else:
            self._ended_early = True
        return True  # it may still be answered

    def pause_writing(self) -> None:
        self.node.pause_reading()

    def resume_writing(self) -> None:
        self.node.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.node.close()
        self._over(self)


class NodeSide(asyncssh.SSHTCPSession[bytes]):
    """The node's side of a stream: a channel to the port of its model server."""

    def __init__(self, client: Relay) -> None:
        self._client = client
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._has_ended = False
        self.is_opened = False  # the node has answered, whatever came after

    def write(self, data: bytes) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(data)

    def write_eof(self) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write_eof()

    def pause_reading(self) -> None:
        if self._channel is not None:
            self._channel.pause_reading()

    def resume_reading(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()

    def close(self) -> None:
        """The client is gone: the node is told, and works no longer for nobody."""
        if self._channel is not None:
            self._channel.close()

    def abort(self) -> None:
        if self._channel is not None:
            self._channel.abort()

    # asyncssh.SSHTCPSession

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self.is_opened = True
        if self._client.is_gone:
            chan.close()
            return
        self._channel = chan

    def session_started(self) -> None:
        self._client.opened()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._client.write(data)

    def eof_received(self) -> bool:
        self._has_ended = True
        self._client.write_eof()
        return True  # the client may still be sending

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self._client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel = None
        if exc is None and self._has_ended:
            self._client.close()
        else:
            self._client.abort()
