"""The warm-up as the gateway sends it: a real gateway, and servers that it reaches, or does not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.domain.node import Endpoint
from autoscaler.errors import NodeUnreachable, ReachUnavailable
from autoscaler.front_door import GatewayDoor
from autoscaler.nodes.pki import make_authority
from autoscaler.nodes.verify_http import Answer, PortClosed, TlsRefused
from tests.balance.parts import Balancing, NewServer, endpoint_of
from tests.balance.tls_parts import TlsServer
from tests.world.files import free_port

NOW = datetime.now(UTC)
OURS, THEIRS = make_authority(NOW), make_authority(NOW)
NAME = "as-teamaaaa-one-1-qwen"
Ask = Callable[[str], Awaitable[Answer]]


@pytest.fixture
async def ask(
    start_gateway: Callable[[], Awaitable[Balancing]],
) -> AsyncIterator[Ask]:
    """Have the gateway ask one server for a completion."""
    gateway = GatewayBalancer((await start_gateway()).control, authority=OURS.pem)

    async def once(url: str) -> Answer:
        door = GatewayDoor(gateway, Endpoint(NAME, url, 1, 1))
        return await door.ask(f"{url}/v1/completions", timeout_s=2.0, payload={"prompt": "ready?"})

    yield once
    await gateway.close()


async def test_the_gateway_sends_the_warm_up_and_brings_the_answer(
    ask: Ask, new_server: NewServer
) -> None:
    server = await new_server()

    answer = await ask(server.url)

    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.seconds > 0
    assert server.served == 1


async def test_the_warm_up_takes_the_tls_of_clients_requests(ask: Ask) -> None:
    with TlsServer.of(OURS, f"{NAME}.autoscaler.internal", NOW) as server:
        assert (await ask(server.url)).status == 200


async def test_a_wrong_certificate_is_told_apart_from_a_closed_port(ask: Ask) -> None:
    old = NOW - timedelta(days=9)
    with TlsServer.of(OURS, "as-teamaaaa-two-1-qwen.autoscaler.internal", NOW) as server:
        with pytest.raises(TlsRefused, match="another machine's"):
            await ask(server.url)
        assert server.served == 0
    with (
        TlsServer.of(OURS, f"{NAME}.autoscaler.internal", old) as server,
        pytest.raises(TlsRefused, match="from the gateway: its certificate has expired"),
    ):
        await ask(server.url)
    with (
        TlsServer.of(THEIRS, f"{NAME}.autoscaler.internal", NOW) as server,
        pytest.raises(TlsRefused, match="another authority"),
    ):
        await ask(server.url)
    with pytest.raises(PortClosed, match="from the gateway"):
        await ask(f"http://127.0.0.1:{free_port()}")


async def test_a_server_that_says_nothing_or_too_much_holds_nobody_up(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with pytest.raises(NodeUnreachable, match="no answer within 2 s") as silent:
            await ask(f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert isinstance(silent.value.__cause__, TimeoutError)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 8_000_000)
        writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as flooding:
        port = flooding.sockets[0].getsockname()[1]
        with pytest.raises(NodeUnreachable, match="from the gateway"):
            await ask(f"http://127.0.0.1:{port}")


async def test_a_gateway_that_is_away_says_nothing_of_the_node(
    tmp_path: Path, new_server: NewServer
) -> None:
    gateway = GatewayBalancer(tmp_path / "none.sock")
    server = await new_server()
    door = GatewayDoor(gateway, endpoint_of(server, "one"))

    with pytest.raises(ReachUnavailable, match="waits for the gateway"):
        await door.ask(f"{server.url}/v1/completions", timeout_s=2.0, payload={})

    await gateway.close()
