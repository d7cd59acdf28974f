"""Requests that wait for a boot, seen by the openai SDK, and through a proxy that cuts what is quiet."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from openai.types.chat import ChatCompletionMessageParam

MODEL = "org/chat-8b"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
LONG = {"max_requests": 9, "max_bytes": 100_000, "max_wait_s": 600}
OFTEN_S = 0.05

_PROXY = """\
defaults
 mode http
 option http-no-delay
 timeout connect 5s
 timeout client 1500ms
 timeout server 1500ms
frontend clients
 bind 127.0.0.1:{port}
 default_backend gateway
backend gateway
 server gateway {host}:{gateway_port}
"""


@asynccontextmanager
async def sdk(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def proxy(gateway: Any, tmp_path: Path) -> AsyncIterator[str]:
    """An HAProxy before the gateway that cuts a connection on which nothing moved for 1.5 s."""
    binary = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if binary is None:
        pytest.fail("no haproxy here: apt-get install haproxy")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host, gateway_port = gateway.gateway.addresses[0]
    config = tmp_path / "haproxy.cfg"
    config.write_text(_PROXY.format(port=port, host=host, gateway_port=gateway_port))
    process = await asyncio.create_subprocess_exec(
        *(binary, "-db", "-f", str(config)), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def streamed(client: openai.AsyncOpenAI) -> str:
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_comments_carry_a_held_stream_through_a_proxy_that_cuts_a_quiet_one(
    gateway: Any, engine: Any, proxy: str
) -> None:
    async with sdk(proxy) as client:
        await gateway.pool(hold=LONG)
        with pytest.raises(openai.APIStatusError) as cut:
            await streamed(client)  # takes as long as the proxy is patient
        await gateway.pool(hold=LONG, sse_comment_s=OFTEN_S)
        held = asyncio.create_task(streamed(client))
        await gateway.until(lambda pool: pool["waiting"] == 1)
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(model=MODEL, messages=MESSAGES)  # as long again

        assert not held.done()
        await gateway.add("a", engine.url)
        text = await held

    assert cut.value.status_code == 504
    assert text == "01234"


async def test_the_sdk_hears_of_a_hold_that_ended_without_a_node(gateway: Any) -> None:
    await gateway.pool(hold=LONG | {"max_wait_s": 0.5}, sse_comment_s=OFTEN_S)

    async with sdk(gateway.url) as client:
        with pytest.raises(openai.APIError, match=r"no node was free within 0.5 s; try again in"):
            await streamed(client)


async def test_what_a_node_answers_instead_of_a_stream_comes_as_an_event(
    gateway: Any, serve_with: Any
) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        body = {"error": {"message": "the prompt is too long", "type": "BadRequest", "code": 400}}
        return web.json_response(body, status=400)

    await gateway.pool(hold=LONG, sse_comment_s=OFTEN_S)
    async with sdk(gateway.url) as client, serve_with(refuse) as url:
        stream = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=MESSAGES, stream=True
        )  # the head has come: a comment was sent
        await gateway.add("a", url)
        with pytest.raises(openai.APIError, match="the prompt is too long"):
            [chunk async for chunk in stream.parse()]

    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.headers["x-autoscaler-cold-start"] == "1"
    assert (await gateway.ask("signals", model=MODEL))["completed_total"] == 1


async def test_a_node_that_fails_a_held_stream_is_told_of_in_it(
    gateway: Any, serve_with: Any
) -> None:
    async def vanish(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    await gateway.pool(hold=LONG, sse_comment_s=OFTEN_S)
    async with serve_with(vanish) as url:
        asked = asyncio.create_task(gateway.chat(stream=True))
        await gateway.until(lambda pool: pool["oldest_wait_s"] > 3 * OFTEN_S)
        await gateway.add("a", url)
        status, body, _ = await asked

    assert status == 200
    assert body.startswith(b": ")
    told = json.loads(body.rpartition(b"data: ")[2])
    assert told["error"]["code"] == "node_failed"
    signals = await gateway.ask("signals", model=MODEL)
    assert (signals["failed_total"], signals["in_flight"]) == (1, 0)


async def test_an_answer_that_is_not_streamed_gets_no_comments(gateway: Any, engine: Any) -> None:
    await gateway.pool(hold=LONG, sse_comment_s=OFTEN_S)
    asked = asyncio.create_task(gateway.chat())
    await gateway.until(lambda pool: pool["oldest_wait_s"] > 3 * OFTEN_S)
    await gateway.add("a", engine.url)

    status, body, headers = await asked

    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == "hello"
    assert headers["x-autoscaler-cold-start"] == "1"


async def test_a_client_that_goes_during_the_comments_leaves_nothing_behind(gateway: Any) -> None:
    await gateway.pool(hold=LONG, sse_comment_s=OFTEN_S)
    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.client.post(url, json={"model": MODEL, "stream": True}) as response:
        assert (await response.content.readline()).startswith(b": ")
        response.close()

    state = await gateway.until(lambda pool: pool["waiting"] == 0)
    assert state["waiting_bytes"] == 0
    assert (await gateway.ask("signals", model=MODEL))["client_gone_total"] == 1


async def expect(gateway: Any, likely_s: float, soonest_s: float) -> None:
    await gateway.tell("pools/expect", model=MODEL, likely_s=likely_s, soonest_s=soonest_s)


async def test_retry_after_is_what_is_left_of_the_boot(gateway: Any) -> None:
    await gateway.pool(hold=LONG | {"max_requests": 0}, retry_after_s=30)
    before = await gateway.chat()
    await expect(gateway, likely_s=200, soonest_s=100)
    first = await gateway.chat()
    await expect(gateway, likely_s=90.5, soonest_s=10)
    later = await gateway.chat()

    told = [int(headers["retry-after"]) for _, _, headers in (before, first, later)]
    assert told[0] == 30
    assert 190 <= told[1] <= 200
    assert 80 <= told[2] <= 91


async def test_a_request_that_cannot_live_to_see_the_node_is_refused_at_once_and_is_demand(
    gateway: Any,
) -> None:
    await gateway.pool(hold=LONG | {"max_wait_s": 60})
    await expect(gateway, likely_s=240, soonest_s=120)
    generation = (await gateway.ask("state"))["generation"]

    async with sdk(gateway.url) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    news = await gateway.tell("wait", generation=generation, timeout_s=10)

    assert refused.value.status_code == 503
    assert refused.value.code == "hold_in_vain"
    assert 230 <= int(refused.value.response.headers["retry-after"]) <= 240
    assert news["models"] == {MODEL: 1}


async def test_who_is_held_already_is_let_go_when_the_boot_turns_out_to_come_too_late(
    gateway: Any,
) -> None:
    await gateway.pool(hold=LONG | {"max_wait_s": 60})
    held = [asyncio.create_task(gateway.chat(stream=stream)) for stream in (False, True)]
    await gateway.until(lambda pool: pool["waiting"] == 2)

    await expect(gateway, likely_s=240, soonest_s=120)

    assert [status for status, _, _ in await asyncio.gather(*held)] == [503, 503]


async def test_an_estimate_of_a_boot_says_nothing_while_a_node_is_up(
    gateway: Any, engine: Any
) -> None:
    await gateway.pool(queue=LONG)
    await expect(gateway, likely_s=10_000, soonest_s=9_000)
    engine.gate.clear()
    await gateway.add("a", engine.url, max_inflight=1)
    asked = [asyncio.create_task(gateway.chat()) for _ in range(2)]
    await gateway.until(lambda pool: pool["waiting"] == 1)
    engine.gate.set()

    assert [status for status, _, _ in await asyncio.gather(*asked)] == [200, 200]
