"""Scale-in loses nothing: answers that stream for ten seconds and longer come whole, token by token."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import MODEL, World, seconds
from tests.world.client import Answer

pytestmark = pytest.mark.e2e

TOKENS = 600  # an L40S gives about fifty a second
TWO = {"min": 2, "max": 3}


async def test_draining_a_node_by_hand_cuts_no_stream(cloud: World, world: Build) -> None:
    await cloud.only_in_stock(l40s=3)
    there = await world(nodes=TWO)
    first, _ = await there.ready(2)
    tasks = await there.streams(8, tokens=TOKENS)

    said = await there.command("drain", first["name"], "--yes")
    answers = await asyncio.gather(*tasks)

    assert said.code == 0, said
    _assert_whole(answers, there)
    assert first["name"] in {answer.node for answer in answers}
    gone = await there.in_state(first["name"], "terminating", "gone")
    last = max(answer.ended_at for answer in answers if answer.node == first["name"])
    assert gone["unregistered_at"] is not None
    drained = [e for e in await there.events(node=first["name"]) if e["state"] == "draining"]
    assert drained[0]["actor"] != "daemon"
    assert seconds(gone["unregistered_at"]) >= last - 0.5
    await there.ready(2)  # min is two: what was drained by hand is replaced


async def test_scale_in_under_load_cuts_no_stream(cloud: World, world: Build) -> None:
    await cloud.only_in_stock(l40s=3)
    there = await world(nodes=TWO)
    await there.ready(2)
    tasks = await there.streams(6, tokens=TOKENS)

    there.write_policy(nodes={"min": 0, "max": 1})

    async def shrinks() -> bool:
        return bool(await there.nodes("draining"))

    await there.until(shrinks, "a node is drained")
    answers = await asyncio.gather(*tasks)
    _assert_whole(answers, there)
    await there.is_empty()


async def test_at_the_deadline_cut_cuts_what_still_streams_and_says_so(world: Build) -> None:
    there, _, streams = await _drained_amid_streams(world, on_deadline="cut", tokens=3000)

    answers = await asyncio.gather(*streams)
    await there.is_empty()

    assert [answer.whole for answer in answers] == [False, False], answers
    assert all(answer.status == 200 and answer.pieces for answer in answers)
    (cut,) = [e for e in await there.events() if e["kind"] == "requests_cut"]
    assert cut["cause"] == "2 requests in flight at the drain's deadline"
    metrics = await there.metrics()
    assert f'autoscaler_requests_cut_total{{model="{MODEL}"}} 1.0' in metrics
    assert '"event": "requests_cut"' in there.log_of("daemon")


async def test_at_the_deadline_wait_goes_on_waiting_and_says_so(world: Build) -> None:
    there, node, streams = await _drained_amid_streams(world, on_deadline="wait", tokens=500)

    async def is_overdue() -> bool:
        return any(e["kind"] == "drain_overdue" for e in await there.events(node=node))

    await there.until(is_overdue, "the drain is overdue")
    answers = await asyncio.gather(*streams)
    await there.is_empty()

    _assert_whole(answers, there, tokens=500)
    assert [e for e in await there.events() if e["kind"] == "requests_cut"] == []
    assert f'autoscaler_requests_cut_total{{model="{MODEL}"}} 0.0' in await there.metrics()


async def _drained_amid_streams(
    world: Build, *, on_deadline: str, tokens: int
) -> tuple[World, str, list[asyncio.Task[Answer]]]:
    """Drain a node while two answers stream that last longer than the drain's deadline."""
    there = await world(
        nodes={"min": 0, "max": 1}, drain={"deadline": "1s", "on_deadline": on_deadline}
    )
    assert (await there.ask()).whole
    streams = await there.streams(2, tokens=tokens)
    (node,) = await there.nodes("ready")
    await there.tell(
        "drain", node=node["name"]
    )  # a command takes its time to start: they stream on
    return there, str(node["name"]), streams


async def test_a_retired_model_drains_and_is_rented_for_no_more_until_resumed(
    world: Build,
) -> None:
    there = await world(nodes={"min": 1, "max": 2})
    await there.ready()
    tasks = await there.streams(3, tokens=150)

    said = await there.command("retire", "chat", "--yes")
    answers = await asyncio.gather(*tasks)
    await there.is_empty()

    assert said.code == 0, said
    _assert_whole(answers, there, tokens=150)
    assert (await there.model())["mode"] == "retired"
    assert len(await there.created_names()) == 1
    assert (await there.command("resume", "chat", "--yes")).code == 0
    await there.ready()
    assert len(await there.created_names()) == 2


async def test_a_paused_model_keeps_what_it_has_and_rents_nothing(world: Build) -> None:
    there = await world()
    assert (await there.command("pause", "chat", "--yes")).code == 0

    held = asyncio.create_task(there.ask())

    async def wants() -> bool:
        model = await there.model()
        return model["mode"] == "paused" and bool(model["want"])

    await there.until(wants, "the demand is seen although the model is paused")
    assert await there.created_names() == []
    assert (await there.command("resume", "chat", "--yes")).code == 0
    assert (await held).whole


def _assert_whole(answers: list[Answer], there: World, tokens: int = TOKENS) -> None:
    for answer in answers:
        assert answer.whole, (answer.status, answer.error, there.logs())
        assert answer.tokens == tokens
    texts = {"".join(answer.pieces) for answer in answers}
    assert len({len(text) for text in texts}) == 1, "an answer lacks some of its text"
