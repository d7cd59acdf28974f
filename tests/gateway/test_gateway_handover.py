"""Two processes of one gateway: the younger serves, the elder finishes what it has, and both are counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoscaler.errors import ConfigError
from autoscaler.gateway.peer import Answer, PoolCount, Question, ask

MODEL = "org/chat-8b"
Start = Callable[..., Any]


def successor(start: Start, elder: Any, **changed: Any) -> Any:
    return start(listen=(tuple(elder.gateway.addresses[0]),), take_over=True, **changed)


async def retired(front: Any) -> None:
    """Wait until a gateway has ended by itself."""
    async with asyncio.timeout(10):
        await front.done


async def test_the_younger_counts_the_elders_streams_until_they_end(
    gateway: Any, engine: Any, start: Start
) -> None:
    engine.gate.clear()
    await gateway.add("a", engine.url)
    streams = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(3)]
    await gateway.until(lambda pool: pool["running"] == 3)

    async with successor(start, gateway) as younger:
        asked = asyncio.create_task(younger.chat(stream=True))
        both = await younger.until(lambda pool: pool["running"] == 4)
        signals = await younger.ask("signals", model=MODEL)
        busy = await younger.tell("endpoints/remove", 409, model=MODEL, id="a")
        engine.gate.set()
        answers = await asyncio.gather(*streams, asked)
        await retired(gateway)
        none = await younger.until(lambda pool: pool["running"] == 0)

    assert both["endpoints"]["a"]["in_flight"] == 4
    assert (signals["in_flight"], signals["endpoints"]) == (4, {"a": 4})
    assert "4 requests in flight" in busy["error"]["message"]
    assert all(body.endswith(b"data: [DONE]\n\n") for _, body, _ in answers)
    assert none["endpoints"]["a"]["in_flight"] == 0


async def test_requests_held_by_the_elder_go_to_the_node_that_the_younger_is_told_of(
    gateway: Any, engine: Any, start: Start
) -> None:
    held = [asyncio.create_task(gateway.chat()) for _ in range(3)]
    await gateway.until(lambda pool: pool["waiting"] == 3)

    async with successor(start, gateway) as younger:
        news = await younger.tell("wait", timeout_s=10)
        waiting = await younger.pool_state()
        await younger.add("a", engine.url)
        answers = await asyncio.gather(*held)

    assert waiting["waiting"] == 3
    assert MODEL in news["models"]
    assert [status for status, _, _ in answers] == [200] * 3
    assert all(headers["x-autoscaler-cold-start"] == "1" for _, _, headers in answers)


async def test_a_node_drained_by_the_younger_gets_nothing_from_the_elders_line_either(
    gateway: Any, engines: Any, start: Start
) -> None:
    old, new = await engines(), await engines()
    old.gate.clear()
    await gateway.add("old", old.url, max_inflight=1)
    asked = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(3)]
    await gateway.until(lambda pool: pool["running"] == 1 and pool["waiting"] == 2)

    async with successor(start, gateway) as younger:
        await younger.tell("endpoints/drain", model=MODEL, id="old")
        old.gate.set()
        await younger.until(lambda pool: pool["endpoints"]["old"]["in_flight"] == 0)
        await younger.add("new", new.url, max_inflight=1)
        answers = await asyncio.gather(*asked)

    assert [status for status, _, _ in answers] == [200] * 3
    assert (len(old.bodies), len(new.bodies)) == (1, 2)


async def test_an_endpoint_that_the_elder_has_filled_is_full_for_the_younger(
    gateway: Any, engine: Any, start: Start
) -> None:
    engine.gate.clear()
    await gateway.add("a", engine.url, max_inflight=2)
    streams = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(2)]
    await gateway.until(lambda pool: pool["running"] == 2)

    async with successor(start, gateway) as younger:
        asked = asyncio.create_task(younger.chat(stream=True))
        full = await younger.until(lambda pool: pool["waiting"] == 1)
        engine.gate.set()
        answers = await asyncio.gather(*streams, asked)

    assert full["running"] == 2
    assert [status for status, _, _ in answers] == [200] * 3
    assert engine.most_running == 2


async def test_an_elder_does_not_take_its_own_streams_for_the_youngers(
    gateway: Any, engine: Any, start: Start
) -> None:
    engine.gate.clear()
    await gateway.add("a", engine.url, max_inflight=1)
    asked = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(2)]
    await gateway.until(lambda pool: pool["running"] == 1 and pool["waiting"] == 1)

    async with successor(start, gateway) as younger:
        await younger.until(lambda pool: pool["running"] == 1)
        await younger.add("a", engine.url, max_inflight=2)
        await younger.until(lambda pool: pool["running"] == 2)
        engine.gate.set()
        answers = await asyncio.gather(*asked)

    assert [status for status, _, _ in answers] == [200] * 2


async def test_a_kept_connection_is_served_once_more_and_told_to_close(
    gateway: Any, engine: Any, start: Start
) -> None:
    await gateway.add("a", engine.url)
    await gateway.chat()  # the session keeps the connection

    async with successor(start, gateway) as younger:
        status, _, headers = await gateway.chat()
        again, _, later = await gateway.chat()
        state = await younger.pool_state()

    assert (status, headers["connection"].lower()) == (200, "close")
    assert (again, later.get("connection")) == (200, None)
    assert state["endpoints"]["a"]["requests_total"] == 1


async def test_three_generations_are_counted_by_the_youngest(
    gateway: Any, engine: Any, start: Start
) -> None:
    engine.gate.clear()
    await gateway.add("a", engine.url)
    first = asyncio.create_task(gateway.chat(stream=True))
    await gateway.until(lambda pool: pool["running"] == 1)

    async with successor(start, gateway) as second:
        streams = [first, asyncio.create_task(second.chat(stream=True))]
        await second.until(lambda pool: pool["running"] == 2)
        async with successor(start, second) as third:
            streams.append(asyncio.create_task(third.chat(stream=True)))
            await third.until(lambda pool: pool["running"] == 3)
            await third.tell("endpoints/drain", model=MODEL, id="a")
            engine.gate.set()
            answers = await asyncio.gather(*streams)
            await third.until(lambda pool: pool["endpoints"]["a"]["in_flight"] == 0)
            await retired(gateway)
            await retired(second)

    assert all(body.endswith(b"data: [DONE]\n\n") for _, body, _ in answers)


async def test_a_younger_one_that_crashed_is_succeeded_by_one_that_knows_the_elder(
    gateway: Any, engine: Any, start: Start
) -> None:
    engine.gate.clear()
    await gateway.add("a", engine.url)
    stream = asyncio.create_task(gateway.chat(stream=True))
    await gateway.until(lambda pool: pool["running"] == 1)
    async with successor(start, gateway):
        pass  # leaving the block cuts it off, as a crash would

    async with start() as third:
        state = await third.pool_state()
        engine.gate.set()
        await stream
        await retired(gateway)
        await third.until(lambda pool: pool["endpoints"]["a"]["in_flight"] == 0)

    assert state["endpoints"]["a"]["in_flight"] == 1


async def test_one_that_cannot_serve_leaves_the_elder_as_it_was(
    gateway: Any, engine: Any, start: Start, settings: Any
) -> None:
    with pytest.raises(ConfigError, match="can be reached from other hosts"):
        async with start(listen=(("0.0.0.0", 0),), take_over=True):
            pass

    await gateway.add("a", engine.url)

    assert (await gateway.chat())[0] == 200
    assert not gateway.done.done()
    assert settings.control.exists()


async def test_changes_wait_while_another_process_takes_over_and_are_never_lost(
    gateway: Any, engine: Any
) -> None:
    (path,) = gateway.gateway.settings.control.parent.glob("*.gw")
    _, writer = await asyncio.open_unix_connection(str(path))
    body = Question(ask="sockets").model_dump_json().encode()
    writer.write(len(body).to_bytes(4, "big") + body)
    await writer.drain()
    adding = asyncio.create_task(gateway.add("a", engine.url))
    async with asyncio.timeout(10):
        while (await ask(path, Question(ask="sockets"))).why == "":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    is_waiting = not adding.done()

    writer.close()
    await writer.wait_closed()
    await adding

    assert is_waiting
    assert "a" in (await gateway.pool_state())["endpoints"]


async def test_a_second_gateway_that_is_not_to_take_over_is_refused(
    gateway: Any, start: Start
) -> None:
    with pytest.raises(ConfigError, match="another process already serves"):
        async with start():
            pass

    assert (await gateway.ask("state"))["predecessors"] == []


async def test_what_a_dead_process_left_is_cleared_away(
    gateway: Any, start: Start, tmp_path: Path
) -> None:
    dead = tmp_path / "dead.gw"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))

    async with successor(start, gateway) as younger:
        names = [one["name"] for one in (await younger.ask("state"))["predecessors"]]

    assert not dead.exists()
    assert "dead" not in names


async def test_an_elder_that_lives_and_says_nothing_keeps_its_count_and_is_told_of(
    gateway: Any, engine: Any, start: Start, tmp_path: Path
) -> None:
    """The elder is one of the test's own, which answers once and then never again."""
    await gateway.add("a", engine.url)
    count = {MODEL: PoolCount(running=2, waiting=1, endpoints={"a": 2})}
    said = Answer(control=str(gateway.gateway.settings.control), is_retired=True, counts=count)
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readexactly(4))
        if len(heard) == 1:
            body = said.model_dump_json().encode()
            writer.write(len(body).to_bytes(4, "big") + body)
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_unix_server(answer, str(tmp_path / "silent.gw")),
        successor(start, gateway) as younger,
    ):
        state = await younger.ask("state")
        refused = await younger.tell("endpoints/drain", 503, model=MODEL, id="a")
        pool = await younger.pool_state()

    (silent,) = (one for one in state["predecessors"] if one["name"] == "silent")
    assert silent == {"name": "silent", "running": 2, "fresh": False}
    assert "did not confirm" in refused["error"]["message"]
    assert pool["endpoints"]["a"]["in_flight"] == 2
    assert (pool["endpoints"]["a"]["state"], pool["waiting"]) == ("draining", 1)


