"""A real HAProxy in front, configured as we ship it: a reload that forgets, a drain that loses nothing."""

from __future__ import annotations

import asyncio

import pytest

from tests.balance.parts import HaproxyProcess
from tests.e2e.world import World

pytestmark = pytest.mark.e2e

SHIPPED_MODEL = "Qwen/Qwen3-8B"  # the one that the shipped configuration has a backend for


async def test_nodes_serve_through_haproxy_over_a_reload_and_leave_it_without_a_loss(
    cloud: World,
) -> None:
    haproxy = HaproxyProcess(cloud.directory, cloud.gateway)
    await haproxy.start()
    try:
        cloud.config_edits = {
            "balancer": "haproxy",
            "haproxy": [
                {"socket": str(haproxy.socket_path), "master_socket": str(haproxy.master_path)}
            ],
        }
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 0, "max": 2})
        await cloud.start_daemon()

        held = await cloud.ask(SHIPPED_MODEL, base=haproxy.url)
        assert held.whole, (held, cloud.logs())
        (node,) = await cloud.ready()
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 1, "max": 2})
        await _is_listed(cloud, haproxy, node["name"])

        await haproxy.forget()
        await _is_listed(cloud, haproxy, node["name"])
        passed = await asyncio.gather(
            *(cloud.ask(SHIPPED_MODEL, base=haproxy.url) for _ in range(10))
        )
        assert all(answer.whole for answer in passed)

        streams = await cloud.streams(4, tokens=500, base=haproxy.url, model=SHIPPED_MODEL)
        assert (await cloud.command("retire", SHIPPED_MODEL, "--yes")).code == 0
        answers = await asyncio.gather(*streams)
        assert [(a.whole, a.tokens) for a in answers] == [(True, 500)] * 4, answers
        await cloud.is_empty()
        assert node["name"] not in await _servers(haproxy)
    finally:
        await haproxy.stop()


async def _is_listed(there: World, haproxy: HaproxyProcess, name: str) -> None:
    async def listed() -> bool:
        return name in await _servers(haproxy)

    await there.until(listed, f"HAProxy has {name}")


async def _servers(haproxy: HaproxyProcess) -> str:
    reader, writer = await asyncio.open_unix_connection(str(haproxy.socket_path))
    writer.write(b"show servers state\n")
    await writer.drain()
    text = (await reader.read()).decode()
    writer.close()
    return text
