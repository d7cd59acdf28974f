"""The process itself: it outlives restarts, ends without cutting, and talks to systemd."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

MODEL = "org/chat-8b"
ASK = {"model": MODEL, "messages": [], "stream": True}


@asynccontextmanager
async def process(
    folder: Path, port: int, *options: str, **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the real process and wait until its control socket answers."""
    control = folder / "control.sock"
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autoscaler.gateway", "--listen", f"127.0.0.1:{port}"),
        *("--control", str(control), "--state", str(folder / "state.json"), *options),
        env=dict(os.environ) | environ,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            while started.returncode is None:
                try:
                    await tell(folder, "GET", "state")
                    break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.02)
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def tell(folder: Path, method: str, path: str, **body: Any) -> dict[str, Any]:
    connector = aiohttp.UnixConnector(str(folder / "control.sock"))
    async with (
        aiohttp.ClientSession(connector=connector, raise_for_status=True) as session,
        session.request(method, f"http://gateway/v1/{path}", json=body or None) as response,
    ):
        answer: dict[str, Any] = await response.json()
        return answer


@pytest.fixture
def port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        found: int = bound.getsockname()[1]
        return found


async def test_sigterm_ends_streams_whole_and_answers_held_requests_503(
    tmp_path: Path, port: int, engine: Any
) -> None:
    engine.gate.clear()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with process(tmp_path, port) as running, aiohttp.ClientSession() as client:
        await tell(tmp_path, "POST", "pools/put", model=MODEL, retry_after_s=42)
        await tell(tmp_path, "POST", "pools/put", model="asleep")
        await tell(tmp_path, "POST", "endpoints/add", model=MODEL, id="a", url=engine.url)
        stream = await client.post(url, json=ASK)
        held = asyncio.create_task(client.post(url, json=ASK | {"model": "asleep"}))
        await tell(tmp_path, "POST", "wait", model="asleep", timeout_s=10)

        running.send_signal(signal.SIGTERM)
        refused = await held
        with pytest.raises(aiohttp.ClientConnectionError):
            async with aiohttp.ClientSession() as late, late.post(url, json=ASK):
                pass
        state = await tell(tmp_path, "GET", "state")
        engine.gate.set()
        body = await stream.read()
        async with asyncio.timeout(10):
            code = await running.wait()

    assert refused.status == 503
    assert refused.headers["Retry-After"] == "30"
    assert (await refused.json())["error"]["code"] == "shutdown"
    assert state["stopping"]
    assert state["pools"][MODEL]["running"] == 1
    assert body.endswith(b"data: [DONE]\n\n")
    assert code == 0


async def test_the_drain_timeout_bounds_the_end(tmp_path: Path, port: int, engine: Any) -> None:
    engine.gate.clear()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with (
        process(tmp_path, port, "--drain-timeout", "0.2") as running,
        aiohttp.ClientSession() as client,
    ):
        await tell(tmp_path, "POST", "pools/put", model=MODEL)
        await tell(tmp_path, "POST", "endpoints/add", model=MODEL, id="a", url=engine.url)
        stream = await client.post(url, json=ASK)

        running.send_signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()
        async with asyncio.timeout(10):
            assert await running.wait() == 0


