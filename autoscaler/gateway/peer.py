"""How two processes of one gateway talk: messages over a Unix socket that only they may open, sockets along with them.

A message is its length in four bytes, then JSON. Every process listens at a name of its own beside the state file, and
each question is a connection of its own: one that is refused proves that the process is gone, and its streams with it.
A name that is missing proves nothing: the process removes it as it ends, and so does whoever tidies the folder up. What
tells the two apart is one more connection, kept open for as long as both live.

Unknown fields are passed over, since the two may be of different versions: an upgrade is what this is for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoscaler.gateway.endpoint import EndpointState, Trust
from autoscaler.gateway.settings import GatewaySettings

SUFFIX = ".gw"
ANSWER_S = 2.0
_LENGTH = struct.Struct(">I")
_MAX_BYTES = 64 * 1024 * 1024
_MAX_SOCKETS = 64


class PeerGone(Exception):
    """Nobody listens there any more."""


class PeerSilent(Exception):
    """It lives, and did not answer as it should: what it was told may not be done."""


class PeerHidden(PeerSilent):
    """Its name is missing: it has ended, or somebody has removed the file."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class EndpointNews(_Message):
    """An endpoint as the younger process has it, with what is in flight there at all others."""

    id: str
    url: str
    weight: float
    max_inflight: int
    state: EndpointState
    in_flight: int = Field(ge=0)
    authority: str = ""
    host_name: str = ""

    @property
    def trust(self) -> Trust | None:
        return Trust(self.authority, self.host_name) if self.authority else None


class Question(_Message):
    """What one process asks of another.

    `stay`: who are you? And keep this connection until one of us ends. `sockets`: let me take over. `retire`: I serve
    now, finish what you have. `follow`: this is how things stand, what have you in flight? `stop`: refuse who still
    waits.
    """

    ask: str
    pid: int = 0
    pools: dict[str, list[EndpointNews]] = {}


class PoolCount(_Message):
    """What a process still has of one model."""

    running: int = Field(default=0, ge=0)
    waiting: int = Field(default=0, ge=0)
    endpoints: dict[str, int] = {}


class HandedSocket(_Message):
    """What one of the sockets that come along is for. `inherited`: systemd opened it."""

    role: str
    inherited: bool


class Answer(_Message):
    """What it says. `why` is set when it refused."""

    control: str = ""
    is_retired: bool = False
    why: str = ""
    counts: dict[str, PoolCount] = {}
    sockets: list[HandedSocket] = []
    state: str = ""


_Kind = TypeVar("_Kind", bound=_Message)


def folder_of(settings: GatewaySettings) -> Path:
    """Where the processes of this gateway find each other: a folder that it may write to."""
    return (settings.state_file or settings.control).parent


async def send(peer: socket.socket, message: _Message, fds: Sequence[int] = ()) -> None:
    """Send a message, the sockets with its first bytes."""
    body = message.model_dump_json().encode()
    if fds:
        socket.send_fds(peer, [_LENGTH.pack(len(body))], list(fds))
    else:
        body = _LENGTH.pack(len(body)) + body
    await asyncio.get_running_loop().sock_sendall(peer, body)


async def receive(peer: socket.socket, kind: type[_Kind]) -> _Kind:
    """Wait for a message.

    Raises:
        PeerGone: the other side closed.
        PeerSilent: what came is no such message.
    """
    (length,) = _LENGTH.unpack(await _exactly(peer, _LENGTH.size))
    return _parsed(kind, await _exactly(peer, _bounded(length)))


async def ask(path: Path, question: Question) -> Answer:
    """Ask one question.

    Raises:
        PeerGone, PeerSilent, PeerHidden: as they say.
    """
    with _unconnected() as peer:
        return await _ask_over(peer, path, question)


async def stay(path: Path) -> tuple[Answer, socket.socket]:
    """Ask who is there, over a connection that stays open for as long as both live (`is_open`).

    Raises:
        PeerGone, PeerSilent, PeerHidden: as they say.
    """
    peer = _unconnected()
    try:
        return await _ask_over(peer, path, Question(ask="stay")), peer
    except BaseException:
        peer.close()
        raise


def is_open(line: socket.socket) -> bool:
    """Whether the process at the other end of what `stay` gave still lives."""
    try:
        return line.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _unconnected() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


async def _ask_over(peer: socket.socket, path: Path, question: Question) -> Answer:
    try:
        async with asyncio.timeout(ANSWER_S):
            await asyncio.get_running_loop().sock_connect(peer, str(path))
            await send(peer, question)
            return await receive(peer, Answer)
    except ConnectionRefusedError as exc:
        raise PeerGone(str(path)) from exc
    except FileNotFoundError as exc:
        raise PeerHidden(f"{path}: its file is missing") from exc
    except (OSError, TimeoutError, PeerGone) as exc:
        # It may have ended in this moment: the next question, refused, will prove it.
        raise PeerSilent(f"{path}: {type(exc).__name__}") from exc


def take_sockets(path: Path) -> tuple[socket.socket, Answer, list[socket.socket]]:
    """Ask for the listening sockets; blocks. The connection is kept: it closes, and the other side goes on as before.

    Raises:
        PeerGone, PeerSilent: as they say.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    handed: list[socket.socket] = []
    try:
        peer.settimeout(ANSWER_S * 2)
        peer.connect(str(path))
        body = Question(ask="sockets").model_dump_json().encode()
        peer.sendall(_LENGTH.pack(len(body)) + body)
        prefix, fds, _, _ = socket.recv_fds(
            peer, _LENGTH.size, _MAX_SOCKETS, socket.MSG_CMSG_CLOEXEC
        )
        handed += [socket.socket(fileno=fd) for fd in fds]
        if len(prefix) < _LENGTH.size:
            raise PeerSilent(f"{path}: it closed the connection")
        with peer.makefile("rb") as stream:
            raw = stream.read(_bounded(_LENGTH.unpack(prefix)[0]))
        answer = _parsed(Answer, raw)
        for opened in handed:
            opened.setblocking(False)
        peer.setblocking(False)
        return peer, answer, handed
    except (ConnectionRefusedError, FileNotFoundError) as exc:
        peer.close()
        raise PeerGone(str(path)) from exc
    except (OSError, PeerSilent) as exc:
        for opened in (peer, *handed):
            opened.close()
        raise PeerSilent(f"{path}: {exc}") from exc


async def _exactly(peer: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < size:
        piece = await loop.sock_recv(peer, min(size - len(received), 1 << 16))
        if not piece:
            raise PeerGone("it closed the connection")
        received += piece
    return bytes(received)


def _bounded(length: int) -> int:
    if length > _MAX_BYTES:
        raise PeerSilent(f"a message of {length} bytes")
    return length


def _parsed(kind: type[_Kind], raw: bytes) -> _Kind:
    try:
        return kind.model_validate_json(raw)
    except ValidationError as exc:
        raise PeerSilent("a message that is not understood") from exc
