"""Answers pass through whole and unchanged, or are visibly broken off."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from autoscaler.gateway import upstream

MODEL = "org/chat-8b"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def test_a_stream_arrives_byte_by_byte_as_the_node_sent_it(
    gateway: Any, serve_with: Any
) -> None:
    rng = random.Random(7)
    pieces = [rng.randbytes(rng.choice((1, 2, 17, 4096, 70_000, 300_000))) for _ in range(60)]

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    async with serve_with(answer) as url:
        await gateway.add("a", url)
        _, body, _ = await gateway.chat(stream=True)

    assert body == b"".join(pieces)


async def test_each_event_reaches_the_client_before_the_next_is_made(
    gateway: Any, engine: Any
) -> None:
    await gateway.add("a", engine.url)
    engine.gate.clear()

    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.client.post(url, json=ASK | {"stream": True}) as response:
        first = await response.content.readany()
        engine.gate.set()
        rest = await response.read()

    assert first.count(b"data:") == 1
    assert (first + rest).count(b"data:") == 6


async def test_a_compressed_answer_is_passed_on_compressed(gateway: Any, serve_with: Any) -> None:
    packed = gzip.compress(b'{"answer": 1}')

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=packed, headers=headers)

    async with (
        serve_with(answer) as url,
        aiohttp.ClientSession(auto_decompress=False) as plain,
    ):
        await gateway.add("a", url)
        async with plain.post(f"{gateway.url}/v1/completions", json=ASK) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert await response.read() == packed


async def test_headers_pass_both_ways_but_those_of_one_connection_do_not(
    gateway: Any, serve_with: Any
) -> None:
    seen: dict[str, str] = {}

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.update({name.lower(): value for name, value in request.headers.items()})
        return web.json_response({}, headers={"X-Engine": "1", "Keep-Alive": "timeout=9"})

    async with serve_with(answer) as url:
        await gateway.add("a", url)
        headers = {"Authorization": "Bearer k", "Connection": "X-Hop", "X-Hop": "1", "X-Own": "2"}
        asked = gateway.client.post(f"{gateway.url}/v1/embeddings", json=ASK, headers=headers)
        async with asked as response:
            await response.read()

    assert "authorization" not in seen  # it opens our door, and is no node's business
    assert seen["x-own"] == "2"
    assert "x-hop" not in seen
    assert seen["host"] in url
    assert response.headers["X-Engine"] == "1"
    assert response.headers["X-Autoscaler-Endpoint"] == "a"
    assert "Keep-Alive" not in response.headers


async def test_a_node_that_dies_mid_stream_breaks_the_answer_off(gateway: Any, engine: Any) -> None:
    engine.die_after = 2
    await gateway.add("a", engine.url)

    with pytest.raises(aiohttp.ClientPayloadError):
        await gateway.chat(stream=True)

    signals = await gateway.ask("signals", model=MODEL)
    assert signals["failed_total"] == 1
    assert signals["completed_total"] == 0


async def test_a_node_that_dies_mid_stream_resets_a_client_of_http_1_0(
    gateway: Any, engine: Any
) -> None:
    engine.die_after = 2
    await gateway.add("a", engine.url)
    host, port = gateway.gateway.addresses[0]
    body = json.dumps(ASK | {"stream": True}).encode()

    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(10):
            await reader.read()
    writer.close()


async def test_a_node_that_is_killed_before_it_answers_gives_502_and_no_second_try(
    gateway: Any, engines: Any, serve_with: Any
) -> None:
    calls: list[bytes] = []

    async def die(request: web.Request) -> web.StreamResponse:
        calls.append(await request.read())
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serve_with(die) as one, serve_with(die) as two:
        await gateway.add("a", one)
        await gateway.add("b", two)
        status, body, _ = await gateway.chat()

    assert status == 502
    assert json.loads(body)["error"]["code"] == "node_failed"
    assert len(calls) == 1


async def test_a_node_that_falls_silent_gives_504(gateway: Any, engine: Any) -> None:
    await gateway.pool(read_timeout_s=0.2)
    engine.gate.clear()
    await gateway.add("a", engine.url)

    status, body, _ = await gateway.chat()

    assert status == 504
    assert json.loads(body)["error"]["code"] == "node_timeout"


async def test_a_stream_that_falls_silent_is_broken_off(gateway: Any, engine: Any) -> None:
    await gateway.pool(read_timeout_s=0.2)
    engine.gate.clear()
    await gateway.add("a", engine.url)

    with pytest.raises(aiohttp.ClientPayloadError):
        await gateway.chat(stream=True)


async def test_a_client_that_goes_takes_its_request_at_the_node_with_it(
    gateway: Any, engine: Any
) -> None:
    engine.gate.clear()
    await gateway.add("a", engine.url)
    for fields in ({"stream": True}, {}):
        asked = asyncio.create_task(gateway.chat(**fields))
        async with asyncio.timeout(10):
            await engine.started.acquire()

        asked.cancel()

        async with asyncio.timeout(10):
            await engine.gone.acquire()
    await gateway.until(lambda pool: pool["running"] == 0)
    assert (await gateway.ask("signals", model=MODEL))["client_gone_total"] == 2


async def test_a_client_that_reads_nothing_is_cut_and_its_request_ended(
    start: Any, serve_with: Any
) -> None:
    ended = asyncio.Event()
    written = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal written
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"data: {}\n\n" * 10_000)
                written += 100_000
        finally:
            ended.set()

    async with start(write_timeout_s=0.3) as gateway, serve_with(flood) as url:
        await gateway.pool()
        await gateway.add("a", url)
        host, port = gateway.gateway.addresses[0]
        body = json.dumps(ASK | {"stream": True}).encode()
        reader, writer = await asyncio.open_connection(host, port, limit=1)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)

        async with asyncio.timeout(10):
            await ended.wait()
        await gateway.until(lambda pool: pool["running"] == 0)
        writer.close()
        del reader
    assert written < 50_000_000  # what the kernel's buffers take, and no memory of ours


async def test_a_prompt_of_500_kb_and_one_of_3_mb_arrive_whole(gateway: Any, engine: Any) -> None:
    await gateway.add("a", engine.url)
    for size in (500_000, 3_000_000):
        status, _, _ = await gateway.chat(prompt="x" * size)

        assert status == 200
        assert json.loads(engine.bodies[-1])["prompt"] == "x" * size


async def test_a_body_sent_in_chunks_with_expect_continue_arrives(
    gateway: Any, engine: Any
) -> None:
    await gateway.add("a", engine.url)

    async def pieces() -> Any:
        for char in json.dumps(ASK):
            yield char.encode()

    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.client.post(url, data=pieces(), expect100=True) as response:
        assert response.status == 200
    assert json.loads(engine.bodies[0]) == ASK


async def test_two_hundred_requests_share_kept_alive_connections(
    gateway: Any, serve_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "_SETTLED_S", 0.0)  # they follow one another at once
    peers: set[object] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({})

    async with serve_with(answer) as url:
        await gateway.add("a", url)
        for _ in range(200):
            await gateway.chat()

    assert len(peers) == 1
