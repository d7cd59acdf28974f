"""Clients that are hostile or broken: each is answered with what to do, and none costs the others anything."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from autoscaler.gateway.paths import INFERENCE
from tests.gateway.front_parts import eventually, write_keys, write_pair

MODEL = "org/chat-8b"
HOSTILE = (
    "<script>alert(1)</script>",
    "$(reboot); `id` && rm -rf / | sh #",
    "../../etc/passwd\x00",
    'a"}, {"evil": "\r\nX-Injected: 1',
    "\u202e\ud7ff" + "x" * 100_000,
)


async def open_to(gateway: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = gateway.gateway.addresses[0]
    return await asyncio.open_connection(host, port)


def post(body: bytes, length: int | None = None) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_model_name_comes_back_inert_and_stays_out_of_the_log(
    gateway: Any, engine: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await gateway.add("a", engine.url)
    capsys.readouterr()

    async with gateway.client.post(f"{gateway.url}/v1/completions", json={"model": name}) as got:
        text = await got.text()

    assert got.status == 404
    assert got.content_type == "application/json"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert "X-Injected" not in got.headers
    error = json.loads(text)["error"]
    assert error["code"] == "model_not_found"
    assert name[:200] in error["message"]
    assert "GET /v1/models" in error["message"]
    assert len(text) < 2000
    assert name[:20] not in capsys.readouterr().out
    assert engine.bodies == []


async def test_the_sdk_is_told_413_for_100_mb_of_which_nothing_is_kept(
    gateway: Any, engine: Any
) -> None:
    await gateway.add("a", engine.url)
    base = f"{gateway.url}/v1"
    messages: Any = [{"role": "user", "content": "x" * 100_000_000}]
    async with openai.AsyncOpenAI(base_url=base, api_key="k", max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(model=MODEL, messages=messages)

    assert refused.value.status_code == 413
    assert refused.value.code == "request_too_large"
    assert "[front] max_body" in refused.value.message
    assert engine.bodies == []
    assert gateway.gateway.bodies.buffered_bytes == 0


async def test_a_refused_body_is_never_in_memory(start: Any) -> None:
    async with start(max_body_bytes=1000) as gateway:
        reader, writer = await open_to(gateway)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        most = 0
        for _ in range(200):
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            await writer.drain()
            most = max(most, gateway.gateway.bodies.buffered_bytes)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()

    assert answer.startswith(b"HTTP/1.1 413")
    assert most < 1_000_000


async def test_bodies_are_bounded_together_and_the_next_one_is_told_to_wait(
    start: Any, engine: Any
) -> None:
    engine.gate.clear()
    async with start(max_buffered_bytes=3000) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        first = asyncio.create_task(gateway.chat(filler="x" * 2000))
        await engine.started.acquire()

        status, body, headers = await gateway.chat(filler="x" * 2000)
        engine.gate.set()
        await first
        after, _, _ = await gateway.chat(filler="x" * 2000)

    assert status == 503
    assert json.loads(body)["error"]["code"] == "gateway_busy"
    assert int(headers["retry-after"]) >= 1
    assert after == 200
    assert gateway.gateway.bodies.buffered_bytes == 0


async def test_one_key_cannot_fill_what_bodies_may_take_and_shut_the_others_out(
    start: Any, engine: Any, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys.toml", greedy={"concurrent": 1}, ann={})
    async with start(client_keys=tmp_path / "keys.toml", max_buffered_bytes=400_000) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        key = b"\r\nAuthorization: Bearer " + keys["greedy"].encode() + b"\r\n\r\n"
        held = []
        for _ in range(
            10
        ):  # bodies that never end: none is admitted, so no bound of its key is met
            held.append(await open_to(gateway))
            sent = post(b"x" * 50_000, length=60_000)
            held[-1][1].write(sent.replace(b"\r\n\r\n", key, 1))
        heads = [asyncio.create_task(one.readuntil(b"\r\n\r\n")) for one, _ in held]
        first, others = await asyncio.wait(heads, return_when=asyncio.FIRST_COMPLETED)
        refused = first.pop().result()
        most = gateway.gateway.bodies.buffered_bytes
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key=keys["ann"], max_retries=0
        ) as client:
            messages: Any = [{"role": "user", "content": "x" * 50_000}]
            answer = await client.chat.completions.create(model=MODEL, messages=messages)
        for each in others:
            each.cancel()
        for _, writer in held:
            writer.close()
        await asyncio.gather(*heads, return_exceptions=True)

    assert refused.startswith(b"HTTP/1.1 503")
    assert 100_000 <= most <= 300_000
    assert answer.choices[0].message.content == "hello"


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
async def test_a_client_that_reads_a_byte_a_second_is_cut_and_the_others_are_served(
    start: Any, engine: Any, serve_with: Any, tmp_path: Path, is_secure: bool
) -> None:
    written, ended = 0, asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"data: " + b"x" * 8000 + b"\n\n")
                written += 8008
        finally:
            ended.set()

    pair = write_pair(tmp_path / "tls") if is_secure else None
    trust = ssl.create_default_context(cafile=str(pair / "fullchain.pem")) if pair else None
    async with (
        start(write_timeout_s=1.0, tls=pair) as gateway,
        serve_with(flood) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust or True)) as others,
    ):
        front = gateway.url.replace("http:", "https:") if is_secure else gateway.url
        await gateway.pool()
        await gateway.tell("pools/put", model="other")
        await gateway.add("a", url)
        await gateway.tell("endpoints/add", model="other", id="b", url=engine.url)
        host, port = gateway.gateway.addresses[0]
        reader, writer = await asyncio.open_connection(host, port, limit=1, ssl=trust)
        writer.write(post(json.dumps({"model": MODEL, "stream": True}).encode()))

        served = 0
        async with asyncio.timeout(30):
            while not ended.is_set():
                await reader.read(1)  # the stream reader's limit keeps the rest in the kernel
                ask = {"model": "other", "messages": []}
                async with others.post(f"{front}/v1/chat/completions", json=ask) as answer:
                    served += answer.status == 200
                await asyncio.sleep(0.05)
        await gateway.until(lambda pool: pool["running"] == 0)
        writer.transport.abort()

    assert served >= 5
    assert written < 50_000_000  # what the kernel's buffers take, and no memory of ours


async def test_idle_connections_are_bounded_and_shut_nobody_out(start: Any, engine: Any) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(1000, (soft - 400) // 2)  # both ends are in this process
    async with start(max_connections=many) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        status, _, _ = await gateway.chat()  # its connection is kept alive
        idle = [await open_to(gateway) for _ in range(many - 1)]
        clients = gateway.gateway.clients
        await eventually(lambda: len(clients.connections) == many)

        reads: list[bytes] = []
        async with asyncio.timeout(20):  # who has just come may be about to ask, and is left alone
            while not reads or not reads[-1].startswith(b"HTTP/1.1 200"):
                reader, writer = await open_to(gateway)
                writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                reads.append(await reader.read())
                writer.close()
                await asyncio.sleep(0.05)
        again, _, _ = await gateway.chat()
        evicted = clients.crowd.evicted_total
        first = await idle[0][0].read()  # the longest silent one made room
        for _, one in idle:
            one.close()
        await eventually(lambda: len(clients.connections) <= 1)

    assert (status, again) == (200, 200)
    assert len(clients.crowd.guests) <= 1
    assert evicted == 1
    assert first == b""


async def test_bodies_that_drip_shut_nobody_out(start: Any, engine: Any) -> None:
    async with start(max_connections=20, header_timeout_s=0.2) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        dripping = [await open_to(gateway) for _ in range(20)]
        for _, writer in dripping:
            writer.write(post(b"{", length=100))
        await eventually(lambda: gateway.gateway.bodies.buffered_bytes == 20)

        status = 0
        async with asyncio.timeout(20):
            while status != 200:
                status, _, _ = await gateway.chat()
                await asyncio.sleep(0.05)
        dropped = gateway.gateway.clients.crowd.evicted_total
        await eventually(lambda: gateway.gateway.bodies.buffered_bytes == 20 - dropped)
        for _, writer in dripping:
            writer.close()

    assert dropped == 1


async def test_who_is_served_makes_room_for_nobody_and_one_more_is_told_to_come_back(
    start: Any, engine: Any
) -> None:
    engine.gate.clear()
    async with start(max_connections=3) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        asked = [asyncio.create_task(gateway.chat()) for _ in range(3)]
        for _ in asked:
            await engine.started.acquire()

        reader, writer = await open_to(gateway)
        refused = await reader.read()
        writer.close()
        engine.gate.set()
        answers = await asyncio.gather(*asked)

    head, _, body = refused.partition(b"\r\n\r\n")
    assert [status for status, _, _ in answers] == [200, 200, 200]
    assert head.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 5" in head
    assert json.loads(body)["error"]["code"] == "too_many_connections"


async def test_connections_that_ask_for_nothing_make_room_in_time(start: Any) -> None:
    async with start(max_connections=50, header_timeout_s=0.5) as gateway:
        idle = [await open_to(gateway) for _ in range(50)]
        await eventually(lambda: not gateway.gateway.clients.connections)
        async with gateway.client.get(f"{gateway.url}/health") as response:
            assert response.status == 200
        for _, writer in idle:
            writer.close()


async def test_a_body_of_a_byte_at_a_time_is_told_so_and_nobody_waits_for_the_rest(
    start: Any,
) -> None:
    async with start(body_timeout_s=0.3) as gateway:
        reader, writer = await open_to(gateway)
        writer.write(post(b"{", length=1000))
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"send it again" in answer


async def test_a_stranger_cannot_make_the_gateway_hold_a_body(start: Any, tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml", ann={})
    async with start(client_keys=tmp_path / "keys.toml") as gateway:
        reader, writer = await open_to(gateway)
        writer.write(post(b"x" * 100_000, length=10_000_000))
        answer = await reader.readuntil(b"\r\n\r\n")
        held = gateway.gateway.bodies.buffered_bytes
        writer.close()

    assert answer.startswith(b"HTTP/1.1 401")
    assert held == 0


@pytest.mark.parametrize(
    ("fields", "is_refused"),
    [
        ({"prompt": list(range(200))}, True),
        ({"prompt": [list(range(50)), list(range(101))]}, True),
        ({"prompt": list(range(100))}, False),
        ({"input": ["x" * 25_000] * 2}, False),
        ({"input": "x" * 26_000}, True),
        ({"messages": [{"role": "user", "content": "x" * 13_000}] * 2}, True),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 26_000}]}]},
            True,
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "u": "x" * 99_000}]}]},
            False,
        ),
        ({"input": "x" * 26_000, "truncate_prompt_tokens": 10}, False),
        ({"input": [[[["x" * 26_000]]]]}, False),
        ({"messages": {"content": "x" * 26_000}}, False),
    ],
)
async def test_a_prompt_that_is_surely_too_long_is_refused_and_in_doubt_it_passes(
    gateway: Any, engine: Any, fields: dict[str, Any], is_refused: bool
) -> None:
    await gateway.pool(max_model_len=100)
    await gateway.add("a", engine.url)

    status, body, _ = await gateway.chat(**{"messages": []} | fields)

    assert status == (400 if is_refused else 200)
    if is_refused:
        error = json.loads(body)["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["param"] in fields
        assert "100 tokens" in error["message"]


@pytest.mark.parametrize(
    "path",
    [
        b"/v1/load_lora_adapter",
        b"/v1/load%5Flora%5fadapter",
        b"/%76%31/load_lora_adapter/",
        b"/v1/chat/../../sleep",
        b"//v1/completions",
        b"/sleep?level=1",
        b"/slots/0?action=erase",
        b"/lora-adapters",
        b"/api/pull",
        b"/api/delete",
        b"/invented_in_the_next_release",
        b"/v1/chat/completions/\xff\xfe",
        b"/v1/completions?q=\xc3\xa9",
    ],
)
async def test_no_spelling_of_a_path_reaches_an_engines_administration_or_breaks_the_gateway(
    gateway: Any, engine: Any, path: bytes
) -> None:
    await gateway.add("a", engine.url)
    body = json.dumps({"model": MODEL}).encode()
    reader, writer = await open_to(gateway)
    writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path, len(body)))
    writer.write(body)
    async with asyncio.timeout(30):
        answer = await reader.readuntil(b"}}")
    writer.close()

    assert answer.split()[1] in (b"400", b"404")
    assert engine.bodies == []


async def test_an_engines_own_path_is_served_once_its_operator_lists_it(
    start: Any, engine: Any
) -> None:
    async with start(paths=("/v1/my-engine",)) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        found = []
        for path in ("/v1/my-engine", "/v1/rerank", "/v1/other"):
            url = f"{gateway.url}{path}"
            async with gateway.client.post(url, json={"model": MODEL}) as answer:
                found.append((answer.status, await answer.text()))

    assert [status for status, _ in found] == [200, 200, 404]
    assert "[front] paths" in found[2][1]
    assert len(engine.bodies) == 2


def test_the_page_lists_the_paths_that_are_served() -> None:
    page = (Path(__file__).parents[2] / "docs" / "front-door.md").read_text()
    section = page.partition("## Paths\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]

    assert set(re.findall(r"`([^`]+)`", "".join(rows))) == INFERENCE
