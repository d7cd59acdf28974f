"""The pages that programs read: too many connections are refused, and a head that comes too slowly ends one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from autoscaler.bounded_http import BoundedPage, Bounds
from autoscaler.serve.server import Server
from tests.world.files import free_port

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_ASK = b"GET /nope HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@asynccontextmanager
async def page(bounds: Bounds) -> AsyncIterator[tuple[BoundedPage, int]]:
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    assert runner.server is not None
    made = BoundedPage(runner.server, bounds)
    listener = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    try:
        yield made, listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await runner.cleanup()


async def ask(client: Client) -> bytes:
    reader, writer = client
    writer.write(_ASK)
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        await reader.readexactly(length)
    return head.split()[1]


async def gone(client: Client) -> bytes:
    reader, writer = client
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()  # else the socket may outlive the loop


async def test_one_connection_too_many_is_told_so_and_the_others_are_served() -> None:
    async with page(Bounds(connections=2)) as (made, port):
        first, second = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert await ask(first) == await ask(second) == b"404"

        refused = await gone(await asyncio.open_connection("127.0.0.1", port))
        assert await ask(first) == b"404"
        second[1].close()
        async with asyncio.timeout(20):
            while len(made.connections) > 1:  # noqa: ASYNC110 - the server's end has no event
                await asyncio.sleep(0.01)
        late = await asyncio.open_connection("127.0.0.1", port)
        assert await ask(late) == b"404"
        for _, writer in (first, late):
            writer.close()

    assert refused.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 5" in refused
    assert b"too many connections" in refused


@pytest.mark.parametrize("sent", [b"", b"GET /nope HTTP/1.1\r\nHost"])
async def test_a_head_that_does_not_come_in_time_ends_the_connection(sent: bytes) -> None:
    async with page(Bounds(header_timeout_s=0.2)) as (made, port):
        silent = await asyncio.open_connection("127.0.0.1", port)
        silent[1].write(sent)
        assert await gone(silent) == b""

    assert not made.connections


async def test_between_two_requests_and_while_one_is_answered_no_head_is_owed() -> None:
    async with page(Bounds(header_timeout_s=0.3)) as (_, port):
        client = await asyncio.open_connection("127.0.0.1", port)
        assert await ask(client) == b"404"
        await asyncio.sleep(0.6)
        assert await ask(client) == b"404"
        client[1].write(_ASK[:10])
        assert await gone(client) == b""


async def test_the_daemons_own_port_and_socket_take_100_connections_each(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "daemon.sock"
    serve = SimpleNamespace(listen=f"127.0.0.1:{port}")
    daemon: Any = SimpleNamespace(config=SimpleNamespace(serve=serve, socket=path))
    server = Server(daemon)
    running = asyncio.create_task(server.run())
    await asyncio.wait_for(server.listening.wait(), 20)
    many = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
    assert await ask(many[-1]) == b"404"

    refused = await gone(await asyncio.open_connection("127.0.0.1", port))
    by_socket = await asyncio.open_unix_connection(path)
    served = await ask(by_socket)
    for _, writer in (*many, by_socket):
        writer.close()
    running.cancel()
    await asyncio.wait((running,))

    assert refused.startswith(b"HTTP/1.1 503")
    assert served == b"404"
    assert not path.exists()
