"""The engine over HTTP, as clients and the daemon see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import pytest

if TYPE_CHECKING:
    from tests.emulator.engine.conftest import Running

Start = Callable[..., Awaitable[Any]]

VLLM = ("--dialect", "vllm", "--", "--model", "demo/chat-8b", "--served-model-name", "chat")


async def test_openais_own_client_gets_an_answer_whole_and_streamed(start: Start) -> None:
    running = await start(*VLLM)
    client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none")
    question: Any = [{"role": "user", "content": "x" * 400}]

    whole = await client.chat.completions.create(model="chat", messages=question, max_tokens=20)
    stream = await client.chat.completions.create(
        model="chat",
        messages=question,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = [chunk async for chunk in stream]

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (104, 20)
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "length"
    assert len(chunks) < 20  # several tokens share an event
    assert [model.id async for model in client.models.list()] == ["chat"]
    await client.close()


async def test_a_stream_ends_with_done_and_a_plain_completion_is_text(start: Start) -> None:
    running = await start(*VLLM)
    body = {"model": "chat", "prompt": "hi", "max_tokens": 9, "stream": True}

    async with running.http.post(f"{running.url}/v1/completions", json=body) as answer:
        events = [line[6:] for line in (await answer.text()).splitlines() if line]

    assert events[-1] == "[DONE]"
    assert len("".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])) == 36


async def test_the_length_is_the_clients_the_headers_or_always_the_same(start: Start) -> None:
    running = await start(*VLLM)

    async def tokens(headers: dict[str, str] | None = None, **changes: object) -> tuple[Any, ...]:
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **changes}
        url = f"{running.url}/v1/chat/completions"
        async with running.http.post(url, json=body, headers=headers) as answer:
            found = await answer.json()
        usage = found["usage"]
        reason = found["choices"][0]["finish_reason"]
        return usage["prompt_tokens"], usage["completion_tokens"], reason

    assert await tokens(max_tokens=700, ignore_eos=True) == (5, 700, "length")
    assert await tokens() == await tokens(max_tokens=7000)
    assert (await tokens())[2] == "stop"
    headers = {"x-emulated-prompt-tokens": "1234", "x-emulated-output-tokens": "6"}
    assert await tokens(headers) == (1234, 6, "stop")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "other", "messages": [{"role": "user"}]}, 404, "does not exist"),
        ({"model": "chat", "messages": []}, 400, "messages"),
        ({"model": "chat", "messages": [{"content": "hi"}]}, 400, "role"),
        ({"model": "chat", "messages": [{"role": "user"}], "max_tokens": 0}, 400, "max_tokens"),
        ({"model": "chat", "messages": [{"role": "user"}], "max_tokens": -3}, 400, "max_tokens"),
        ({"model": "chat", "messages": [{"role": "user"}], "max_tokens": 9000}, 400, "8192 tokens"),
        ({"model": "chat", "messages": [{"role": "user"}], "n": 3}, 400, "n other than 1"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(
    start: Start, body: dict[str, object], status: int, said: str
) -> None:
    running = await start(*VLLM)

    async with running.http.post(f"{running.url}/v1/chat/completions", json=body) as answer:
        found = await answer.json()

    assert answer.status == status
    assert said in found["error"]["message"]
    assert found["error"]["code"] == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe"])
async def test_a_body_that_is_no_object_is_the_clients_fault(start: Start, body: bytes) -> None:
    running = await start(*VLLM)

    async with running.http.post(f"{running.url}/v1/completions", data=body) as answer:
        assert answer.status == 400


async def test_nothing_but_503_until_the_weights_are_loaded(start: Start) -> None:
    running = await start(*VLLM, ready=False)

    async def statuses() -> list[int]:
        found = []
        for path in ("/health", "/v1/models", "/metrics"):
            async with running.http.get(running.url + path) as answer:
                found.append(answer.status)
        return found

    assert await statuses() == [503, 503, 503]
    running.server.is_ready = True
    assert await statuses() == [200, 200, 200]


async def test_a_key_guards_the_models_and_not_the_health(start: Start) -> None:
    running = await start(*VLLM, "--api-key", "sesame")

    async with running.http.get(f"{running.url}/health") as answer:
        assert answer.status == 200
    assert (await running.chat())["status"] == 401
    headers = {"Authorization": "Bearer sesame"}
    async with running.http.get(f"{running.url}/v1/models", headers=headers) as answer:
        assert answer.status == 200


async def test_a_client_that_goes_frees_its_slot(start: Start) -> None:
    running: Running = await start(*VLLM, "--max-num-seqs", "1", step_s=0.01)
    body = {"model": "chat", "prompt": "hi", "max_tokens": 5000, "stream": True, "ignore_eos": True}
    async with aiohttp.ClientSession() as leaver:
        answer = await leaver.post(f"{running.url}/v1/completions", json=body)
        await answer.content.readany()
        assert len(running.batch.running) == 1
        answer.close()

    async with asyncio.timeout(10):
        assert (await running.chat())["status"] == 200

    assert not running.batch.running
    metrics = await running.metrics()
    aborted = 'vllm:request_success_total{engine="0",finished_reason="abort",model_name="chat"}'
    assert metrics[aborted] == 1


async def test_what_does_not_fit_waits_and_the_metrics_say_so(start: Start) -> None:
    running: Running = await start(*VLLM, "--max-num-seqs", "2", step_s=0.01)
    asked = [asyncio.create_task(running.chat(max_tokens=40, ignore_eos=True)) for _ in range(5)]
    async with asyncio.timeout(10):
        while len(running.batch.running) + len(running.batch.waiting) < 5:  # noqa: ASYNC110 - the engine sets no event for us
            await asyncio.sleep(0.001)
        while len(running.batch.running) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    busy = await running.metrics()

    labels = '{engine="0",model_name="chat"}'
    assert busy[f"vllm:num_requests_running{labels}"] == 2
    assert busy[f"vllm:num_requests_waiting{labels}"] == 3
    assert busy[f"vllm:kv_cache_usage_perc{labels}"] > 0
    await asyncio.gather(*asked)
    idle = await running.metrics()
    assert idle[f"vllm:num_requests_running{labels}"] == 0
    assert idle[f"vllm:generation_tokens_total{labels}"] == 200
    assert idle[f"vllm:prompt_tokens_total{labels}"] == 25
    assert idle[f"vllm:time_to_first_token_seconds_count{labels}"] == 5
    assert idle[f"vllm:inter_token_latency_seconds_count{labels}"] == 195


@pytest.mark.parametrize(
    ("arguments", "series"),
    [
        (
            VLLM,
            {
                "vllm:num_requests_waiting",
                "vllm:kv_cache_usage_perc",
                "vllm:prefix_cache_hits_total",
                "vllm:e2e_request_latency_seconds_bucket",
                "vllm:request_queue_time_seconds_sum",
                "vllm:request_prompt_tokens_count",
                "vllm:request_generation_tokens_count",
                "vllm:num_preemptions_total",
                "vllm:cache_config_info",
            },
        ),
        (
            ("--vllm-metrics", "v0", *VLLM),
            {"vllm:gpu_cache_usage_perc", "vllm:time_per_output_token_seconds_bucket"},
        ),
        (
            ("--dialect", "sglang", "--", "--model-path", "demo/chat-8b", "--enable-metrics"),
            {
                "sglang:num_running_reqs",
                "sglang:num_queue_reqs",
                "sglang:token_usage",
                "sglang:gen_throughput",
                "sglang:generation_tokens_total",
                "sglang:realtime_tokens_total",
                "sglang:time_to_first_token_seconds_bucket",
            },
        ),
        (
            ("--dialect", "llama.cpp", "--", "-hf", "demo/chat-8b", "--metrics"),
            {
                "llamacpp:requests_processing",
                "llamacpp:requests_deferred",
                "llamacpp:prompt_tokens_total",
                "llamacpp:tokens_predicted_total",
                "llamacpp:tokens_predicted_seconds_total",
            },
        ),
    ],
)
async def test_each_dialect_has_its_servers_names(
    start: Start, arguments: tuple[str, ...], series: set[str]
) -> None:
    running: Running = await start(*arguments)
    await running.chat(model=running.server.settings.served_names[0])

    names = {name.partition("{")[0] for name in await running.metrics()}

    assert series <= names
    assert not [name for name in names if name.endswith("_created")]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((*VLLM, "--disable-log-stats"), 404),
        (("--dialect", "sglang", "--", "--model-path", "demo/chat-8b"), 404),
        (("--dialect", "llama.cpp", "--", "-m", "x.gguf"), 501),
    ],
)
async def test_metrics_that_were_not_asked_for_are_not_there(
    start: Start, arguments: tuple[str, ...], status: int
) -> None:
    running = await start(*arguments)

    async with running.http.get(f"{running.url}/metrics") as answer:
        assert answer.status == status


async def test_histograms_have_the_real_edges(start: Start) -> None:
    running: Running = await start(*VLLM)
    await running.chat()
    series = await running.metrics()

    def edges(name: str) -> list[str]:
        found = [s for s in series if s.startswith(f"vllm:{name}_bucket")]
        return [s.partition('le="')[2].partition('"')[0] for s in found]

    assert edges("time_to_first_token_seconds")[:8] == (
        ["0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1"]
    )
    assert edges("inter_token_latency_seconds")[:5] == ["0.01", "0.025", "0.05", "0.075", "0.1"]
    assert edges("e2e_request_latency_seconds")[0] == "0.3"
    assert edges("time_to_first_token_seconds")[-2:] == ["2560.0", "+Inf"]


@pytest.mark.parametrize("dialect", ["vllm", "infinity", "tei"])
async def test_an_embedding_model_embeds_and_does_not_chat(start: Start, dialect: str) -> None:
    model = "Qwen/Qwen3-Embedding-0.6B"
    running: Running = await start("--dialect", dialect, "--", "--model-id", model)
    body = {"model": model, "input": ["x" * 40, "y" * 80], "dimensions": 64}

    async with running.http.post(f"{running.url}/v1/embeddings", json=body) as answer:
        found = await answer.json()

    assert answer.status == 200
    assert [len(row["embedding"]) for row in found["data"]] == [64, 64]
    assert sum(value**2 for value in found["data"][0]["embedding"]) == pytest.approx(1.0)
    assert found["usage"] == {"prompt_tokens": 30, "total_tokens": 30}
    assert (await running.chat(model=model))["status"] == 400
    names = {name.partition("{")[0] for name in await running.metrics()}
    wanted = {
        "vllm": "vllm:num_requests_running",
        "infinity": "http_requests_total",
        "tei": "te_queue_size",
    }
    assert wanted[dialect] in names


async def test_openais_client_reads_embeddings_in_base64(start: Start) -> None:
    running = await start("--dialect", "infinity", "--", "--model-id", "BAAI/bge-m3")
    client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none")

    found = await client.embeddings.create(model="BAAI/bge-m3", input="hello")

    assert len(found.data[0].embedding) == 1024
    await client.close()


async def test_text_embeddings_inference_has_its_own_endpoint(start: Start) -> None:
    running = await start("--dialect", "tei", "--", "--model-id", "BAAI/bge-m3")

    async with running.http.post(f"{running.url}/embed", json={"inputs": "hello"}) as answer:
        found = await answer.json()

    assert [len(row) for row in found] == [1024]


async def test_garbage_is_200_and_no_answer(start: Start) -> None:
    running = await start("--fault", "health_ok_generation_garbage", *VLLM)

    async with running.http.get(f"{running.url}/health") as answer:
        assert answer.status == 200
    body = {"model": "chat", "prompt": "hi"}
    async with running.http.post(f"{running.url}/v1/completions", json=body) as answer:
        assert answer.status == 200
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(await answer.text())
