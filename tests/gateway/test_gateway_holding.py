"""Requests that wait: for the first node, for a free place, for too long."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from yarl import URL

MODEL = "org/chat-8b"


async def test_fifty_requests_held_at_zero_are_served_when_an_endpoint_is_added(
    gateway: Any, engine: Any
) -> None:
    asked = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(50)]
    await gateway.until(lambda pool: pool["waiting"] == 50)

    engine.gate.clear()
    await gateway.add("a", engine.url, max_inflight=8)
    await gateway.until(lambda pool: pool["running"] == 8 and pool["waiting"] == 42)
    engine.gate.set()

    answers = await asyncio.gather(*asked)
    assert [status for status, _, _ in answers] == [200] * 50
    assert all(body.endswith(b"data: [DONE]\n\n") for _, body, _ in answers)
    assert all(headers["x-autoscaler-cold-start"] == "1" for _, _, headers in answers)
    assert all(int(headers["x-autoscaler-held-ms"]) >= 0 for _, _, headers in answers)
    assert engine.most_running == 8


async def test_a_request_that_never_waited_carries_no_cold_start_header(
    gateway: Any, engine: Any
) -> None:
    await gateway.add("a", engine.url)

    _, _, headers = await gateway.chat()

    assert "x-autoscaler-cold-start" not in headers
    assert "x-autoscaler-held-ms" not in headers


async def test_beyond_the_hold_bound_the_answer_is_503_with_retry_after(gateway: Any) -> None:
    await gateway.pool(
        hold={"max_requests": 2, "max_bytes": 10000, "max_wait_s": 60}, retry_after_s=137.2
    )
    held = [asyncio.create_task(gateway.chat()) for _ in range(2)]
    await gateway.until(lambda pool: pool["waiting"] == 2)

    status, body, headers = await gateway.chat()

    assert status == 503
    assert headers["retry-after"] == "138"
    assert json.loads(body)["error"]["code"] == "hold_requests"
    for task in held:
        task.cancel()
    await gateway.until(lambda pool: pool["waiting"] == 0 and pool["waiting_bytes"] == 0)


async def test_a_request_held_too_long_is_answered_503(gateway: Any) -> None:
    await gateway.pool(hold={"max_requests": 2, "max_bytes": 10000, "max_wait_s": 0.1})

    status, body, _ = await gateway.chat()

    assert status == 503
    assert json.loads(body)["error"]["code"] == "hold_timeout"


async def test_the_bytes_held_are_bounded(gateway: Any) -> None:
    await gateway.pool(hold={"max_requests": 9, "max_bytes": 500, "max_wait_s": 60})

    status, body, _ = await gateway.chat(prompt="x" * 500)

    assert status == 503
    assert json.loads(body)["error"]["code"] == "hold_bytes"


async def test_when_all_places_are_taken_requests_queue_in_order_and_beyond_are_refused(
    gateway: Any, engine: Any
) -> None:
    await gateway.pool(queue={"max_requests": 3, "max_bytes": 10000, "max_wait_s": 60})
    engine.gate.clear()
    await gateway.add("a", engine.url, max_inflight=1)
    asked = []
    for index in range(4):
        asked.append(asyncio.create_task(gateway.chat(prompt=str(index))))
        await gateway.until(lambda pool, n=index: pool["running"] + pool["waiting"] == n + 1)

    status, body, _ = await gateway.chat()
    engine.gate.set()
    answers = await asyncio.gather(*asked)

    assert status == 503
    assert json.loads(body)["error"]["code"] == "queue_requests"
    assert [answer[0] for answer in answers] == [200] * 4
    assert [json.loads(sent)["prompt"] for sent in engine.bodies] == ["0", "1", "2", "3"]
    assert "x-autoscaler-cold-start" not in answers[3][2]
    assert "x-autoscaler-held-ms" in answers[3][2]


async def test_a_held_client_that_goes_leaves_the_line(gateway: Any, engine: Any) -> None:
    held = [asyncio.create_task(gateway.chat()) for _ in range(3)]
    await gateway.until(lambda pool: pool["waiting"] == 3)

    held[0].cancel()
    await gateway.until(lambda pool: pool["waiting"] == 2)
    await gateway.add("a", engine.url)

    assert [answer[0] for answer in await asyncio.gather(*held[1:])] == [200, 200]
    assert len(engine.bodies) == 2


async def test_a_client_that_ends_its_side_has_gone_since_one_that_closed_looks_no_other(
    gateway: Any,
) -> None:
    body = json.dumps({"model": MODEL, "messages": []}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(gateway.url).port)
    writer.write(head % len(body) + body)
    await gateway.until(lambda pool: pool["waiting"] == 1)

    writer.write_eof()

    await gateway.until(lambda pool: pool["waiting"] == 0)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_draining_the_last_endpoint_with_fifty_queued_fails_none(
    gateway: Any, engines: Any
) -> None:
    old, new = await engines(), await engines()
    old.gate.clear()
    await gateway.add("old", old.url, max_inflight=2)
    asked = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(52)]
    await gateway.until(lambda pool: pool["waiting"] == 50)

    await gateway.tell("endpoints/drain", model=MODEL, id="old")
    old.gate.set()
    drained = await gateway.until(lambda pool: pool["endpoints"]["old"]["in_flight"] == 0)
    waiting = drained["waiting"]
    await gateway.add("new", new.url, max_inflight=2)

    answers = await asyncio.gather(*asked)
    assert waiting == 50
    assert [status for status, _, _ in answers] == [200] * 52
    assert len(old.bodies) == 2
    assert drained["endpoints"]["old"]["drained_at"] is not None


async def test_requests_go_to_another_endpoint_when_one_does_not_accept_connections(
    gateway: Any, engine: Any, dead_url: str
) -> None:
    await gateway.add("dead", dead_url, weight=100)
    await gateway.add("alive", engine.url)

    answers = await asyncio.gather(*(gateway.chat() for _ in range(20)))

    assert [status for status, _, _ in answers] == [200] * 20
    state = await gateway.pool_state()
    assert state["endpoints"]["dead"]["ejected"]
    assert not state["endpoints"]["alive"]["ejected"]


async def test_the_only_endpoint_is_tried_until_it_accepts_connections(
    gateway: Any, dead_url: str, engine: Any
) -> None:
    await gateway.add("a", dead_url)
    asked = asyncio.create_task(gateway.chat())
    await gateway.until(lambda pool: pool["endpoints"]["a"]["connect_failures"] >= 2)

    await gateway.tell("endpoints/add", model=MODEL, id="a", url=engine.url)

    status, _, _ = await asked
    assert status == 200
    assert not (await gateway.pool_state())["endpoints"]["a"]["ejected"]


async def test_least_in_flight_by_weight_decides(gateway: Any, engines: Any) -> None:
    small, large = await engines(), await engines()
    small.gate.clear()
    large.gate.clear()
    await gateway.add("small", small.url, weight=1)
    await gateway.add("large", large.url, weight=3)

    asked = [asyncio.create_task(gateway.chat()) for _ in range(8)]
    state = await gateway.until(lambda pool: pool["running"] == 8)
    small.gate.set()
    large.gate.set()
    await asyncio.gather(*asked)

    assert state["endpoints"]["small"]["in_flight"] == 2
    assert state["endpoints"]["large"]["in_flight"] == 6


async def test_every_request_is_accounted_for(gateway: Any, engine: Any) -> None:
    await gateway.pool(hold={"max_requests": 1, "max_bytes": 10000, "max_wait_s": 60})
    gone = asyncio.create_task(gateway.chat())
    await gateway.until(lambda pool: pool["waiting"] == 1)
    await gateway.chat()
    gone.cancel()
    await gateway.until(lambda pool: pool["waiting"] == 0)
    await gateway.add("a", engine.url)
    await asyncio.gather(*(gateway.chat(stream=True) for _ in range(5)))

    signals = await gateway.ask("signals", model=MODEL)
    assert signals["arrivals_total"] == 7
    assert signals["completed_total"] == 5
    assert signals["client_gone_total"] == 1
    assert signals["rejected_total"] == {"hold_requests": 1}
    assert signals["in_flight"] == signals["waiting"] == signals["waiting_bytes"] == 0


async def test_an_endpoint_that_fails_fast_does_not_draw_all_requests(
    gateway: Any, engine: Any, serve_with: Any
) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    async with serve_with(fail) as broken:
        await gateway.add("broken", broken, weight=100)
        await gateway.add("sound", engine.url)
        answers = [await gateway.chat() for _ in range(40)]

    assert [status for status, _, _ in answers].count(500) == 5
    assert (await gateway.pool_state())["endpoints"]["broken"]["ejected"]


async def test_the_only_endpoint_is_asked_however_often_it_fails(
    gateway: Any, serve_with: Any
) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    async with serve_with(fail) as broken:
        await gateway.add("broken", broken)
        answers = [await gateway.chat() for _ in range(10)]

    assert [status for status, _, _ in answers] == [500] * 10
