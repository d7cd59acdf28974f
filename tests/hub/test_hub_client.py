"""A hub is asked for a model's shape: a real server on loopback, also one that means harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from autoscaler.cloud.secret import Secret
from autoscaler.config_file import read_policy
from autoscaler.errors import ConfigError, SourceUnavailable
from autoscaler.hub.client import checked_hub, read_model, repository_of
from autoscaler.hub.kept import kept_path
from tests.hub.test_hub_dialects import QWEN3_8B

MODEL = "acme/chat-8b"
COMMIT = "a" * 40
SIZE = 16_381_470_720
POLICY = f'model = "{MODEL}"\nengine = "vllm"\n'


@dataclass
class FakeHub:
    """Files of one repository, as a hub serves them."""

    url: str = ""
    files: dict[str, object] = field(default_factory=dict)
    answers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(
        default_factory=dict
    )
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix(f"/{MODEL}/resolve/main/")
        self.seen.append((request.method, path, request.headers.get("Authorization")))
        if path in self.answers:
            return await self.answers[path](request)
        if path not in self.files:
            return web.Response(status=404, text="Entry not found")
        return web.json_response(self.files[path], headers={"X-Repo-Commit": COMMIT})


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    fake = FakeHub(files={"config.json": QWEN3_8B})
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def status(code: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text="<script>alert(1)</script>")

    return answer


def body(raw: bytes) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=raw)

    return answer


async def test_the_index_of_the_weights_tells_their_size(
    hub: FakeHub, http: aiohttp.ClientSession
) -> None:
    hub.files["model.safetensors.index.json"] = {"metadata": {"total_size": SIZE}, "weight_map": {}}

    found = await read_model(http, MODEL, hub=hub.url + "/")

    assert found.facts.params_b == 8.191
    assert found.source == f"{hub.url}/{MODEL}/resolve/main/config.json"
    assert found.revision == COMMIT


async def test_weights_in_one_file_are_measured_without_fetching_them(
    hub: FakeHub, http: aiohttp.ClientSession
) -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        assert request.method == "HEAD"
        headers = {"X-Linked-Size": str(SIZE // 2), "Location": "http://127.0.0.1:1/never"}
        return web.Response(status=302, headers=headers)

    hub.answers["model.safetensors"] = elsewhere

    found = await read_model(http, MODEL, hub=hub.url)

    assert found.facts.params_b == pytest.approx(4.1, rel=0.01)


async def test_a_hub_that_tells_no_size_leaves_the_figures_to_count(
    hub: FakeHub, http: aiohttp.ClientSession
) -> None:
    found = await read_model(http, MODEL, hub=hub.url)

    assert found.facts.params_b == pytest.approx(8.19, rel=0.01)


async def test_a_token_opens_a_gated_model_and_goes_to_no_plain_address(
    hub: FakeHub, http: aiohttp.ClientSession
) -> None:
    token = Secret("hf_canary\n")

    await read_model(http, MODEL, hub=hub.url, token=token)
    with pytest.raises(ConfigError, match="not sent over plain HTTP") as refused:
        await read_model(http, MODEL, hub="http://hub.example", token=token)

    assert {sent for _, _, sent in hub.seen} == {"Bearer hf_canary"}
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (404, ConfigError, "there is no such file: is 'acme/chat-8b' right"),
        (401, ConfigError, "name a file with a token in server.token_file"),
        (403, ConfigError, "accept its terms"),
        (418, ConfigError, "the hub answers 418"),
        (429, SourceUnavailable, "try again later"),
        (503, SourceUnavailable, "try again later"),
    ],
)
async def test_a_refusal_says_what_to_do(
    hub: FakeHub, http: aiohttp.ClientSession, code: int, error: type[Exception], said: str
) -> None:
    hub.answers["config.json"] = status(code)

    with pytest.raises(error) as refused:
        await read_model(http, MODEL, hub=hub.url)

    assert said in str(refused.value)
    assert "<script>" not in str(refused.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"<html>hello</html>", "is not JSON"),
        (b"[1, 2]", "is JSON, but no table"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": "' + b"x" * 2_000_000 + b'"}', "more than 1024 KiB"),
        (b"{}", "no layers in it"),
        (b'{"num_hidden_layers": 9e99, "hidden_size": 1}', "not a whole number"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
async def test_what_is_no_description_is_refused_with_the_way_out(
    hub: FakeHub, http: aiohttp.ClientSession, raw: bytes, said: str
) -> None:
    hub.answers["config.json"] = body(raw)

    with pytest.raises(ConfigError) as refused:
        await read_model(http, MODEL, hub=hub.url)

    assert said in str(refused.value)
    assert "[facts]" in str(refused.value)


async def test_a_hub_that_nobody_answers_for_is_an_error_for_later(
    http: aiohttp.ClientSession,
) -> None:
    with pytest.raises(SourceUnavailable, match="no answer"):
        await read_model(http, MODEL, hub="http://127.0.0.1:9")


async def test_an_endless_answer_is_cut_off(hub: FakeHub, http: aiohttp.ClientSession) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            try:
                await answer.write(b" " * 65536)
            except (ConnectionError, aiohttp.ClientError):
                return answer

    hub.answers["config.json"] = endless

    with pytest.raises(ConfigError, match="more than 1024 KiB"):
        async with asyncio.timeout(30):
            await read_model(http, MODEL, hub=hub.url)


@pytest.mark.parametrize("name", ["model", "/etc/passwd", "a/b/c", "a/..", "..", "a/b?x=1", ""])
def test_what_names_no_repository_is_not_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match="is no repository of a hub"):
        repository_of(name)


def test_the_quantization_that_llama_cpp_picks_is_no_part_of_the_repository() -> None:
    assert repository_of("Qwen/Qwen3-8B-GGUF:Q4_K_M") == "Qwen/Qwen3-8B-GGUF"


@pytest.mark.parametrize("url", ["ftp://x", "huggingface.co", "https://u:p@x", "https://x?a=b", ""])
def test_what_is_no_address_of_a_hub_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="HF_ENDPOINT"):
        checked_hub(url)


async def validate(policy: Path, *arguments: str) -> tuple[int, str]:
    """Run the command as an operator does, with this test's hub alive beside it."""
    from typer.testing import CliRunner

    from autoscaler.cli.app import app

    result = await asyncio.to_thread(CliRunner().invoke, app, ["validate", str(policy), *arguments])
    return result.exit_code, result.output


