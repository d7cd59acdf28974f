"""What docs/logs.md tells to configure is what a real HAProxy, and a real nginx, log so that we can read it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from autoscaler.traces.log_format import LogFormat
from autoscaler.traces.log_sizes import LogOptions
from autoscaler.traces.logs import read_logs
from tests.balance.parts import haproxy_binary
from tests.world.files import free_port
from tests.world.haproxy import SHIPPED, shipped

PAGE = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
MODEL = "Qwen/Qwen3-8B"
PATH = "/v1/chat/completions"
EVENT = (
    f'data: {{"id":"chatcmpl-{"a" * 32}","object":"chat.completion.chunk","created":1732420000,"model":"{MODEL}",'
    '"choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null}]}\n\n'
)
DEADLINE_S = 60.0


def block(language: str) -> str:
    """What docs/logs.md tells to put into a configuration."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return str(found)


async def chat(request: web.Request) -> web.StreamResponse:
    """An engine: 77 tokens in, as many out as it is asked for."""
    asked = await request.json()
    tokens = asked["max_tokens"]
    usage = (
        f'"usage":{{"prompt_tokens":77,"total_tokens":{77 + tokens},"completion_tokens":{tokens}}}'
    )
    if not asked["stream"]:
        text = '{"choices":[{"message":{"content":"\\"usage\\""}}],' + usage + "}"
        return web.Response(text=text, content_type="application/json")
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await answer.prepare(request)
    for _ in range(tokens):
        await answer.write(EVENT.encode())
    if asked["stream_options"]["include_usage"]:
        early = usage.replace(f":{tokens}}}", ":1}")  # some servers tell it with every token
        await answer.write(f'data: {{{early}}}\n\ndata: {{"choices":[],{usage}}}\n\n'.encode())
    await answer.write(b"data: [DONE]\n\n")
    return answer


@asynccontextmanager
async def engine() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_post(PATH, chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(*command: str, port: int) -> AsyncIterator[None]:
    """A server, from when its port is open."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                assert process.returncode is None
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    await writer.wait_closed()
                    break
                await asyncio.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def ask_thrice(port: int) -> None:
    """A whole answer of 30 tokens, a stream of 40 with its usage, one of 50 without; and something else."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for tokens, stream, usage in ((30, False, False), (40, True, True), (50, True, False)):
            body = {
                "model": MODEL,
                "stream": stream,
                "stream_options": {"include_usage": usage},
                "max_tokens": tokens,
                "messages": [{"role": "user", "content": "a secret " * 100}],
            }
            headers = {"x-model": MODEL}
            async with session.post(f"{PATH}?key=secret", json=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
        async with session.get("/v1/models") as answer:
            await answer.read()


@asynccontextmanager
async def logged_by_haproxy(folder: Path, *frontend: str) -> AsyncIterator[Path]:
    """What our HAProxy logs of `ask_thrice`, with this in its global part and this in its frontend."""
    port, path = free_port(), folder / "haproxy.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(folder / "log.sock"))
        log.setblocking(False)
        async with engine() as engine_port:
            config = shipped(
                folder,
                front=port,
                metrics=free_port(),
                activator=f"127.0.0.1:{engine_port}",
                edits=[
                    ("    # the daemon needs", block("haproxy-global") + "    # the daemon needs"),
                    ("/etc/haproxy/usage.lua", str(SHIPPED / "usage.lua")),
                    (
                        "frontend models\n",
                        f"frontend models\n    log {folder}/log.sock len 4096 local0\n",
                    ),
                    ("    # Which model:", "".join(frontend) + "    # Which model:"),
                    ("/etc/haproxy/models.map", str(SHIPPED / "models.map")),
                ],
            )
            (folder / "haproxy.cfg").write_text(config)
            command = (haproxy_binary(), "-db", "-f", str(folder / "haproxy.cfg"))
            async with running(*command, port=port):
                await ask_thrice(port)
                path.write_bytes(b"\n".join(await _received(log, b"GET")))
    yield path


async def test_haproxy_configured_as_told_logs_every_token_that_usage_tells(tmp_path: Path) -> None:
    async with logged_by_haproxy(tmp_path, block("haproxy-frontend")) as path:
        with read_logs([path]) as trace:
            found = [(r.prompt_tokens, r.output_tokens) for r in trace]

    assert trace.report.formats == ((path, LogFormat.JSON),)
    assert trace.report.models == ((MODEL, 3),)
    assert found[:2] == [(77, 30), (77, 40)]
    assert (trace.report.prompt_estimates, trace.report.output_estimates) == (1, 1)
    # the prompt of 900 bytes, with the JSON around it, and a stream of which only the length is known
    assert 220 <= found[2][0] <= 260
    assert 45 <= found[2][1] <= 52
    assert (trace.report.whole_seconds, trace.report.at_end) == (0, 0)


async def test_haproxys_own_format_with_the_captures_gives_as_much_to_estimate_from(
    tmp_path: Path,
) -> None:
    captures = (
        "    option httplog # as shipped, which runs here without\n",
        block("haproxy-captures"),
    )
    async with logged_by_haproxy(tmp_path, *captures) as path:
        with read_logs([path]) as trace:
            found = [(r.prompt_tokens, r.output_tokens) for r in trace]

    assert trace.report.formats == ((path, LogFormat.HAPROXY),)
    assert trace.report.models == (("qwen-qwen3-8b", 3),)
    assert all(220 <= prompt <= 260 for prompt, _ in found)
    assert [output for _, output in found] == [
        pytest.approx(tokens, abs=3) for tokens in (1, 39, 49)
    ]


async def test_nginx_configured_as_told_logs_lengths_to_estimate_from(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if nginx is None:
        pytest.skip("no nginx here: its own lines are in test_traces_logs.py")
    port = free_port()
    timed = '\'$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
    timed += '"$http_referer" "$http_user_agent" $request_time $upstream_response_time\''
    places = "".join(
        f"    {what}_temp_path {tmp_path}/{what};\n"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    async with engine() as engine_port:
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/errors;\n"
            f"events {{}}\nhttp {{\n{places}{block('nginx')}    log_format timed {timed};\n"
            f"    server {{\n    listen 127.0.0.1:{port};\n    access_log {tmp_path}/json.log models;\n"
            f"    access_log {tmp_path}/timed.log timed;\n    access_log {tmp_path}/plain.log;\n"
            f"    location / {{ proxy_pass http://127.0.0.1:{engine_port}; proxy_http_version 1.1; }}\n}} }}\n"
        )
        command = (nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))
        async with running(*command, port=port):
            await ask_thrice(port)

    for name, prompts in (("json", range(220, 260)), ("timed", (5,)), ("plain", (5,))):
        with read_logs([tmp_path / f"{name}.log"], LogOptions(prompt_tokens=5)) as trace:
            prompt, output = zip(*((r.prompt_tokens, r.output_tokens) for r in trace), strict=True)
        assert all(tokens in prompts for tokens in prompt)
        assert sorted(output) == [pytest.approx(tokens, abs=3) for tokens in (1, 39, 49)]
        assert trace.report.at_end == (3 if name == "plain" else 0)


async def _received(log: socket.socket, last: bytes) -> list[bytes]:
    """What HAProxy logged, up to the line with these bytes."""
    loop = asyncio.get_running_loop()
    lines: list[bytes] = []
    async with asyncio.timeout(DEADLINE_S):
        while not lines or last not in lines[-1]:
            lines.append(await loop.sock_recv(log, 65536))
    return lines
