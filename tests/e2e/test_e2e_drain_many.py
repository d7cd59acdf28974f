"""No request is lost: scale-ins by the dozen under reloads, and a node that dies takes its own requests alone.

`make lost-requests` is the first one at length: 1,000 scale-ins, and streams of three minutes.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from autoscaler.balance.protocol import Pool, ServerState
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from tests.world.askers import Appetite
from tests.world.fleet import Fleet, Pace
from tests.world.lossless import Lossless, Trial
from tests.world.numbered import Books, NumberedServer, ask, failure_of, session
from tests.world.standing import Standing

pytestmark = pytest.mark.e2e

MODEL = ModelName("org/one")
STREAMS = 12  # by each way


async def test_twenty_scale_ins_under_a_reload_of_each_balancer_lose_no_token(
    directory: Path,
) -> None:
    trial = Trial(
        scale_ins=20,
        models=(MODEL, ModelName("org/other"), ModelName("org/third")),
        pace=Pace(at_once=4, serves_s=(0.2, 0.8), pass_s=0.2, sample_gap_s=0.4),
        appetite=Appetite(stream_s=(0.3, 1.5), long_s=3.0, gap_s=0.1, curls=1),
        reloads=1,
        reload_s=0.6,
    )
    run = Lossless(trial, directory)

    await run.run()

    assert run.books.failed == {}
    assert run.books.twice == []
    assert len(run.fleet.drains_s) == 20
    assert run.reloads == {"haproxy": 1, "gateway": 1}
    assert run.fleet.busy > 0
    assert run.fleet.most > 1
    assert run.books.long > 0
    assert set(run.books.whole) == {"haproxy", "gateway", "http2"}


async def test_a_node_that_dies_takes_its_own_requests_and_no_other(directory: Path) -> None:
    """What it had begun is broken off, and never repeated; what had not reached it goes elsewhere."""
    books = Books()
    victim, other = NumberedServer(books), NumberedServer(books)
    async with Standing(directory, (MODEL,)) as standing, session() as clients:
        for name, server in (("victim", victim), ("other", other)):
            await server.start()
            await _serve(standing, Endpoint(name, server.url, 100, 100))

        running = {books.number(): url for url in standing.ways.values() for _ in range(STREAMS)}
        silent = [number for number in running if number % 3 == 0]  # no byte of theirs has come
        streams = {
            number: asyncio.create_task(
                ask(clients, url, MODEL, number, 1, 0.0, first_s=3.0)
                if number in silent
                else ask(clients, url, MODEL, number, 30, 0.1)
            )
            for number, url in running.items()
        }
        async with asyncio.timeout(30):
            while victim.in_flight + other.in_flight < len(streams):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await victim.kill()
        late = {
            number: ask(clients, url, MODEL, number, 1, 0.0)
            for url in standing.ways.values()
            for number in (books.number() for _ in range(10))
        }
        said = dict(zip(late, await asyncio.gather(*late.values()), strict=True))
        said |= dict(zip(streams, await asyncio.gather(*streams.values()), strict=True))
        await other.kill()

    assert {running[number] for number in victim.cut} == set(standing.ways.values())
    assert {number for number, failure in said.items() if failure is not None} == victim.cut
    assert all(
        ("HTTP 502" if number in silent else "ClientPayloadError") in str(said[number])
        for number in victim.cut
    ), said
    assert victim.cut & set(silent)
    assert books.twice == []


async def test_a_balancer_that_crashes_breaks_its_answers_off_and_serves_again_at_once(
    directory: Path,
) -> None:
    """Never does an answer end as if it were whole; the nodes that HAProxy forgot are reached by the activator."""
    books = Books()
    node = NumberedServer(books)
    async with Standing(directory, (MODEL,)) as standing:
        await node.start()
        await _serve(standing, Endpoint("node", node.url, 100, 100))
        for name, url in standing.ways.items():
            async with session() as clients:
                broken, whole = books.number(), books.number()
                cut = asyncio.create_task(ask(clients, url, MODEL, broken, 600, 0.1))
                async with asyncio.timeout(30):
                    while broken not in node.running:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await standing.crash(name)

                assert "ClientPayloadError" in str(await cut)
            async with session() as clients:
                assert await ask(clients, url, MODEL, whole, 3, 0.0) is None
        await node.kill()

    assert books.twice == []


async def _serve(standing: Standing, endpoint: Endpoint) -> None:
    """Put a server behind both balancers, and wait until both give it requests."""
    for balancer in standing.balancers:
        await balancer.ensure_pool(Pool(MODEL))
        await balancer.register(MODEL, endpoint)
        async with asyncio.timeout(30):
            while True:
                found = (await balancer.report(MODEL)).server(endpoint.id)
                if found is not None and found.state is ServerState.UP:
                    break
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: 7.0\n\ndata: 7.1\n\ndata: [DONE]\n\n", None),
        ("data: 7.0\n\ndata: 7.1\n\n", "2 events of 3"),
        ("data: 7.0\n\ndata: [DONE]\n\n", "token 1 is '[DONE]'"),
        ("data: 7.0\n\ndata: 7.0\n\ndata: 7.1\n\ndata: [DONE]\n\n", "token 1 is '7.0'"),
        ("data: 7.1\n\ndata: 7.0\n\ndata: [DONE]\n\n", "token 0 is '7.1'"),
        ("data: 7.0\n\ndata: 8.1\n\ndata: [DONE]\n\n", "token 1 is '8.1'"),
        ("data: 7.0\n\ndata: 7.1\n\ndata: [DONE]\n\ndata: 7.2\n\n", "4 events of 3"),
        ("data: 7.0\n\ndata: 7.1\n\ndata: [DONE]", "3 events of 3"),
        ("", "0 events of 3"),
    ],
)
def test_an_answer_is_whole_by_its_tokens_and_not_by_its_status(
    text: str, says: str | None
) -> None:
    failure = failure_of(200, text, number=7, tokens=2)

    assert failure is None if says is None else says in (failure or "")


async def test_a_drain_that_waits_for_nothing_is_caught(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above can fail: with evidence that believes at once, and balancers that let it, requests are cut."""

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr("autoscaler.nodes.drain.DrainEvidence.is_drained", lambda *_: True)
    for balancer in ("gateway.GatewayBalancer", "haproxy.HaproxyBalancer"):
        monkeypatch.setattr(f"autoscaler.balance.{balancer}.remove", nothing)
    books, over = Books(), asyncio.Event()
    async with Standing(directory, (MODEL,)) as standing, session() as clients:
        pace = Pace(at_once=2, serves_s=(0.3, 0.5), pass_s=0.1)
        fleet = Fleet(standing.balancers, (MODEL,), pace, 3, books, random.Random(7))

        async def keep_asking(url: str) -> None:
            while not over.is_set():
                number = books.number()
                books.note("any", await ask(clients, url, MODEL, number, 8, 0.1), 8)

        urls = [*standing.ways.values()] * 4
        asking = [asyncio.create_task(keep_asking(url)) for url in urls]
        await fleet.run()
        over.set()
        await fleet.serve_on(lambda: all(task.done() for task in asking))
        await fleet.stop()

    assert books.failed
