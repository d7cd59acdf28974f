"""The unmodified OpenAI SDK at the real front door: TLS, a key, two models by name, and its own exceptions."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.gateway.front_parts import eventually, put, write_keys, write_pair
from tests.world.files import free_port

pytestmark = pytest.mark.e2e

CHAT, EMBEDDING, ASLEEP = "Qwen/Qwen3-8B", "demo/embedding", "org/asleep"
PROMPT: Any = [{"role": "user", "content": "lorem " * 85_000}]  # 500 kB
CONFIG = """
[front]
listen = "127.0.0.1:0"
tls = "tls"
client_keys = "clients"
[gateway]
control = "control.sock"
"""


@dataclass(eq=False)
class Front:
    """A gateway as an operator runs it, with two engines behind it and a third model without any."""

    folder: Path
    keys: dict[str, str]
    url: str
    log: list[dict[str, Any]]

    @asynccontextmanager
    async def sdk(self, key: str, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
        trust = ssl.create_default_context(cafile=str(self.folder / "tls" / "fullchain.pem"))
        http = openai.DefaultAsyncHttpxClient(verify=trust)
        async with openai.AsyncOpenAI(
            base_url=self.url, api_key=key, http_client=http, **{"max_retries": 0} | options
        ) as client:
            yield client

    async def tell(self, path: str, **body: Any) -> None:
        connector = aiohttp.UnixConnector(str(self.folder / "control.sock"))
        async with (
            aiohttp.ClientSession(connector=connector, raise_for_status=True) as session,
            session.post(f"http://gateway/v1/{path}", json=body),
        ):
            pass

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("event") == event]


async def follow(stream: asyncio.StreamReader, log: list[dict[str, Any]]) -> None:
    async for line in stream:
        said = json.loads(line) if line.startswith(b"{") else {"event": line.decode()}
        log.append(said)


@asynccontextmanager
async def program(*arguments: str, log: list[dict[str, Any]]) -> AsyncIterator[None]:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stderr=asyncio.subprocess.PIPE
    )
    assert started.stderr is not None
    following = asyncio.create_task(follow(started.stderr, log))
    try:
        yield
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        await following


def engine(model: str, port: int) -> tuple[str, ...]:
    return (
        *("autoscaler.emulator.engine", "--address", "127.0.0.1", "--gpu", "h100-80gb-sxm"),
        *("--load-seconds", "0", "--speed", "500", "--events-per-second", "50"),
        *("--", "--model", model, "--port", str(port)),
        *(("--max-model-len", "200000") if model == CHAT else ()),
    )


async def serves(port: int) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


@pytest.fixture
async def front(directory: Path) -> AsyncIterator[Front]:
    write_pair(directory / "tls")
    (directory / "clients").mkdir(mode=0o700)
    keys = write_keys(
        directory / "clients" / "all.toml",
        all={},
        chat={"models": ["Qwen/*"]},
        slow={"requests_per_minute": 1},
    )
    (directory / "config.toml").write_text(CONFIG)
    ports = {CHAT: free_port(), EMBEDDING: free_port()}
    log: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        for model, port in ports.items():
            await stack.enter_async_context(program(*engine(model, port), log=[]))
        config = ("--config", str(directory / "config.toml"))
        await stack.enter_async_context(program("autoscaler", "gateway", *config, log=log))
        made = Front(directory, keys, "", log)
        await asyncio.gather(*map(serves, ports.values()))
        await eventually(lambda: bool(made.said("gateway_listening")))
        made.url = f"https://127.0.0.1:{made.said('gateway_listening')[0]['port']}/v1"
        await made.tell("pools/put", model=CHAT, aliases=["gpt-4o"])
        await made.tell("pools/put", model=EMBEDDING)
        nothing = {"max_requests": 0, "max_bytes": 0, "max_wait_s": 0}
        await made.tell("pools/put", model=ASLEEP, hold=nothing, retry_after_s=42)
        for model, port in ports.items():
            url = f"http://127.0.0.1:{port}"
            await made.tell("endpoints/add", model=model, id="n1", url=url)
        yield made


async def test_one_url_and_one_key_reach_two_models_by_name(front: Front) -> None:
    async with front.sdk(front.keys["all"]) as client:
        whole = await client.chat.completions.create(model=CHAT, messages=PROMPT, max_tokens=20)
        stream = await client.chat.completions.create(
            model=CHAT, messages=PROMPT, max_tokens=20, stream=True
        )
        chunks = [chunk async for chunk in stream]
        text = await client.completions.create(model=CHAT, prompt="hi", max_tokens=5)
        texts = await client.completions.create(model=CHAT, prompt="hi", max_tokens=5, stream=True)
        pieces = [piece async for piece in texts]
        vectors = await client.embeddings.create(model=EMBEDDING, input=["a", "b"])
        aliased = await client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}], max_tokens=5
        )
        listed = [model.id async for model in client.models.list()]
        asleep = await client.models.retrieve(ASLEEP)

    assert whole.usage is not None
    assert whole.usage.completion_tokens == 20
    assert chunks[-1].choices == [] or chunks[-1].choices[0].finish_reason
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.choices[0].text
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices)
    assert len(vectors.data) == 2
    assert aliased.model == CHAT  # answers pass as engines make them
    assert listed == [CHAT, "gpt-4o", EMBEDDING, ASLEEP]
    assert asleep.id == ASLEEP


async def test_failures_come_as_the_exceptions_that_the_sdk_documents(front: Front) -> None:
    hi: Any = [{"role": "user", "content": "hi"}]
    async with front.sdk("sk-as-wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model=CHAT, messages=hi)
    async with front.sdk(front.keys["chat"]) as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.embeddings.create(model=EMBEDDING, input="a")
    async with front.sdk(front.keys["slow"]) as client:
        await client.embeddings.create(model=EMBEDDING, input="a")
        with pytest.raises(openai.RateLimitError) as limited:
            await client.embeddings.create(model=EMBEDDING, input="a")
    async with front.sdk(front.keys["all"]) as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nope", messages=hi)
        with pytest.raises(openai.BadRequestError) as by_engine:
            await client.embeddings.create(model=EMBEDDING, input="lorem " * 100_000)
        await front.tell("pools/put", model=EMBEDDING, max_model_len=512)
        with pytest.raises(openai.BadRequestError) as by_gateway:
            await client.embeddings.create(model=EMBEDDING, input="lorem " * 100_000)
        with pytest.raises(openai.APIStatusError) as asleep:
            await client.chat.completions.create(model=ASLEEP, messages=hi)

    assert limited.value.code == "rate_limit_exceeded"
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60
    assert by_engine.value.response.headers["x-autoscaler-endpoint"] == "n1"
    assert by_gateway.value.code == "context_length_exceeded"
    assert asleep.value.status_code == 503
    assert asleep.value.type == "server_error"
    assert int(asleep.value.response.headers["retry-after"]) >= 1


async def test_keys_and_certificate_are_replaced_under_a_running_stream(front: Front) -> None:
    async with front.sdk(front.keys["all"]) as client:
        stream = await client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "hi"}], max_tokens=2000, stream=True
        )
        first = await anext(aiter(stream))

        new = write_keys(front.folder / "clients" / "all.toml", other={})["other"]
        write_pair(front.folder / "tls")
        await eventually(lambda: len(front.said("front_reloaded")) >= 2)
        put(front.folder / "clients" / "all.toml", b"[keys.x]\n", mode=0o644)
        await eventually(lambda: bool(front.said("front_reload_refused")))
        async with front.sdk(new) as later:  # over a new connection, with the new certificate
            listed = [model.id async for model in later.models.list()]
        async with front.sdk(front.keys["all"]) as locked_out:
            with pytest.raises(openai.AuthenticationError):
                await locked_out.models.list()
        rest = [chunk async for chunk in stream]

    (refused,) = front.said("front_reload_refused")
    assert first.model == CHAT
    assert any(chunk.choices and chunk.choices[0].finish_reason for chunk in rest)
    assert listed
    assert "chmod 600" in refused["error"]
    assert not any(key in json.dumps(front.log) for key in (*front.keys.values(), new))
