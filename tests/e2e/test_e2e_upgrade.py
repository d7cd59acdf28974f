"""The daemon is killed and the gateway upgraded under load: no stream breaks, and a drain waits for both gateways."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.e2e.conftest import Build
from tests.e2e.world import World, seconds

pytestmark = [pytest.mark.e2e, pytest.mark.started_anew]

STREAMS = 256
DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def patient_engine(may_end: asyncio.Event) -> AsyncIterator[str]:
    """A model server at the network's edge whose streams last until they may end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        await may_end.wait()
        await response.write(DONE)
        return response

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def tell(there: World, method: str, path: str, **body: Any) -> Any:  # JSON of the gateway
    connector = aiohttp.UnixConnector(str(there.directory / "run" / "gateway.sock"))
    async with (
        aiohttp.ClientSession(connector=connector, raise_for_status=True) as session,
        session.request(method, f"http://gateway/v1/{path}", json=body or None) as answer,
    ):
        return await answer.json()


async def upgrade_gateway(there: World) -> None:
    """Start another gateway that takes over, and wait until it does."""
    before = (await tell(there, "GET", "state"))["boot_id"]
    await there.spawn(
        "successor", "gateway", "--listen", f"127.0.0.1:{there.gateway_port}",
        "--control", str(there.directory / "run" / "gateway.sock"), "--state", "gateway.json",
        "--take-over",
    )  # fmt: skip

    async def replaced() -> bool:
        return bool((await tell(there, "GET", "state"))["boot_id"] != before)

    await there.until(replaced, "the gateway is upgraded")


async def stream(client: aiohttp.ClientSession, there: World) -> bool:
    """Ask the patient engine; whether the stream came whole."""
    ask = {"model": "patient", "prompt": "hello", "stream": True}
    try:
        async with client.post(f"{there.gateway}/v1/completions", json=ask) as response:
            return (await response.read()).endswith(DONE)
    except aiohttp.ClientError:
        return False


async def test_a_killed_daemon_and_an_upgraded_gateway_break_none_of_256_streams(
    world: Build,
) -> None:
    there = await world(nodes={"min": 1, "max": 1})
    (node,) = await there.ready()
    may_end = asyncio.Event()

    async def running() -> int:
        state = await tell(there, "GET", "state")
        return int(state["pools"]["patient"]["running"])

    async def all_run() -> bool:
        return await running() == STREAMS

    async with (
        patient_engine(may_end) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await tell(there, "POST", "pools/put", model="patient")
        await tell(there, "POST", "endpoints/add", model="patient", id="p", url=url)
        streams = [tasks.create_task(stream(client, there)) for _ in range(STREAMS)]
        await there.until(all_run, f"{STREAMS} streams run")

        await there.end("daemon", signal.SIGKILL)
        alone = await there.ask()
        await there.start_daemon()
        on_node = await there.streams(4, tokens=300)
        await upgrade_gateway(there)
        after = await there.ask()
        said = await there.command("retire", "chat", "--yes")
        leaving = await there.in_state(node["name"], "draining", "terminating", "gone")
        still = await running()
        may_end.set()

    broken = [task.result() for task in streams].count(False)
    print(f"daemon killed, gateway upgraded under {STREAMS} streams: {broken} broken")
    assert broken == 0
    assert still == STREAMS
    assert said.code == 0, said
    assert (alone.whole, after.whole) == (True, True)
    answers = await asyncio.gather(*on_node)
    assert all(answer.whole for answer in answers)
    await there.is_empty()
    gone = await there.in_state(leaving["name"], "gone")
    last = max(answer.ended_at for answer in answers)
    assert seconds(gone["unregistered_at"]) >= last - 0.5  # the elder's streams were waited for