async def test_what_the_hub_told_is_kept_beside_the_policy_and_used_offline(
    hub: FakeHub, tmp_path: Path
) -> None:
    policy = tmp_path / "chat.toml"
    policy.write_text(POLICY)
    hub.files["model.safetensors.index.json"] = {"metadata": {"total_size": SIZE}}

    before = await validate(policy)
    online = await validate(policy, "--online", "--hub", hub.url)
    asked = len(hub.seen)
    after = await validate(policy)

    assert before[0] == 0
    assert "nobody has said what shape this model has" in before[1]
    assert "`autoscaler validate --online`" in before[1]
    assert online[0] == 0, online[1]
    assert "8.191 billion parameters of 2 bytes, 36 layers" in online[1]
    assert f"kept in {tmp_path}/.facts/acme--chat-8b.json" in online[1].replace("\n", "")
    assert f"told by {hub.url}" in after[1]
    assert len(hub.seen) == asked
    facts = read_policy(policy).facts
    assert facts is not None
    assert facts.params_b == 8.191


async def test_facts_by_hand_go_before_what_the_hub_tells(hub: FakeHub, tmp_path: Path) -> None:
    policy = tmp_path / "chat.toml"
    policy.write_text(
        POLICY
        + "[facts]\nparams_b = 8.19\nlayers = 35\nhidden = 4096\nkv_heads = 8\nhead_dim = 128\n"
    )

    code, said = await validate(policy, "--online", "--hub", hub.url)

    facts = read_policy(policy).facts
    assert code == 0, said
    assert "by hand, in [facts]" in said
    assert "has layers = 36 instead of 35" in said
    assert facts is not None
    assert facts.layers == 35
    assert not kept_path(policy, read_policy(policy)).exists()


async def test_a_hub_that_has_no_such_model_fails_the_command(hub: FakeHub, tmp_path: Path) -> None:
    policy = tmp_path / "chat.toml"
    policy.write_text(POLICY)
    hub.files.clear()

    code, said = await validate(policy, "--online", "--hub", hub.url)

    assert code == 2
    assert "there is no such file" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Invalid JSON"),
        ('{"schema": 2}', "schema"),
        ('{"schema": 1, "weights": "acme/other"}', "source"),
        ("x" * 70_000, "too many"),
    ],
)
def test_kept_facts_that_were_changed_are_refused_with_the_cure(
    tmp_path: Path, text: str, said: str
) -> None:
    policy = tmp_path / "chat.toml"
    policy.write_text(POLICY)
    (tmp_path / ".facts").mkdir()
    (tmp_path / ".facts/acme--chat-8b.json").write_text(text)

    with pytest.raises(ConfigError) as refused:
        read_policy(policy)

    assert said in str(refused.value)
    assert "delete it, or make it anew: autoscaler validate --online" in str(refused.value)
