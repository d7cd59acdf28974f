"""The OpenAI-compatible side: routing by model, errors in OpenAI's form, bounds against bad clients."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

MODEL = "org/chat-8b"


def sdk(gateway: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0)


async def raw(gateway: Any, data: bytes) -> bytes:
    """Send bytes on a new connection; read until the gateway closes it."""
    host, port = gateway.gateway.addresses[0]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def answered(gateway: Any, data: bytes) -> bytes:
    """Send bytes on a new connection; read one error of ours."""
    host, port = gateway.gateway.addresses[0]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        async with asyncio.timeout(30):
            return await reader.readuntil(b"}}")
    finally:
        writer.close()


async def test_the_openai_sdk_chats_streams_and_embeds_unmodified(
    gateway: Any, engine: Any
) -> None:
    await gateway.add("a", engine.url)
    messages: Any = [{"role": "user", "content": "hi" * 250_000}]
    async with sdk(gateway) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=messages)
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        embedded = await client.embeddings.create(model=MODEL, input="x", encoding_format="float")
        models = [model.id async for model in client.models.list()]

    assert whole.choices[0].message.content == "hello"
    assert text == "01234"
    assert embedded.data[0].embedding == [0.5, 0.25]
    assert models == [MODEL]


async def test_the_openai_sdk_understands_our_errors(gateway: Any) -> None:
    await gateway.pool(hold={"max_requests": 0, "max_bytes": 0, "max_wait_s": 1})
    async with sdk(gateway) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="nope", messages=[])
        with pytest.raises(openai.InternalServerError) as full:
            await client.chat.completions.create(model=MODEL, messages=[])

    assert unknown.value.code == "model_not_found"
    assert unknown.value.param == "model"
    assert full.value.status_code == 503
    assert full.value.response.headers["retry-after"] == "30"


async def test_two_models_are_reached_at_one_address_and_listed_at_zero_nodes(
    gateway: Any, engines: Any
) -> None:
    await gateway.tell("pools/put", model="other/embed")
    one, two = await engines(), await engines()
    await gateway.add("a", one.url)
    await gateway.tell("endpoints/add", model="other/embed", id="a", url=two.url)

    await gateway.chat()
    await gateway.chat(model="other/embed")
    async with gateway.client.get(f"{gateway.url}/v1/models") as response:
        listed = await response.json()
    async with gateway.client.get(f"{gateway.url}/v1/models/other/embed") as response:
        found = await response.json()
    async with gateway.client.head(f"{gateway.url}/v1/models") as response:
        assert (response.status, await response.read()) == (200, b"")

    assert (len(one.bodies), len(two.bodies)) == (1, 1)
    assert [model["id"] for model in listed["data"]] == [MODEL, "other/embed"]
    assert found["id"] == "other/embed"


async def test_a_request_by_an_alias_reaches_the_engine_under_its_own_name(
    gateway: Any, engine: Any
) -> None:
    await gateway.pool(aliases=["gpt-4o"])
    await gateway.add("a", engine.url)

    await gateway.chat(model="gpt-4o", temperature=0.5)

    sent = json.loads(engine.bodies[0])
    assert sent["model"] == MODEL
    assert sent["temperature"] == 0.5


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[]", "missing_model"),
        (b"{}", "missing_model"),
        (b'{"model": 3}', "missing_model"),
        (b'{"model": ""}', "missing_model"),
        (b'{"model": "<script>$(reboot)"}', "model_not_found"),
    ],
)
async def test_a_body_that_names_no_model_of_ours_is_refused(
    gateway: Any, body: bytes, code: str
) -> None:
    async with gateway.client.post(f"{gateway.url}/v1/completions", data=body) as response:
        error = (await response.json())["error"]

    assert response.status == (404 if code == "model_not_found" else 400)
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"


async def test_a_body_over_the_bound_is_413_whether_its_length_is_told_or_not(
    start: Any,
) -> None:
    async with start(max_body_bytes=1000) as gateway:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
        told = await answered(gateway, head + b"Content-Length: 100000000\r\n\r\n{")
        chunks = b"400\r\n" + b"x" * 1024 + b"\r\n"
        untold = await answered(gateway, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)

    assert told.startswith(b"HTTP/1.1 413")
    assert untold.startswith(b"HTTP/1.1 413")
    assert b"request_too_large" in untold


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nZZ\r\n",
        b"GET /v1/models HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=["tls", "version", "negative", "two-lengths", "smuggling", "long-header"],
)
async def test_garbage_is_answered_400_and_the_connection_closed(
    gateway: Any, garbage: bytes
) -> None:
    answer = await raw(gateway, garbage)

    assert answer.split(b" ")[1] == b"400"
    assert (await gateway.pool_state())["running"] == 0


async def test_an_unknown_path_and_an_engines_administration_are_404(
    gateway: Any, engine: Any
) -> None:
    await gateway.add("a", engine.url)
    for method, path in (("GET", "/"), ("PUT", "/v1/models"), ("POST", "/v1/load_lora_adapter")):
        async with gateway.client.request(
            method, gateway.url + path, json={"model": MODEL}
        ) as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "unknown_url"
    assert engine.bodies == []


async def test_a_request_head_that_drips_is_cut(start: Any) -> None:
    async with start(header_timeout_s=0.2) as gateway:
        for begun in (b"", b"POST /v1/completions HTTP/1.1\r\nHost"):
            assert await raw(gateway, begun) == b""


async def test_a_body_that_drips_is_answered_408(start: Any) -> None:
    async with start(body_timeout_s=0.2) as gateway:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"

        assert (await raw(gateway, head)).startswith(b"HTTP/1.1 408")


async def test_health_answers_at_zero_nodes(gateway: Any) -> None:
    async with gateway.client.get(f"{gateway.url}/health") as response:
        assert response.status == 200
