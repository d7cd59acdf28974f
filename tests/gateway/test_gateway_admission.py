"""Client keys at work: what the unmodified SDK is told, and what no node is ever told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from autoscaler.gateway.admission import Admission
from autoscaler.gateway.errors import RequestError
from autoscaler.gateway.keys import read_keys
from tests.gateway.front_parts import write_keys

MODEL = "org/chat-8b"


@asynccontextmanager
async def sdk(gateway: Any, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    base = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as client:
        yield client


async def ask(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await client.chat.completions.create(**{"model": MODEL, "messages": []} | fields)


async def test_a_key_opens_its_models_and_the_sdk_raises_what_it_documents(
    start: Any, engine: Any, tmp_path: Path
) -> None:
    keys = write_keys(
        tmp_path / "keys.toml",
        all={},
        few={"models": ["other/*"]},
        gone={"disabled": True},
    )
    async with start(client_keys=tmp_path / "keys.toml") as gateway:
        await gateway.pool(aliases=["other/alias"])
        await gateway.tell("pools/put", model="other/embed")
        await gateway.add("a", engine.url)

        async with sdk(gateway, keys["all"]) as client:
            assert (await ask(client)).choices[0].message.content == "hello"
            everything = [model.id async for model in client.models.list()]
            with pytest.raises(openai.NotFoundError) as unknown:
                await ask(client, model="nope")
            with pytest.raises(openai.BadRequestError) as nameless:
                await ask(client, model="")
        async with sdk(gateway, keys["few"]) as client:
            with pytest.raises(openai.PermissionDeniedError) as forbidden:
                await ask(client)
            with pytest.raises(openai.PermissionDeniedError):
                await ask(client, model="nope")  # as for one that exists: nobody learns which do
            with pytest.raises(openai.PermissionDeniedError):
                await client.models.retrieve(MODEL)
            with pytest.raises(openai.NotFoundError):
                await ask(client, model="other/nope")
            await ask(client, model="other/alias")
            listed = [model.id async for model in client.models.list()]
        async with sdk(gateway, "sk-as-wrong") as client:
            with pytest.raises(openai.AuthenticationError) as wrong:
                await ask(client)
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with sdk(gateway, keys["gone"]) as client:
            with pytest.raises(openai.AuthenticationError) as disabled:
                await ask(client)

    assert everything == [MODEL, "other/alias", "other/embed"]
    assert listed == ["other/alias", "other/embed"]
    assert unknown.value.code == "model_not_found"
    assert nameless.value.code == "missing_model"
    assert (forbidden.value.code, forbidden.value.param) == ("model_not_allowed", "model")
    assert (wrong.value.code, wrong.value.type) == ("invalid_api_key", "invalid_request_error")
    assert disabled.value.code == "disabled_api_key"
    assert wrong.value.response.headers["www-authenticate"] == "Bearer"
    assert "sk-as-wrong" not in wrong.value.message
    assert len(engine.bodies) == 2


async def test_without_a_key_only_health_answers_and_no_body_is_read(
    start: Any, engine: Any, tmp_path: Path
) -> None:
    write_keys(tmp_path / "keys.toml", ann={})
    async with start(client_keys=tmp_path / "keys.toml") as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        host, port = gateway.gateway.addresses[0]
        answers = []
        for head in (
            b"GET /health HTTP/1.1\r\n",
            b"GET /v1/models HTTP/1.1\r\n",
            b"GET /nowhere HTTP/1.1\r\n",
            b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9999\r\nExpect: 100-continue\r\n",
            b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\nAuthorization: Basic eDp5\r\n",
        ):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head + b"Host: x\r\n\r\n")
            async with asyncio.timeout(10):
                answers.append((await reader.readline()).split()[1])
            writer.close()
            await writer.wait_closed()
        pool = await gateway.pool_state()

    assert answers == [b"200", b"401", b"401", b"401", b"401"]
    assert gateway.gateway.door.admission.strangers == {"missing_api_key": 4}
    assert pool["running"] == pool["waiting"] == 0
    assert engine.bodies == []


async def test_no_node_sees_what_opens_our_door_and_no_log_does(
    start: Any, engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = write_keys(tmp_path / "keys.toml", ann={})["ann"]
    async with start(client_keys=tmp_path / "keys.toml") as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        async with sdk(gateway, key) as client:
            await ask(client, extra_headers={"Cookie": "c=1", "X-Api-Key": "k", "X-Own": "2"})

    (sent,) = engine.headers
    names = {name.lower() for name in sent}
    assert not names & {"authorization", "cookie", "x-api-key", "api-key"}
    assert "x-own" in names
    assert key not in str(sent)
    assert key not in capsys.readouterr().out


async def test_requests_beyond_a_keys_rate_are_429_and_are_no_demand(
    start: Any, engine: Any, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys.toml", slow={"requests_per_minute": 2}, other={})
    async with start(client_keys=tmp_path / "keys.toml") as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        async with sdk(gateway, keys["slow"]) as client:
            first = await client.with_raw_response.chat.completions.create(model=MODEL, messages=[])
            await ask(client)
            with pytest.raises(openai.RateLimitError) as limited:
                await ask(client)
        async with sdk(gateway, keys["other"]) as client:
            await ask(client)
        arrived = (await gateway.ask("signals", model=MODEL))["arrivals_total"]

    told = limited.value.response.headers
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert (limited.value.code, limited.value.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(told["retry-after"]) <= 30
    assert told["x-ratelimit-remaining-requests"] == "0"
    assert "2 requests per minute" in limited.value.message
    assert arrived == 3


async def test_tokens_count_by_the_prompt_and_the_most_that_may_be_generated(
    start: Any, engine: Any, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys.toml", ann={"tokens_per_minute": 1000})
    async with start(client_keys=tmp_path / "keys.toml") as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        async with sdk(gateway, keys["ann"]) as client:
            await ask(client, max_tokens=900)
            with pytest.raises(openai.RateLimitError) as limited:
                await ask(client, max_tokens=900)

    assert limited.value.type == "tokens"
    assert limited.value.response.headers["x-ratelimit-limit-tokens"] == "1000"


async def test_a_key_has_as_many_requests_at_once_as_it_may_and_gets_them_back(
    start: Any, engine: Any, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys.toml", ann={"concurrent": 1})
    engine.gate.clear()
    async with start(client_keys=tmp_path / "keys.toml") as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        async with sdk(gateway, keys["ann"]) as client:
            running = asyncio.create_task(ask(client))
            await engine.started.acquire()
            with pytest.raises(openai.RateLimitError) as limited:
                await ask(client)
            engine.gate.set()
            await running
            await ask(client)

            engine.gate.clear()
            leaving = asyncio.create_task(ask(client))
            await engine.started.acquire()
            await engine.started.acquire()
            leaving.cancel()
            await engine.gone.acquire()
            await gateway.until(lambda pool: pool["running"] == 0)
            engine.gate.set()
            await ask(client)

    assert "1 requests at the same time" in limited.value.message
    assert gateway.gateway.door.admission.accounts["ann"].in_flight == 0


def test_a_reading_that_keeps_a_name_keeps_what_it_has_used(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    admission = Admission(clock=lambda: 50.0)
    key = write_keys(path, ann={"requests_per_minute": 2})["ann"]
    admission.set_ring(read_keys(path))
    account = admission.identify({"Authorization": f"bearer  {key} "})
    with admission.admit(account, 0), admission.admit(account, 0):
        pass

    new = write_keys(path, ann={"requests_per_minute": 4})["ann"]
    admission.set_ring(read_keys(path))
    account = admission.identify({"Authorization": f"Bearer {new}"})

    with pytest.raises(RequestError, match="4 requests per minute"), admission.admit(account, 0):
        pass
    with pytest.raises(RequestError):
        admission.identify({"Authorization": f"Bearer {key}"})
