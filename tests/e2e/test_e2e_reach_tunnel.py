"""The way to nodes through tunnels: no port open but SSH, and no stream that minds what becomes of the daemon."""

from __future__ import annotations

import asyncio
import signal

import pytest

from autoscaler.nodes.tunnel_client import TunnelClient
from tests.e2e.world import World
from tests.tunnels.tunnel_parts import free_range

pytestmark = pytest.mark.e2e

CONFIG = {"reach": "tunnel", "firewall": {"sources": []}}


async def start_tunnels(there: World, ports: str) -> TunnelClient:
    control = there.directory / "run" / "tunnels.sock"
    control.unlink(missing_ok=True)
    await there.spawn(
        "tunnels", "tunnels", "--control", str(control), "--key-file", "state/ssh_key",
        "--state", "tunnels.json", "--ports", ports,
    )  # fmt: skip

    async def up() -> bool:
        return control.exists()

    await there.until(up, "the tunnels' process is up")
    return TunnelClient(control)


async def with_a_node(there: World, ports: str) -> TunnelClient:
    there.config_edits = CONFIG
    there.write_policy(nodes={"min": 1, "max": 2})
    await there.start_daemon()  # which makes the key
    return await start_tunnels(there, ports)


async def _says(there: World, words: str) -> bool:
    """Whether the status has these words among what is wrong."""
    trouble: list[str] = (await there.get("/api/v1/status"))["trouble"]
    return any(words in text for text in trouble)


@pytest.fixture
def ports() -> str:
    first = free_range(16)
    return f"{first}-{first + 15}"


async def test_a_request_at_zero_is_held_until_there_are_tunnels_and_answered_through_one(
    cloud: World, ports: str
) -> None:
    cloud.config_edits = CONFIG
    cloud.write_policy()
    await cloud.start_daemon()
    asked = asyncio.create_task(cloud.ask(stream=True))
    await cloud.until(lambda: _says(cloud, "a new node could not be reached"), "it says what lacks")
    assert await cloud.created_names() == []

    client = await start_tunnels(cloud, ports)

    answer = await asked
    assert answer.whole, (answer, cloud.logs())
    (node,) = await cloud.nodes()
    assert answer.node == node["name"]
    (tunnel,) = (await client.listing()).values()
    assert node["endpoints"] == [f"http://127.0.0.1:{tunnel.local_port}"]
    assert tunnel.address == node["address"]
    assert await cloud.calls("create_firewall_rule") == []
    await cloud.is_empty()
    assert not await client.listing()


async def test_streams_outlive_a_killed_daemon_and_the_next_one_takes_the_node_up(
    cloud: World, ports: str
) -> None:
    client = await with_a_node(cloud, ports)
    (node,) = await cloud.ready()
    before = await client.listing()
    streams = await cloud.streams(24, tokens=300)

    await cloud.end("daemon", signal.SIGKILL)
    alone = await cloud.ask()
    await cloud.start_daemon()
    answers = await asyncio.gather(*streams)

    assert [answer.whole for answer in answers] == [True] * 24, cloud.logs()
    assert alone.node == node["name"]
    await cloud.ready()
    assert [n["name"] for n in await cloud.nodes()] == [node["name"]]
    after = await client.listing()
    assert {t.local_port for t in after.values()} == {t.local_port for t in before.values()}


async def test_no_node_is_given_up_for_tunnels_that_are_away_and_they_come_back_as_they_were(
    cloud: World, ports: str
) -> None:
    await with_a_node(cloud, ports)
    (node,) = await cloud.ready()

    await cloud.end("tunnels", signal.SIGKILL)
    held = asyncio.create_task(cloud.ask())  # so that the gateway finds the node's port shut

    unit = "systemctl start autoscaler-tunnels"
    await cloud.until(lambda: _says(cloud, unit), "the status names the unit")
    assert "autoscaler_tunnels_away 1.0" in await cloud.metrics()
    await _liveness_was_looked_at(cloud)
    assert [n["state"] for n in await cloud.nodes()] == ["ready"]
    (cloud.directory / "tunnels.json").unlink()  # and what it was told is lost
    client = await start_tunnels(cloud, ports)

    async def is_up() -> bool:
        return [t.state for t in (await client.listing()).values()] == ["up"]

    await cloud.until(is_up, "the daemon has told it again")

    answer = await held
    assert (answer.whole, answer.node) == (True, node["name"]), cloud.logs()
    assert len(await cloud.created_names()) == 1


async def _liveness_was_looked_at(there: World) -> None:
    """Wait well past the moment at which a node that failed every look would have been given up."""
    passed = len(await there.calls("list_vms"))

    async def long_enough() -> bool:
        return len(await there.calls("list_vms")) >= passed + 4

    await there.until(long_enough, "four more sweeps")
