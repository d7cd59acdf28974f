"""The lines of a log file of any size, gzipped or not, with memory for one of them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

from autoscaler.errors import ConfigError

_LINE_LIMIT = 16 * 2**20
_EVERY_LINES = 8192
_GZIP = b"\x1f\x8b"
_OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line as text; what is no UTF-8 in it is replaced.

    Attributes:
        number: from 1.
        is_whole: it ends with a newline.
        is_long: it is too long to be looked at, and cut.
    """

    number: int
    text: str
    is_whole: bool = True
    is_long: bool = False


def log_lines(path: Path, progress: Callable[[int], None] | None = None) -> Iterator[Line]:
    """Read a file, or a pipe, line by line.

    Args:
        progress: told from time to time how many bytes of the file have been read.

    Raises:
        ConfigError: it cannot be read, or is packed in a way that is not understood.
    """
    number = 0
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            lines = _unpacked(path, raw, stack)
            while found := lines.readline(_LINE_LIMIT):
                number += 1
                is_whole = found.endswith(b"\n")
                is_long = not is_whole and len(found) >= _LINE_LIMIT
                while not is_whole and (more := lines.readline(_LINE_LIMIT)):
                    is_whole = more.endswith(b"\n")
                text = "" if is_long else found.decode("utf-8", "replace")
                yield Line(number, text, is_whole, is_long)
                if progress is not None and number % _EVERY_LINES == 0 and raw.seekable():
                    progress(raw.tell())
    except (OSError, EOFError, zlib.error) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise ConfigError(f"{path}:{number + 1}: cannot be read as a log: {reason}") from exc


def _unpacked(path: Path, raw: BufferedReader, stack: ExitStack) -> IO[bytes]:
    first = raw.peek(4)[:4]
    if first.startswith(_GZIP):
        return cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=raw)))
    for magic, name in _OTHERS.items():
        if first.startswith(magic):
            raise ConfigError(
                f"{path}: packed with {name}: unpack it first (gzip is read as it is)"
            )
    return raw