async def test_an_elder_whose_sockets_file_is_removed_is_counted_and_found_again(
    gateway: Any, engine: Any, start: Start, tmp_path: Path
) -> None:
    engine.gate.clear()
    await gateway.add("a", engine.url)
    stream = asyncio.create_task(gateway.chat(stream=True))
    await gateway.until(lambda pool: pool["running"] == 1)
    (path,) = list(tmp_path.glob("*.gw"))  # noqa: ASYNC240 - one folder, once

    async with successor(start, gateway) as younger:
        await younger.until(lambda pool: pool["running"] == 1)
        path.unlink()
        counted = set()
        async with asyncio.timeout(10):
            while not path.exists():  # the elder makes it anew
                counted.add((await younger.pool_state())["running"])
                await asyncio.sleep(0.05)
        restored = await younger.pool_state()
        async with successor(start, younger) as third:
            names = [one["name"] for one in (await third.ask("state"))["predecessors"]]
        engine.gate.set()
        await stream
        await retired(gateway)

    assert counted == {1}
    assert restored["running"] == 1
    assert path.stem in names


async def test_nonsense_at_the_door_for_processes_ends_nothing(gateway: Any) -> None:
    (path,) = gateway.gateway.settings.control.parent.glob("*.gw")
    for sent in (b"", b"\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x02{]", b"\x00\x00\x00\x02[]"):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(sent)
        writer.close()
        await writer.wait_closed()

    answer = await ask(path, Question(ask="stop"))

    assert answer == Answer(control=str(gateway.gateway.settings.control), counts=answer.counts)
    assert not gateway.done.done()
    assert oct(path.stat().st_mode)[-3:] == "600"
