"""What is particular to the gateway's adapter: its wire, and a gateway that lies."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.protocol import Pool, ServerState
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable
from tests.balance.parts import GatewayProcess, NewServer, endpoint_of

MODEL = ModelName("Qwen/Qwen3-8B")
ENDPOINT = Endpoint("as-teamaaaa-one-1-qwen", "http://127.0.0.1:9", capacity=7, weight=50)


class LyingGateway:
    """A control API at the edge that answers OK to every change and makes none."""

    def __init__(self, path: Path) -> None:
        self.balancer = GatewayBalancer(path, answer_time=timedelta(seconds=0.5))
        self.changes: list[str] = []
        self.page = '{"boot_id": "b", "pools": {}}'
        self.status = 200

    def lists(self, state: str) -> None:
        self.page = (
            f'{{"boot_id": "b", "pools": {{"{MODEL}": {{"aliases": [], "waiting": 0, "endpoints":'
            f' {{"{ENDPOINT.id}": {{"url": "{ENDPOINT.url}", "weight": 50, "max_inflight": 7,'
            f' "state": "{state}", "in_flight": 0}}}}}}}}}}'
        )

    async def state(self, _request: web.Request) -> web.Response:
        return web.Response(status=self.status, text=self.page)

    async def change(self, request: web.Request) -> web.Response:
        self.changes.append(request.path)
        return web.json_response({})


@pytest.fixture
async def lying(folder: Path) -> AsyncIterator[LyingGateway]:
    path = folder / "lying.sock"
    gateway = LyingGateway(path)
    app = web.Application()
    app.router.add_get("/v1/state", gateway.state)
    app.router.add_post("/{change:.*}", gateway.change)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(gateway.balancer.close)
        yield gateway


async def test_a_change_that_was_answered_and_not_made_is_found_out(lying: LyingGateway) -> None:
    for call in (
        lying.balancer.ensure_pool(Pool(MODEL)),
        lying.balancer.register(MODEL, ENDPOINT),
    ):
        with pytest.raises(BalancerUnavailable, match=r"whatever the gateway at .* answered"):
            await call

    lying.lists("active")
    for call in (
        lying.balancer.drain(MODEL, ENDPOINT.id),
        lying.balancer.remove(MODEL, ENDPOINT.id),
        lying.balancer.drop_pool(MODEL),
    ):
        with pytest.raises(BalancerUnavailable, match=r"whatever the gateway at .* answered"):
            await call
    assert lying.changes == [
        *("/v1/pools/put", "/v1/endpoints/add", "/v1/endpoints/drain", "/v1/endpoints/remove"),
        "/v1/pools/remove",
    ]


async def test_registering_what_is_there_sends_nothing(lying: LyingGateway) -> None:
    lying.lists("active")

    await lying.balancer.register(MODEL, ENDPOINT)

    assert lying.changes == []


async def test_draining_what_drains_sends_nothing(lying: LyingGateway) -> None:
    lying.lists("draining")

    await lying.balancer.drain(MODEL, ENDPOINT.id)

    assert lying.changes == []


@pytest.mark.parametrize("page", ["", "[]", "{}", '{"boot_id": 3, "pools": []}', "<html>"])
async def test_a_page_that_is_no_gateways_is_refused(lying: LyingGateway, page: str) -> None:
    lying.page = page

    with pytest.raises(BalancerUnavailable, match="is not a gateway's state"):
        await lying.balancer.report(MODEL)


async def test_a_refusal_carries_what_the_gateway_said(lying: LyingGateway) -> None:
    lying.status, lying.page = 503, "out of breath"

    with pytest.raises(BalancerUnavailable, match="HTTP 503 out of breath"):
        await lying.balancer.report(MODEL)


async def test_a_model_that_is_not_known_yet_cannot_be_registered_with(folder: Path) -> None:
    process = GatewayProcess(folder)
    await process.start()
    balancer = GatewayBalancer(process.control)
    try:
        with pytest.raises(BalancerUnavailable, match="no pool 'Qwen/Qwen3-8B'"):
            await balancer.register(MODEL, ENDPOINT)
        assert (await balancer.report(MODEL)).servers == ()
    finally:
        await balancer.close()
        await process.stop()


async def test_a_server_that_refuses_connections_is_down_until_it_answers(
    folder: Path, new_server: NewServer
) -> None:
    process = GatewayProcess(folder)
    await process.start()
    balancer = GatewayBalancer(process.control)
    server = await new_server()
    endpoint = endpoint_of(server, "one")
    await server.stop()
    try:
        await balancer.ensure_pool(Pool(MODEL, aliases=("qwen",), hold_time=timedelta(seconds=0.3)))
        await balancer.register(MODEL, endpoint)
        assert (await process.ask("qwen")).status == 503

        reported = (await balancer.report(MODEL)).server(endpoint.id)
        assert reported is not None
        assert reported.state is ServerState.DOWN
    finally:
        await balancer.close()
        await process.stop()


async def test_an_older_process_that_does_not_say_what_it_has_is_no_zero(
    lying: LyingGateway,
) -> None:
    lying.lists("draining")
    told = ', "predecessors": [{"fresh": true}, {"fresh": false}]}'
    lying.page = lying.page[:-1] + told

    report = await lying.balancer.report(MODEL)

    assert report.old_processes == 1
