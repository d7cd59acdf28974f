"""Servers that speak TLS, behind a real HAProxy and the real gateway: verified, or not asked at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.haproxy import HaproxyBalancer, HaproxySettings
from autoscaler.balance.protocol import PoolReport, ServerState
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable
from autoscaler.nodes.pki import Authority, make_authority
from tests.balance.parts import Balancing, HaproxyProcess
from tests.balance.tls_parts import TlsServer

NOW = datetime.now(UTC)
OURS, THEIRS = make_authority(NOW), make_authority(NOW)
Serve = Callable[..., tuple[TlsServer, Endpoint]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server whose certificate is that of a node."""
    with contextlib.ExitStack() as stack:

        def start(
            name: str, *, shows: str = "", by: Authority = OURS, made: datetime = NOW
        ) -> tuple[TlsServer, Endpoint]:
            host_name = f"as-teamaaaa-{shows or name}-1-qwen.autoscaler.internal"
            server = stack.enter_context(TlsServer.of(by, host_name, made))
            return server, Endpoint(f"as-teamaaaa-{name}-1-qwen", server.url, 100, 100)

        yield start


@pytest.fixture
async def trusting(balancing: Balancing) -> AsyncIterator[Balancing]:
    """Each balancer in turn, driven by a daemon with an authority of its own."""
    if isinstance(balancing.process, HaproxyProcess):
        balancing.balancer = HaproxyBalancer(
            HaproxySettings(
                balancing.process.socket_path,
                check_interval=timedelta(seconds=0.2),
                authority=OURS.pem,
            )
        )
        yield balancing
    else:
        gateway = GatewayBalancer(balancing.control, authority=OURS.pem)
        balancing.balancer = gateway
        yield balancing
        await gateway.close()


async def test_a_node_with_its_own_certificate_serves_over_tls(
    trusting: Balancing, serve: Serve
) -> None:
    server, endpoint = serve("one")

    await trusting.serve(endpoint)

    assert (await trusting.server(endpoint)).url == server.url
    answers = [await trusting.clients.ask() for _ in range(3)]
    assert all(answer.is_whole and server.url in answer.text for answer in answers), answers


async def test_registering_again_changes_nothing_and_after_a_restart_all_is_told_anew(
    trusting: Balancing, serve: Serve
) -> None:
    _, endpoint = serve("one")
    await trusting.serve(endpoint)
    await trusting.clients.ask()

    await trusting.balancer.register(trusting.model, endpoint)
    await trusting.process.forget()
    await trusting.serve(endpoint)

    assert (await trusting.clients.ask()).is_whole


@pytest.mark.parametrize("fault", ["another node's", "another authority's", "expired"])
async def test_a_wrong_certificate_gets_no_request(
    trusting: Balancing, serve: Serve, fault: str
) -> None:
    right, good = serve("good")
    match fault:
        case "another node's":
            wrong, bad = serve("bad", shows="other")
        case "another authority's":
            wrong, bad = serve("bad", by=THEIRS)
        case _:
            wrong, bad = serve("bad", made=NOW - timedelta(days=9))
    await trusting.serve(good)

    await trusting.balancer.register(trusting.model, bad)

    # HAProxy finds out by its check, and takes it for up until then; the gateway by the first request
    await asyncio.gather(*(trusting.clients.ask() for _ in range(12)))
    await trusting.report_when(lambda report: _is_refused(report, bad))
    answers = [await trusting.clients.ask() for _ in range(4)]
    assert wrong.served == 0
    assert all(answer.is_whole and right.url in answer.text for answer in answers), answers


async def test_an_address_that_another_node_had_is_not_taken_for_its_own(
    trusting: Balancing, serve: Serve
) -> None:
    server, endpoint = serve("one")
    await trusting.serve(endpoint)
    assert (await trusting.clients.ask()).is_whole  # a connection to it is kept
    await trusting.balancer.drain(trusting.model, endpoint.id)
    await trusting.is_idle(endpoint)
    await trusting.balancer.remove(trusting.model, endpoint.id)

    heir = replace(
        endpoint, id="as-teamaaaa-heir-1-qwen"
    )  # there now, and the old certificate is still shown
    _, good = serve("good")
    await trusting.serve(good)
    await trusting.balancer.register(trusting.model, heir)
    served = server.served

    await asyncio.gather(*(trusting.clients.ask() for _ in range(12)))

    assert server.served == served


async def test_without_an_authority_haproxy_is_given_no_server_that_speaks_tls(
    start_haproxy: Callable[[], Awaitable[Balancing]], serve: Serve
) -> None:
    balancing = await start_haproxy()
    _, endpoint = serve("one")

    with pytest.raises(BalancerUnavailable, match="nobody vouches"):
        await balancing.balancer.register(balancing.model, endpoint)


def _is_refused(report: PoolReport, endpoint: Endpoint) -> bool:
    server = report.server(endpoint.id)
    return server is not None and server.state is ServerState.DOWN and server.check_fails
