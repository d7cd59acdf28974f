"""The way to model servers through tunnels, as a node's life asks for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from autoscaler.clock import SystemClock
from autoscaler.domain import node as domain
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.machine import Machine
from autoscaler.domain.node import State
from autoscaler.errors import NodeUnreachable, ReachUnavailable
from autoscaler.nodes.tunnel_client import TunnelClient
from autoscaler.nodes.tunnel_reach import TunnelReach
from autoscaler.policy import Policy
from autoscaler.tunnels.values import TunnelsSettings
from tests.nodes.life_parts import machine_of
from tests.nodes.vm_parts import node as node_row
from tests.nodes.vm_parts import offer
from tests.nodes.vm_parts import policy as policy_of
from tests.tunnels.conftest import Connect, Start
from tests.tunnels.tunnel_parts import HERE, Node, public


@pytest.fixture
def policy(node: Node) -> Policy:
    return policy_of(server={"port": node.server.port})


@pytest.fixture
def reach(settings: TunnelsSettings, node: Node, policy: Policy) -> TunnelReach:
    return TunnelReach(
        client=TunnelClient(settings.control),
        user="ubuntu",
        port=node.port,
        mark="as1-abcdefgh-",
        policies=lambda: {ModelName(policy.model): policy},
        clock=SystemClock(),
        fresh=timedelta(0),
    )


@pytest.fixture
def row(node: Node, policy: Policy) -> domain.Node:
    return node_row(policy, offer(1), HERE, host_key=public(node.host_key))


@pytest.fixture
def listed(row: domain.Node) -> Machine:
    return machine_of(row)


async def test_a_node_is_reached_at_a_local_port_and_again_at_the_same(
    start: Start,
    connect: Connect,
    reach: TunnelReach,
    row: domain.Node,
    listed: Machine,
    policy: Policy,
) -> None:
    running = await start()

    (endpoint,) = await reach.endpoints(row, listed, policy)
    again = await reach.endpoints(row, listed, policy)

    assert again == (endpoint,)
    await running.in_state("up", endpoint.id)
    parts = urlsplit(endpoint.url)
    assert (parts.scheme, parts.hostname) == ("http", HERE)
    client = await connect(parts.port or 0)
    await client.says(b"x", hears=b"hello x")


async def test_no_serving_port_is_opened(reach: TunnelReach) -> None:
    assert reach.ports_to_open([8000, 8001]) == ()


async def test_a_process_that_forgot_everything_is_told_again_with_the_same_port(
    start: Start,
    settings: TunnelsSettings,
    reach: TunnelReach,
    row: domain.Node,
    listed: Machine,
    policy: Policy,
) -> None:
    before = await start(state_file=None)
    endpoints = await reach.endpoints(row, listed, policy)
    await before.kill()
    after = await start(state_file=None, first_port=settings.first_port)
    assert not await after.client.listing()

    await reach.keep(replace(row, endpoints=endpoints))

    (told,) = (await after.client.listing()).values()
    assert f"http://{HERE}:{told.local_port}" == endpoints[0].url
    assert told.remote_port == policy.server.port


async def test_a_tunnel_that_is_down_speaks_against_a_ready_node_and_not_against_a_booting_one(
    start: Start,
    node: Node,
    reach: TunnelReach,
    row: domain.Node,
    listed: Machine,
    policy: Policy,
) -> None:
    await node.server.stop()
    running = await start()
    endpoints = await reach.endpoints(row, listed, policy)
    await running.in_state("down", endpoints[0].id)

    await reach.keep(replace(row, endpoints=endpoints))
    with pytest.raises(NodeUnreachable, match="SSH works, port") as failure:
        await reach.keep(replace(row, endpoints=endpoints, state=State.READY))

    assert not isinstance(failure.value, ReachUnavailable)


async def closed(name: NodeName) -> bool:
    """Every node has a closed row but one, of which the store knows nothing."""
    return "lost" not in name


async def test_a_process_that_is_away_says_nothing_of_the_node_and_is_told_of_once(
    start: Start, reach: TunnelReach, row: domain.Node, listed: Machine, policy: Policy
) -> None:
    running = await start()
    endpoints = await reach.endpoints(row, listed, policy)
    await running.kill()

    with pytest.raises(ReachUnavailable):
        await reach.keep(replace(row, endpoints=endpoints, state=State.READY))
    await reach.close(replace(row, endpoints=endpoints))  # holds up no deletion
    await reach.tend((), closed)
    assert reach.trouble is not None
    assert "systemctl start autoscaler-tunnels" in reach.trouble

    await start()
    await reach.tend((), closed)
    assert reach.trouble is None


async def test_a_node_that_goes_takes_its_tunnel_with_it(
    start: Start, reach: TunnelReach, row: domain.Node, listed: Machine, policy: Policy
) -> None:
    running = await start()
    endpoints = await reach.endpoints(row, listed, policy)

    await reach.close(replace(row, endpoints=endpoints))

    assert not await running.client.listing()


async def test_tunnels_of_nodes_that_are_no_more_go_at_the_second_look_and_others_stay(
    start: Start, node: Node, reach: TunnelReach
) -> None:
    running = await start()
    for name in ("as1-abcdefgh-old", "as1-abcdefgh-new", "as1-abcdefgh-lost", "as1-stranger-one"):
        await running.client.put(node.wish(name))

    await reach.tend({"as1-abcdefgh-new"}, closed)
    after_one = set(await running.client.listing())
    await reach.tend({"as1-abcdefgh-new"}, closed)

    assert len(after_one) == 4
    left = {"as1-abcdefgh-new", "as1-abcdefgh-lost", "as1-stranger-one"}
    assert set(await running.client.listing()) == left


async def test_a_local_port_that_another_process_took_is_named(
    start: Start,
    settings: TunnelsSettings,
    node: Node,
    reach: TunnelReach,
    row: domain.Node,
    listed: Machine,
    policy: Policy,
) -> None:
    before = await start(state_file=None)
    endpoints = await reach.endpoints(row, listed, policy)
    await before.kill()
    after = await start(state_file=None)
    await after.client.put(node.wish("as1-abcdefgh-other"))  # takes the first port

    with pytest.raises(NodeUnreachable, match="another process's now"):
        await reach.keep(replace(row, endpoints=endpoints, state=State.READY))


async def test_a_node_that_was_made_with_another_way_is_left_alone(
    start: Start, reach: TunnelReach, row: domain.Node
) -> None:
    running = await start()
    direct = domain.Endpoint(row.name, "http://203.0.113.9:8000", 1, 1)

    await reach.keep(replace(row, endpoints=(direct,), state=State.READY))
    await reach.close(replace(row, endpoints=(direct,)))

    assert not await running.client.listing()
