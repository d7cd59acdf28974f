"""HTTP/1.1 answers of model servers, read strictly and without any I/O: the head, and where the body ends.

An answer that is not well formed is refused rather than guessed at: what the two sides of a proxy read
differently is how one client gets another's answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
_MAX_LINE_BYTES = 4096
_MAX_TRAILERS = 100
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([^\r\n\x00]*))?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*)")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class BadAnswer(Exception):
    """A node's answer is not HTTP/1.1 as it should be."""


@dataclass(frozen=True, slots=True)
class Head:
    """An answer's head.

    Attributes:
        headers: names and values as they came, in order.
        length: bytes of the body; None if it is chunked or ends with the connection.
        is_chunked: the body is in chunks.
        keeps_alive: the node will take another request on this connection.
    """

    status: int
    reason: str
    headers: tuple[tuple[bytes, bytes], ...]
    length: int | None
    is_chunked: bool
    keeps_alive: bool

    def get(self, name: bytes) -> bytes:
        """Give a header's values, joined by commas; empty without any. `name` in lower case."""
        return b",".join(value for key, value in self.headers if key.lower() == name)


def parse_head(data: bytes) -> Head:
    """Read a head, given without the empty line that ends it.

    Raises:
        BadAnswer: it is not one.
    """
    first, *lines = data.split(b"\r\n")
    status_line = _STATUS.fullmatch(first)
    if status_line is None:
        raise BadAnswer("the status line is malformed")
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadAnswer("a header is malformed")
        headers.append((found[1], found[2].rstrip(b" \t")))
    status = int(status_line[2])
    encoding, length = _framing(headers)
    named = b",".join(value for key, value in headers if key.lower() == b"connection").lower()
    tokens = {token.strip() for token in named.split(b",")}
    if 100 <= status < 200 or status in (204, 304):
        encoding, length = False, 0
    keeps_alive = b"close" not in tokens and (status_line[1] == b"1" or b"keep-alive" in tokens)
    return Head(
        status=status,
        reason=(status_line[3] or b"").decode("latin-1"),
        headers=tuple(headers),
        length=length,
        is_chunked=encoding,
        keeps_alive=keeps_alive and (encoding or length is not None),
    )


def _framing(headers: list[tuple[bytes, bytes]]) -> tuple[bool, int | None]:
    """Say whether the body is chunked, and else its length, if any is told."""
    codings = [value.lower() for key, value in headers if key.lower() == b"transfer-encoding"]
    lengths = {value for key, value in headers if key.lower() == b"content-length"}
    if codings:
        if codings != [b"chunked"] or lengths:
            raise BadAnswer("the body's framing is ambiguous")
        return True, None
    if not lengths:
        return False, None
    (length, *others) = lengths
    if others or not length.isdigit() or len(length) > 18:
        raise BadAnswer("the content length is malformed")
    return False, int(length)


class Chunks:
    """Takes a chunked body apart, however it is cut.

    Attributes:
        is_complete: the last chunk and the trailers have come.
        surplus: bytes after the end; there should be none.
    """

    __slots__ = ("_in_trailers", "_left", "_pending", "_trailers", "is_complete", "surplus")

    def __init__(self) -> None:
        self.is_complete = False
        self.surplus = 0
        self._left = 0  # of the present chunk, its closing line break included
        self._pending = b""  # a line whose end has not come
        self._in_trailers = False
        self._trailers = 0

    def feed(self, data: bytes) -> bytes:
        """Give what of the body is in the next bytes.

        Raises:
            BadAnswer: the chunks are malformed.
        """
        if self._pending:
            data = self._pending + data
            self._pending = b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size:
            left = self._left
            if left > 2:
                piece = data[at : at + left - 2]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
            elif left:
                if data[at] != b"\n\r"[left - 1]:
                    raise BadAnswer("a chunk is longer than it said")
                at += 1
                self._left -= 1
            else:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._pending = data[at:]
                    if len(self._pending) > _MAX_LINE_BYTES:
                        raise BadAnswer("a line between chunks does not end")
                    break
                self._line(data[at:end])
                at = end + 2
                if self.is_complete:
                    self.surplus = size - at
                    break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _line(self, line: bytes) -> None:
        if self._in_trailers:
            self.is_complete = not line
            self._trailers += 1
            if self._trailers > _MAX_TRAILERS:
                raise BadAnswer("there are too many trailers")
            return
        found = _SIZE.fullmatch(line)
        if found is None:
            raise BadAnswer("a chunk's size is malformed")
        length = int(found[1], 16)
        if length:
            self._left = length + 2
        else:
            self._in_trailers = True
