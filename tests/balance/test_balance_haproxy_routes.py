"""The configurations that operators copy: by path, by host, by header, and the gateway before or behind HAProxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.haproxy import HaproxyBalancer, HaproxySettings
from autoscaler.balance.protocol import Pool
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.gateway.paths import INFERENCE
from tests.balance.parts import (
    DEADLINE_S,
    GatewayProcess,
    HaproxyProcess,
    ModelServer,
    NewServer,
    endpoint_of,
    haproxy_binary,
)
from tests.world.files import free_port
from tests.world.haproxy import PATHS, SHIPPED, edited

MODEL = ModelName("Qwen/Qwen3-8B")
PORTS = {"route-by-path": 8081, "route-by-host": 8082, "route-by-header": 8083}
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "route-by-path": ("/qwen3-8b", {}),
    "route-by-host": ("", {"Host": "qwen3-8b.ai.example.com:8082"}),
    "route-by-header": ("", {"X-Model": MODEL}),
}
NOBODY: dict[str, tuple[str, dict[str, str]]] = {
    "route-by-path": ("/nobody", {}),
    "route-by-host": ("", {"Host": "nobody.ai.example.com"}),
    "route-by-header": ("", {}),
}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as made:
        yield made


def route(name: str, port: int) -> str:
    """A shipped file of routes, on a port of this test's."""
    path = SHIPPED / f"{name}.cfg"
    return edited(
        path.read_text(),
        (f"bind :{PORTS[name]}", f"bind 127.0.0.1:{port}"),
        ("/etc/haproxy/models.map", str(SHIPPED / "models.map")),
        PATHS,
        source=path,
    )


@pytest.mark.parametrize("name", sorted(PORTS))
async def test_requests_are_routed_as_the_file_says_whatever_their_size(
    folder: Path, new_server: NewServer, session: aiohttp.ClientSession, name: str
) -> None:
    activator, node = await new_server(), await new_server()
    port = free_port()
    haproxy = HaproxyProcess(folder, activator.url, routes=(route(name, port),))
    await haproxy.start()
    try:
        await _serve(haproxy, node)
        prefix, headers = WAYS[name]
        url = f"http://127.0.0.1:{port}{prefix}/v1/completions"
        # names no model, and is larger than HAProxy's buffer
        answers = [
            await _ask(session, url, headers, {"prompt": "x" * size}) for size in (10, 1_000_000)
        ]
        lost_prefix, lost_headers = NOBODY[name]
        lost = f"http://127.0.0.1:{port}{lost_prefix}/v1/completions"
        status, text = await _ask(session, lost, lost_headers, {"prompt": "x", "model": MODEL})
        served = node.served
        ruled = [
            await _ask(session, url.replace("/v1/completions", path), headers, {"model": MODEL})
            for path in (
                "/sleep",
                "/v1/load_lora_adapter",
                "/slots/0",
                "/metrics",
                "/v1//completions",
            )
        ]
        front = f"{haproxy.url}/sleep"
        ruled.append(await _ask(session, front, {"x-model": MODEL}, {"model": MODEL}))
    finally:
        await haproxy.stop()

    assert [answer[0] for answer in answers] == [200, 200]
    assert all(node.url in answer[1] for answer in answers)
    assert (status, json.loads(text)["error"]["code"]) == (404, 404)
    assert [json.loads(text)["error"]["code"] for _, text in ruled] == ["unknown_url"] * 6
    assert node.served == served


def test_haproxy_lets_clients_ask_what_the_gateway_does_and_the_list_of_models() -> None:
    lines = (SHIPPED / "paths.lst").read_text().splitlines()

    assert {line for line in lines if not line.startswith("#")} == INFERENCE | {"/v1/models"}


@pytest.mark.parametrize("names", [(name,) for name in sorted(PORTS)] + [tuple(sorted(PORTS))])
async def test_haproxy_finds_nothing_to_say_against_the_shipped_files(
    folder: Path, names: tuple[str, ...]
) -> None:
    routes = tuple(route(name, free_port()) for name in names)
    haproxy = HaproxyProcess(folder, "http://127.0.0.1:8000", routes=routes)

    check = await asyncio.create_subprocess_exec(
        *(haproxy_binary(), "-c", *haproxy.write()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await check.communicate()

    assert check.returncode == 0, said.decode()
    assert "WARNING" not in said.decode()


async def test_behind_haproxy_the_gateway_holds_requests_until_a_node_is_there(
    folder: Path, new_server: NewServer, session: aiohttp.ClientSession
) -> None:
    node = await new_server()
    gateway = GatewayProcess(folder)
    await gateway.start()
    haproxy = HaproxyProcess(folder, gateway.url)
    behind = GatewayBalancer(gateway.control)
    try:
        await haproxy.start()
        await behind.ensure_pool(Pool(MODEL))
        held = asyncio.create_task(_ask_by_body(session, haproxy.url))
        await _waits(behind)

        await behind.register(MODEL, endpoint_of(node, "one"))
        answer = await held
        await _serve(haproxy, node)
        direct = await _ask_by_body(session, haproxy.url)
    finally:
        await behind.close()
        await haproxy.stop()
        await gateway.stop()

    assert (answer[0], direct[0]) == (200, 200)
    assert node.url in answer[1]
    assert node.url in direct[1]


async def test_before_haproxy_the_gateway_sends_to_it_as_to_a_node_and_held_requests_come_back(
    folder: Path, new_server: NewServer, session: aiohttp.ClientSession
) -> None:
    """Clients → front gateway → HAProxy → its own activator or a node, with one model's name all the way."""
    node = await new_server()
    door, activator = (folder / "door"), (folder / "activator")
    for path in (door, activator):
        path.mkdir()
    front, held_by = GatewayProcess(door), GatewayProcess(activator)
    await front.start()
    await held_by.start()
    haproxy = HaproxyProcess(folder, held_by.url)
    before, behind = GatewayBalancer(front.control), GatewayBalancer(held_by.control)
    try:
        await haproxy.start()
        for balancer in (before, behind):
            await balancer.ensure_pool(Pool(MODEL))
        await before.register(MODEL, Endpoint("haproxy", haproxy.url, 4096, 1))
        held = asyncio.create_task(_ask_by_body(session, front.url))
        await _waits(behind)

        await behind.register(MODEL, endpoint_of(node, "one"))
        answer = await held
        await _serve(haproxy, node)
        direct = await _ask_by_body(session, front.url)
        unknown = await _ask(session, f"{front.url}/v1/completions", {}, {"model": "nobody"})
    finally:
        for balancer in (before, behind):
            await balancer.close()
        await haproxy.stop()
        await front.stop()
        await held_by.stop()

    assert (answer[0], direct[0], unknown[0]) == (200, 200, 404)
    assert node.url in answer[1]
    assert node.url in direct[1]


async def _serve(haproxy: HaproxyProcess, node: ModelServer) -> None:
    """Put a node behind HAProxy and wait until it takes requests there."""
    balancer = HaproxyBalancer(HaproxySettings(haproxy.socket_path, haproxy.master_path))
    endpoint = endpoint_of(node, "one")
    await balancer.ensure_pool(Pool(MODEL))
    await balancer.register(MODEL, endpoint)


async def _waits(gateway: GatewayBalancer) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await gateway.report(MODEL)).waiting == 0:  # noqa: ASYNC110 -- asked over a socket
            await asyncio.sleep(0.01)


async def _ask_by_body(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    return await _ask(session, f"{url}/v1/completions", {}, {"model": MODEL, "prompt": "hello"})


async def _ask(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], body: dict[str, str]
) -> tuple[int, str]:
    async with session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.text()
