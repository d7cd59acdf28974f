"""What every balancer does, asked of a real HAProxy and of the real gateway."""

from __future__ import annotations

import asyncio

import pytest
from autoscaler.balance.protocol import ServerState
from autoscaler.errors import BalancerUnavailable
from tests.balance.parts import Balancing, NewServer, endpoint_of


async def test_a_registered_server_is_up_and_gets_the_traffic(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "one", capacity=7, weight=50)

    await balancing.balancer.register(balancing.model, endpoint)

    await balancing.is_up(endpoint)
    reported = await balancing.server(endpoint)
    assert (reported.url, reported.weight, reported.in_flight) == (server.url, 50, 0)
    answer = await balancing.clients.ask()
    assert answer.is_whole
    assert server.url in answer.text


async def test_a_drained_server_ends_its_streams_and_gets_nothing_new(
    balancing: Balancing, new_server: NewServer
) -> None:
    leaving, staying = await new_server(), await new_server()
    gone, kept = endpoint_of(leaving, "gone"), endpoint_of(staying, "kept")
    await balancing.serve(gone, kept)
    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(balancing.clients.ask(is_long=True)) for _ in range(12)]
        await balancing.until(lambda: leaving.in_flight + staying.in_flight == 12)

        await balancing.balancer.drain(balancing.model, gone.id)

        assert (await balancing.server(gone)).state is ServerState.DRAINING
        assert (await balancing.server(gone)).in_flight == leaving.in_flight > 0
        assert (await balancing.server(kept)).in_flight == staying.in_flight
        served = leaving.served
        later = [await balancing.clients.ask() for _ in range(10)]
        assert all(answer.is_whole for answer in later)
        assert leaving.served == served
        leaving.may_end.set()
        await balancing.is_idle(gone)
        await balancing.balancer.remove(balancing.model, gone.id)
        staying.may_end.set()
    assert all(stream.result().is_whole for stream in streams)
    report = await balancing.balancer.report(balancing.model)
    assert report.server(gone.id) is None


async def test_forgetting_or_draining_what_is_unknown_is_no_error(balancing: Balancing) -> None:
    await balancing.balancer.drain(balancing.model, "as-teamaaaa-never-1-qwen")
    await balancing.balancer.remove(balancing.model, "as-teamaaaa-never-1-qwen")

    assert (await balancing.balancer.report(balancing.model)).servers == ()


async def test_a_server_with_requests_in_flight_is_not_removed(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "busy")
    await balancing.serve(endpoint)
    async with asyncio.TaskGroup() as tasks:
        stream = tasks.create_task(balancing.clients.ask(is_long=True))
        await balancing.until(lambda: server.in_flight == 1)
        await balancing.balancer.drain(balancing.model, endpoint.id)

        with pytest.raises(BalancerUnavailable, match="1 requests in flight"):
            await balancing.balancer.remove(balancing.model, endpoint.id)

        server.may_end.set()
    assert stream.result().is_whole
    assert (await balancing.balancer.report(balancing.model)).server(endpoint.id) is not None


async def test_registering_a_draining_server_brings_it_back(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "wanted")
    await balancing.serve(endpoint)
    await balancing.balancer.drain(balancing.model, endpoint.id)

    await balancing.balancer.register(balancing.model, endpoint)

    await balancing.is_up(endpoint)
    assert (await balancing.clients.ask()).is_whole
    assert server.served == 1
