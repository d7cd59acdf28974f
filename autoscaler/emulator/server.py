"""The emulated cloud behind HTTP, on loopback."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from aiohttp import web

from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.http import ConnectionDropped, Request

BODY_LIMIT_BYTES = 1024 * 1024
_BLOCKS = range(20, 84)
_CLAIM_PORT = 2221


class ListenFailed(Exception):
    """The address cannot be listened on. The message says why and what to do."""


@contextlib.asynccontextmanager
async def serving(emulator: Emulator, host: str, port: int) -> AsyncIterator[str]:
    """Serve a started emulator at `host`:`port` (0: any free port); gives the API's base URL.

    Raises:
        ListenFailed: not loopback, or the port is in use.
    """
    check_loopback(host)
    app = web.Application(client_max_size=BODY_LIMIT_BYTES)
    app.router.add_route("*", "/{path:.*}", _adapter(emulator))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as exc:
            raise ListenFailed(
                f"cannot listen on {host}:{port}: {exc.strerror}; choose another port, or 0 for "
                "any free one"
            ) from exc
        bound = runner.addresses[0]
        yield f"http://{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()


def check_loopback(host: str) -> None:
    """Refuse any other interface: whoever reaches the emulator runs commands on this machine.

    Raises:
        ListenFailed: `host` is no loopback address.
    """
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ListenFailed(
            f"cannot listen on {host!r}: the emulator serves loopback only, use 127.0.0.1"
        )


@contextlib.contextmanager
def claimed_block() -> Iterator[str]:
    """Claim a /16 of loopback for this emulator's machines, so that two emulators never collide.

    The claim is a bound socket: the kernel gives it up however this process ends.

    Raises:
        ListenFailed: every block is taken.
    """
    for second in _BLOCKS:
        claim = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            claim.bind((f"127.{second}.255.254", _CLAIM_PORT))
        except OSError:
            claim.close()
            continue
        with claim:
            yield f"127.{second}.0.0/16"
            return
    raise ListenFailed("every address block is taken: name one with --address-block")


def _adapter(emulator: Emulator) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        call = Request(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
            peer=request.remote or "",
        )
        try:
            answer = await emulator.handle(call)
        except ConnectionDropped:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=499)
        return web.Response(
            status=answer.status,
            body=answer.body,
            headers={**answer.headers, "Content-Type": answer.content_type},
        )

    return handle


def parse_listen(text: str) -> tuple[str, int]:
    """Read `127.0.0.1:8080`, or a port alone.

    Raises:
        ListenFailed: neither.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ListenFailed(f"--listen is {text!r}: must be a port, or 127.0.0.1:PORT")
    return host or "127.0.0.1", int(port)
