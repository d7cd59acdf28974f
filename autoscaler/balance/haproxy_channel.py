"""The way to one of HAProxy's sockets: one command, one connection, one answer, read to its end under a size limit."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoscaler.errors import BalancerUnavailable

ANSWER_LIMIT = 16 * 1024 * 1024  # 10,000 servers print about 4 MB


class Socket(Protocol):
    """Where a command goes: a socket of HAProxy's, here or on another host. `str` names it in messages."""

    async def prepare(self) -> None:
        """Do what takes longer than a command: connect to the other host.

        Raises:
            BalancerUnavailable: it cannot be reached.
        """

    async def exchange(self, command: str, *, ends_first: bool) -> bytes | None:
        """Send one command over a connection of its own and read the answer to its end.

        Args:
            ends_first: the answer ends only once we have ended our side, as a master's does.

        Returns:
            None when HAProxy has no place for one more connection just now, so that nothing was sent.

        Raises:
            OSError, BalancerUnavailable: nobody listens, or we may not.
        """


Where = Path | Socket  # a path is a socket on this host


@dataclass(frozen=True, slots=True)
class LocalSocket:
    """A Unix socket on this host. It satisfies `Socket`."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    async def prepare(self) -> None:
        """Nothing takes long here."""

    async def exchange(self, command: str, *, ends_first: bool) -> bytes | None:
        """Ask once (`Socket`).

        HAProxy takes `stats maxconn` connections (10 unless told) and queues as many. Beyond that the kernel answers
        "try again", which asyncio takes for a connection in progress: the first write then finds none.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.path))
        except BlockingIOError:
            return None
        try:
            return await converse(reader, writer, command, ends_first=ends_first, where=str(self))
        except OSError as exc:
            if exc.errno == errno.ENOTCONN:
                return None
            raise


class Reader(Protocol):
    """What asyncio's streams and SSH channels have in common, to read from."""

    async def read(self, n: int = -1, /) -> bytes: ...


class Writer(Protocol):
    """And to write to."""

    def write(self, data: bytes, /) -> None: ...
    def can_write_eof(self) -> bool: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...


async def converse(
    reader: Reader, writer: Writer, command: str, *, ends_first: bool, where: str
) -> bytes:
    """Send one command over an open connection, and read what comes until its end.

    Raises:
        BalancerUnavailable: more than HAProxy would ever say.
    """
    try:
        # no drain(): one command fits the socket's buffer
        writer.write(command.encode("ascii") + b"\n")
        if ends_first and writer.can_write_eof():
            writer.write_eof()
        answer = bytearray()
        while chunk := await reader.read(65536):
            answer += chunk
            if len(answer) > ANSWER_LIMIT:
                raise BalancerUnavailable(
                    f"HAProxy answered more than {ANSWER_LIMIT} bytes on {where}: is it HAProxy?"
                )
        return bytes(answer)
    finally:
        writer.close()