async def test_a_second_signal_cuts_what_the_first_let_finish(
    tmp_path: Path, port: int, engine: Any
) -> None:
    engine.gate.clear()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with process(tmp_path, port) as running, aiohttp.ClientSession() as client:
        await tell(tmp_path, "POST", "pools/put", model=MODEL)
        await tell(tmp_path, "POST", "endpoints/add", model=MODEL, id="a", url=engine.url)
        stream = await client.post(url, json=ASK)

        running.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            while not (await tell(tmp_path, "GET", "state"))["stopping"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.send_signal(signal.SIGINT)
        with pytest.raises(aiohttp.ClientError):
            await stream.read()
        async with asyncio.timeout(10):
            assert await running.wait() == 0


async def test_a_killed_gateway_serves_at_once_when_it_returns(
    tmp_path: Path, port: int, engine: Any
) -> None:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with process(tmp_path, port) as first:
        await tell(tmp_path, "POST", "pools/put", model=MODEL, aliases=["fast"])
        for name in ("a", "b"):
            await tell(tmp_path, "POST", "endpoints/add", model=MODEL, id=name, url=engine.url)
        await tell(tmp_path, "POST", "endpoints/drain", model=MODEL, id="b")
        before = await tell(tmp_path, "GET", "state")
        first.kill()
        await first.wait()

    async with process(tmp_path, port), aiohttp.ClientSession() as client:
        after = await tell(tmp_path, "GET", "state")
        async with client.post(url, json=ASK | {"model": "fast"}) as response:
            assert response.status == 200
            await response.read()

    endpoints = after["pools"][MODEL]["endpoints"]
    assert endpoints["a"]["state"] == "active"
    assert endpoints["b"]["state"] == "draining"
    assert after["generation"] >= before["generation"]
    assert after["boot_id"] != before["boot_id"]


async def test_readiness_and_stopping_are_told_to_systemd(tmp_path: Path, port: int) -> None:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(f"\0{tmp_path}")  # a name without a file, which systemd writes with an @
    heard.setblocking(False)
    loop = asyncio.get_running_loop()
    environ = {"NOTIFY_SOCKET": f"@{tmp_path}", "WATCHDOG_USEC": "200000"}
    facts: list[str] = []
    with heard:
        async with process(tmp_path, port, **environ) as running, asyncio.timeout(20):
            while "WATCHDOG=1" not in facts:
                facts += (await loop.sock_recv(heard, 1000)).decode().splitlines()
            running.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in facts:
                facts += (await loop.sock_recv(heard, 1000)).decode().splitlines()

    assert facts[0] == "READY=1"


async def test_sockets_that_systemd_opened_are_taken_over(tmp_path: Path) -> None:
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen()
    port = opened.getsockname()[1]
    hand_over = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3, inheritable=True);"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, '-m', 'autoscaler.gateway', *sys.argv[2:]])"
    )
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", hand_over, str(opened.fileno())),
        *("--control", str(tmp_path / "control.sock"), "--listen", "127.0.0.1:1"),
        pass_fds=(opened.fileno(),),
        stderr=asyncio.subprocess.PIPE,
    )
    opened.close()
    try:
        async with (
            asyncio.timeout(20),
            aiohttp.ClientSession() as client,
            client.get(f"http://127.0.0.1:{port}/health") as response,
        ):
            assert response.status == 200
        running.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            _, log = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()

    assert running.returncode == 0
    assert b"listen_not_served" in log
    assert b"ListenStream=" in log


async def test_a_wrong_address_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autoscaler.gateway", "--listen", "nowhere"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        _, told = await running.communicate()

    assert running.returncode == 2
    assert b"HOST:PORT" in told


async def test_a_state_file_that_cannot_be_read_is_set_aside(settings: Any, start: Any) -> None:
    settings.state_file.write_text('{"pools": [')

    async with start() as gateway:
        await gateway.pool()

    kept = list(settings.state_file.parent.glob("state.json.bad-*"))
    assert [file.read_text() for file in kept] == ['{"pools": [']
    assert json.loads(settings.state_file.read_text())["pools"][0]["settings"]["model"] == MODEL


async def test_a_state_file_that_cannot_be_written_is_told_and_nothing_is_refused(
    tmp_path: Path, start: Any, engine: Any
) -> None:
    async with start(state_file=tmp_path / "missing" / "state.json") as gateway:
        told = await gateway.tell("pools/put", model=MODEL)
        await gateway.add("a", engine.url)
        status, _, _ = await gateway.chat()
        behind = (await gateway.ask("state"))["state_file_behind"]
        (tmp_path / "missing").mkdir()
        mended = await gateway.tell("pools/put", model=MODEL)

    assert not told["persisted"]
    assert behind
    assert status == 200
    assert mended["persisted"]
