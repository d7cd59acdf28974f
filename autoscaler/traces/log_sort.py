"""Any number of requests in order, in bounded memory: sorted runs in a file of their own, merged when they are read."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterator
from itertools import starmap

from autoscaler.errors import ConfigError

_RUN = 200_000
_BLOCK = 4096
_IN_MEMORY = 64 * 2**20
_ROW = struct.Struct("<dIIH")
Row = tuple[float, int, int, int]


class SortedRows:
    """Rows of arrival, prompt tokens, output tokens and the number of a model.

    The file holds these figures only, has no name, and is gone when it is closed.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # closed by close
        self._waiting: list[Row] = []
        self._runs: list[tuple[int, int]] = []
        self._end = 0

    def add(self, row: Row) -> None:
        """Take one more. Not after reading has begun.

        Raises:
            ConfigError: there is no room for it.
        """
        self._waiting.append(row)
        if len(self._waiting) >= _RUN:
            self._write()

    def __iter__(self) -> Iterator[Row]:
        """All of them, by arrival; as often as one likes."""
        if self._waiting:
            self._write()
        return heapq.merge(*(self._read(start, end) for start, end in self._runs))

    def close(self) -> None:
        """Forget them."""
        self._file.close()

    def _write(self) -> None:
        self._waiting.sort()
        packed = b"".join(starmap(_ROW.pack, self._waiting))
        try:
            self._file.seek(self._end)
            self._file.write(packed)
        except OSError as exc:
            raise ConfigError(
                f"{tempfile.gettempdir()}: figures of the logs cannot be kept there: "
                f"{exc.strerror or exc}; set TMPDIR to a place with 18 bytes for each request"
            ) from exc
        self._runs.append((self._end, self._end + len(packed)))
        self._end += len(packed)
        self._waiting = []

    def _read(self, start: int, end: int) -> Iterator[Row]:
        for at in range(start, end, _BLOCK * _ROW.size):
            self._file.seek(at)
            block = self._file.read(min(_BLOCK * _ROW.size, end - at))
            yield from _ROW.iter_unpack(block)
