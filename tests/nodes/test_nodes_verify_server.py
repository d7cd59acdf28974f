"""Model servers that serve, and all the ways in which a healthy one does not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.verify_http import ANSWER_BYTES, node_session
from autoscaler.nodes.verify_server import check_health, check_served_name, try_request
from tests.nodes.vm_parts import policy

MODEL = "Qwen/Qwen3-0.6B"
GOOD: Mapping[str, Any] = {
    "model": MODEL,
    "choices": [{"message": {"role": "assistant", "content": "ready"}, "finish_reason": "stop"}],
    "usage": {"completion_tokens": 2},
}
Json = dict[str, Any]


def with_choice(**changes: object) -> Json:
    body = deepcopy(dict(GOOD))
    body["choices"][0].update(changes)
    return body


@asynccontextmanager
async def serving(
    answers: Mapping[str, web.Response | Json],
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A server with these answers by path; other paths are not found."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = answers.get(request.path)
        if answer is None:
            raise web.HTTPNotFound
        return answer if isinstance(answer, web.Response) else web.json_response(answer)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with node_session() as session:
            yield session, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_a_server_that_answers_with_sense_has_a_speed() -> None:
    async with serving({"/v1/chat/completions": dict(GOOD)}) as (session, url):
        speech = await try_request(session, url, policy())

    assert speech.tokens_per_s is not None
    assert speech.tokens_per_s > 0


async def test_a_base_model_without_a_chat_template_is_asked_to_complete() -> None:
    body: Json = {**GOOD, "choices": [{"text": " ready", "finish_reason": "length"}]}
    refusal = web.json_response({"error": "no chat template"}, status=400)

    answers: dict[str, web.Response | Json] = {
        "/v1/chat/completions": refusal,
        "/v1/completions": body,
    }
    async with serving(answers) as (session, url):
        assert (await try_request(session, url, policy())).tokens_per_s is not None


async def test_a_model_that_thinks_aloud_first_counts() -> None:
    body = with_choice(message={"content": None, "reasoning_content": "hm"}, finish_reason="length")

    async with serving({"/v1/chat/completions": body}) as (session, url):
        assert (await try_request(session, url, policy())).tokens_per_s is not None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (web.Response(text="<html>502</html>"), "without JSON"),
        (web.Response(text='{"usage": NaN}'), "without JSON"),
        (web.Response(text="[]"), "no object"),
        ({}, "answered by"),
        ({**GOOD, "model": "somebody/else"}, "answered by 'somebody/else'"),
        ({**GOOD, "choices": []}, "without choices"),
        ({**GOOD, "choices": "yes"}, "without choices"),
        ({**GOOD, "usage": {"completion_tokens": 0}}, "of 0 tokens"),
        ({**GOOD, "usage": {"completion_tokens": True}}, "of True tokens"),
        ({**GOOD, "usage": {"completion_tokens": 10**9}}, "of 1000000000 tokens"),
        ({**GOOD, "usage": None}, "of None tokens"),
        (with_choice(message={"content": None}), "without text"),
        (with_choice(message={"content": ""}), "without text"),
        (with_choice(message={"content": "!!!!!!!!"}), "computes nonsense"),
        (web.Response(status=500, text="CUDA error\x1b[31m"), "answers 500: CUDA error$"),
        (web.Response(body=b"x" * (ANSWER_BYTES + 1)), "more than"),
        (web.Response(status=302, headers={"Location": "/v1/completions"}), "answers 302"),
    ],
)
async def test_an_answer_without_sense_fails(answer: web.Response | Json, said: str) -> None:
    # a response object serves one request only
    if isinstance(answer, web.Response):
        answer = web.Response(
            status=answer.status, body=answer.body, headers={"X": "y", **dict(answer.headers)}
        )
    async with serving({"/v1/chat/completions": answer, "/v1/completions": dict(GOOD)}) as (
        session,
        url,
    ):
        with pytest.raises(VerificationFailed, match=said):
            await try_request(session, url, policy())


async def test_a_busy_server_is_asked_again_later() -> None:
    async with serving({"/v1/chat/completions": web.Response(status=503)}) as (session, url):
        with pytest.raises(NodeUnreachable, match="answers 503"):
            await try_request(session, url, policy())


async def test_a_server_that_takes_a_request_and_says_nothing_fails_in_time() -> None:
    model = policy(deadlines={"warm_up": "500ms"})
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        async with node_session() as session:
            with pytest.raises(VerificationFailed, match="answers nothing within"):
                await try_request(session, f"http://127.0.0.1:{mute.getsockname()[1]}", model)


async def test_a_server_slower_than_the_policy_allows_fails_with_both_figures() -> None:
    model = policy(verify={"min_tokens_per_s": 1e9})

    async with serving({"/v1/chat/completions": dict(GOOD)}) as (session, url):
        with pytest.raises(
            VerificationFailed, match=r"tokens/s, verify\.min_tokens_per_s is 1e\+09"
        ):
            await try_request(session, url, model)


async def test_health_is_a_200_from_here() -> None:
    async with serving({"/health": web.Response(status=503)}) as (session, url):
        with pytest.raises(NodeUnreachable, match="/health answers 503"):
            await check_health(session, url, policy())
    with pytest.raises(NodeUnreachable):
        async with node_session() as session:
            await check_health(session, "http://127.0.0.1:9", policy())


async def test_a_server_of_another_model_fails() -> None:
    async with serving({"/v1/models": {"data": [{"id": "other"}, {}, 3]}}) as (session, url):
        with pytest.raises(VerificationFailed, match=f"serves other, None, not {MODEL}"):
            await check_served_name(session, url, policy())


async def test_the_policys_own_name_for_the_model_is_what_counts() -> None:
    model = policy(server={"served_name": "chat"})

    async with serving({"/v1/models": {"data": [{"id": "chat"}]}}) as (session, url):
        await check_served_name(session, url, model)


async def test_an_embedding_server_names_its_model_in_its_own_way() -> None:
    async with serving({"/info": {"model_id": MODEL}}) as (session, url):
        await check_served_name(session, url, policy("embedding"))


@pytest.mark.parametrize("vector", [[0.1, -0.2], [1, 0]])
async def test_an_embedding_of_numbers_passes(vector: list[float]) -> None:
    body = {"data": [{"embedding": vector}]}

    async with serving({"/v1/embeddings": body}) as (session, url):
        assert (await try_request(session, url, policy("embedding"))).tokens_per_s is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": []},
        {"data": [{"embedding": []}]},
        {"data": [{"embedding": [0, 0.0]}]},
        {"data": [{"embedding": ["a"]}]},
        {"data": [{"embedding": [True]}]},
        {"data": [{"embedding": None}]},
    ],
)
async def test_an_embedding_that_is_none_fails(body: Json) -> None:
    async with serving({"/v1/embeddings": body}) as (session, url):
        with pytest.raises(VerificationFailed, match="embedding"):
            await try_request(session, url, policy("embedding"))
