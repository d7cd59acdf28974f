"""Run as a program beside the systemd of `booted.py`: start the units, reload one under streams, say what was seen.

It prints one line of JSON; `failed` is in it when something did not come about, and then the services' logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

GATEWAY = "autoscaler-gateway"
SERVICES = ("autoscaler", "autoscaler-gateway", "autoscaler-tunnels")
CONTROL = "/run/autoscaler-gateway/control.sock"
URL = "http://127.0.0.1:8080/v1/chat/completions"
ASK = {"model": "org/chat-8b", "messages": [], "stream": True}
DONE = b"data: [DONE]\n\n"
STREAMS = 16
DEADLINE_S = 40.0
READY = Path("/run/cloud")
KEY = Path("/etc/autoscaler/mkinf.key")
EMULATOR = ("-m", "autoscaler", "emulator", "--listen", "9500", "--state-dir", "/opt/emulator")


async def work() -> dict[str, Any]:
    """What an operator does, and what comes of it."""
    emulator = await asyncio.create_subprocess_exec(
        *(sys.executable, *EMULATOR, "--access-key-file", str(KEY), "--ready-file", str(READY)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await until(systemd_runs, "systemd is up")
        await systemctl("start", f"{GATEWAY}.socket", f"{GATEWAY}.service")
        seen = await reload_under_streams()
        await until(_emulator_is_up, "the emulator is up")
        await systemctl("start", "autoscaler.service")
        await systemctl("start", "autoscaler-tunnels.socket", "autoscaler-tunnels.service")
        seen["services"] = {service: await facts(service) for service in SERVICES}
        return seen
    finally:
        emulator.kill()
        await emulator.wait()


async def reload_under_streams() -> dict[str, Any]:
    """Reload the gateway while streams run and new requests come."""
    may_end = asyncio.Event()
    async with (
        engine(may_end) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
        asyncio.TaskGroup() as tasks,
    ):
        await tell("POST", "pools/put", model=ASK["model"])
        await tell("POST", "endpoints/add", model=ASK["model"], id="a", url=url)
        streams = [tasks.create_task(ask(client, slow=True)) for _ in range(STREAMS)]

        async def all_run() -> bool:
            state = await tell("GET", "state")
            return bool(state["pools"][ASK["model"]]["running"] >= STREAMS)

        await until(all_run, "the streams run")
        answers: list[bool] = []
        asking = tasks.create_task(_go_on_asking(answers))
        before = (await facts(GATEWAY))["MainPID"]
        await systemctl("reload", f"{GATEWAY}.service")

        async def replaced() -> bool:
            return (await facts(GATEWAY))["MainPID"] not in (before, "0")

        await until(replaced, "systemd knows another main process")
        await until(all_run, "the streams are counted by the new process")
        may_end.set()
        whole = await asyncio.gather(*streams)

        async def alone() -> bool:
            return not (await tell("GET", "state"))["predecessors"]

        await until(alone, "the old process has ended")
        asking.cancel()
    return {
        "whole": whole.count(True),
        "refused": answers.count(False),
        "answered": answers.count(True),
    }


async def _go_on_asking(answers: list[bool]) -> None:
    while True:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as one:
            answers.append(await ask(one))
        await asyncio.sleep(0.01)


async def ask(client: aiohttp.ClientSession, *, slow: bool = False) -> bool:
    """Ask the gateway; whether the answer came whole."""
    try:
        async with client.post(URL, json=ASK, headers={"x-slow": "1"} if slow else {}) as answer:
            return (await answer.read()).endswith(DONE)
    except aiohttp.ClientError:
        return False


@contextlib.asynccontextmanager
async def engine(may_end: asyncio.Event) -> AsyncIterator[str]:
    """A model server whose slow streams last until they may end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        if "x-slow" in request.headers:
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


async def tell(method: str, path: str, **body: object) -> Any:  # JSON of the gateway
    connector = aiohttp.UnixConnector(CONTROL, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, raise_for_status=True) as session,
        session.request(method, f"http://gateway/v1/{path}", json=body or None) as answer,
    ):
        return await answer.json()


async def systemctl(*words: str) -> str:
    """What it says; raises when it fails."""
    process = await asyncio.create_subprocess_exec(
        "systemctl", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"systemctl {' '.join(words)}: {said.decode()}")
    return said.decode().strip()


async def facts(service: str) -> dict[str, str]:
    """A service's state as systemd sees it."""
    said = await systemctl("show", f"{service}.service", "-p", "MainPID,ActiveState,NRestarts")
    return dict(line.split("=", 1) for line in said.splitlines())


async def systemd_runs() -> bool:
    try:
        return await systemctl("is-system-running") == "running"
    except RuntimeError:
        return False


async def _emulator_is_up() -> bool:
    return READY.exists()  # noqa: ASYNC240 - it is in memory


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask again and again until it is so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not await holds():
        if loop.time() > deadline:
            raise TimeoutError(f"not within {DEADLINE_S:g} s: {what}")
        await asyncio.sleep(0.05)


def main() -> None:
    try:
        said = asyncio.run(work())
    except BaseException as exc:
        logs = {path.name: path.read_text()[-1500:] for path in Path("/run").glob("*.log")}
        said = {"failed": repr(exc), "logs": logs}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
