"""Pipes and terminals to a VM's commands, read and written without blocking the loop."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass

CHUNK_BYTES = 64 * 1024


class Descriptor:
    """A non-blocking descriptor that is watched for one purpose, and closed once."""

    def __init__(self, number: int) -> None:
        os.set_blocking(number, False)
        self._number = number
        self._open = True

    async def read(self) -> bytes:
        """Read what there is; b"" at the end."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return os.read(self._number, CHUNK_BYTES)
            except BlockingIOError:
                await self._wait(loop.add_reader, loop.remove_reader)
            except OSError as error:
                if error.errno == errno.EIO:  # how a terminal says that its last user has gone
                    return b""
                raise

    async def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            BrokenPipeError: nobody reads it any more.
        """
        loop = asyncio.get_running_loop()
        while data:
            try:
                data = data[os.write(self._number, data) :]
            except BlockingIOError:
                await self._wait(loop.add_writer, loop.remove_writer)

    async def _wait(self, add: Callable[..., None], remove: Callable[[int], object]) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        add(self._number, _wake, woken)
        try:
            await woken
        finally:
            remove(self._number)

    def resize(self, size: tuple[int, int, int, int]) -> None:
        """Tell a terminal its size: columns, rows, and both in pixels."""
        columns, rows, width, height = size
        packed = struct.pack("HHHH", rows, columns, width, height)
        fcntl.ioctl(self._number, termios.TIOCSWINSZ, packed)

    def close(self) -> None:
        """Close it; again is no error."""
        if self._open:
            self._open = False
            os.close(self._number)


@dataclass(frozen=True, slots=True)
class Streams:
    """The three descriptors that a command gets. They stay the caller's to close."""

    stdin: int
    stdout: int
    stderr: int

    def close(self) -> None:
        """Close each of them once."""
        for number in {self.stdin, self.stdout, self.stderr}:
            os.close(number)


@dataclass(frozen=True, slots=True)
class OurEnds:
    """The other ends: one to write to, and its standard output and error (one, for a terminal)."""

    stdin: Descriptor
    outputs: tuple[Descriptor, ...]

    def close(self) -> None:
        """Close them all."""
        self.stdin.close()
        for output in self.outputs:
            output.close()


def open_pipes() -> tuple[Streams, OurEnds]:
    """Three pipes. (Sockets would not do: a script could not write to /dev/stderr.)"""
    stdin_read, stdin_write = os.pipe()
    out_read, out_write = os.pipe()
    error_read, error_write = os.pipe()
    ours = OurEnds(Descriptor(stdin_write), (Descriptor(out_read), Descriptor(error_read)))
    return Streams(stdin_read, out_write, error_write), ours


def open_terminal(size: tuple[int, int, int, int]) -> tuple[Streams, OurEnds]:
    """A pseudo-terminal of that size."""
    master, slave = pty.openpty()
    # two descriptors of one terminal: a loop watches each for one purpose
    ours = OurEnds(Descriptor(os.dup(master)), (Descriptor(master),))
    ours.stdin.resize(size)
    return Streams(slave, slave, slave), ours


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
