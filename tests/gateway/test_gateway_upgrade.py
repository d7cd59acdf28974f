"""A gateway is replaced by another under load: no stream cut, nobody refused, nothing taken for zero."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

MODEL = "org/chat-8b"
ASK = {"model": MODEL, "messages": [], "stream": True}
STREAMS = 256
DEADLINE_S = 40.0


@dataclass
class Processes:
    """The processes of one gateway, one after the other, and what its clients and its daemon see."""

    folder: Path
    port: int
    client: aiohttp.ClientSession
    control: aiohttp.ClientSession
    running: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    async def start(self, *options: str, **environ: str) -> asyncio.subprocess.Process:
        """Start one, and wait until it serves the daemon."""
        before = await self.boot_id()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "autoscaler.gateway", "--listen", f"127.0.0.1:{self.port}"),
            *("--control", str(self.folder / "control.sock")),
            *("--state", str(self.folder / "state.json"), *options),
            env=dict(os.environ) | environ,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.running.append(process)
        await self.until_replaced(before)
        return process

    async def boot_id(self) -> str | None:
        try:
            return str((await self.tell("GET", "state"))["boot_id"])
        except aiohttp.ClientError:
            return None

    async def until_replaced(self, before: str | None) -> str:
        async with asyncio.timeout(DEADLINE_S):
            while (now := await self.boot_id()) in (before, None):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert now is not None
        return now

    async def tell(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        url = f"http://gateway/v1/{path}"
        async with self.control.request(method, url, json=body or None) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def pool(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self.tell("GET", "state"))["pools"][MODEL]
        return state

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            while not holds(pool := await self.pool()):  # noqa: ASYNC110 - it is in the other side
                await asyncio.sleep(0.02)
            return pool

    async def serve(self, **endpoints: str) -> None:
        await self.tell("POST", "pools/put", model=MODEL)
        for name, url in endpoints.items():
            await self.tell("POST", "endpoints/add", model=MODEL, id=name, url=url)

    async def ask(self) -> bool:
        """Ask once, over a connection of its own; whether the answer came whole."""
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(self.url, json=ASK) as response,
        ):
            return (await response.read()).endswith(b"data: [DONE]\n\n")

    async def open_streams(self, count: int) -> list[aiohttp.ClientResponse]:
        return list(
            await asyncio.gather(*(self.client.post(self.url, json=ASK) for _ in range(count)))
        )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="gw-") as name:
        yield Path(name)


@pytest.fixture
async def processes(folder: Path) -> AsyncIterator[Processes]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(folder / "control.sock"), force_close=True),
                raise_for_status=True,
            )
        )
        client = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        found = Processes(folder, port, client, control)
        yield found
        for process in found.running:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def whole(streams: list[aiohttp.ClientResponse]) -> int:
    """How many of them end as they should."""

    async def is_whole(stream: aiohttp.ClientResponse) -> bool:
        try:
            return (await stream.read()).endswith(b"data: [DONE]\n\n")
        except aiohttp.ClientError:
            return False

    return sum(await asyncio.gather(*(is_whole(stream) for stream in streams)))


@asynccontextmanager
async def asking(processes: Processes) -> AsyncIterator[list[bool]]:
    """Keep asking, one request after the other, each on a new connection."""
    answers: list[bool] = []

    async def go_on() -> None:
        while True:
            try:
                answers.append(await processes.ask())
            except aiohttp.ClientError:
                answers.append(False)

    task = asyncio.create_task(go_on())
    try:
        yield answers
    finally:
        task.cancel()
        await asyncio.wait((task,))


def ancestors(pid: int) -> list[int]:
    """The parent of a process, that one's parent, and so on."""
    found: list[int] = []
    while pid > 1:
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
    return found


async def test_256_streams_outlive_an_upgrade_and_nobody_is_refused_meanwhile(
    processes: Processes, engines: Any
) -> None:
    slow, quick = await engines(), await engines()
    slow.gate.clear()
    old = await processes.start()
    await processes.serve(slow=slow.url)
    streams = await processes.open_streams(STREAMS)
    await processes.tell("POST", "endpoints/add", model=MODEL, id="quick", url=quick.url)
    await processes.tell("POST", "endpoints/drain", model=MODEL, id="slow")

    async with asking(processes) as answers:
        await processes.start("--take-over")
        upgraded = await processes.pool()
        seen = len(answers)
        async with asyncio.timeout(DEADLINE_S):
            while len(answers) < seen + 20:  # noqa: ASYNC110 - each is an answer over the network
                await asyncio.sleep(0.01)
    is_old_alive = old.returncode is None
    slow.gate.set()
    unbroken = await whole(streams)
    gone = await processes.until(lambda pool: not pool["endpoints"]["slow"]["in_flight"])
    async with asyncio.timeout(DEADLINE_S):
        code = await old.wait()

    print(
        f"gateway upgraded under {STREAMS} streams: {STREAMS - unbroken} broken, "
        f"{answers.count(False)} of {len(answers)} new requests failed meanwhile"
    )
    assert is_old_alive
    assert upgraded["endpoints"]["slow"]["in_flight"] == STREAMS
    assert upgraded["running"] >= STREAMS
    assert unbroken == STREAMS
    assert all(answers)
    assert gone["endpoints"]["slow"]["state"] == "draining"
    assert code == 0


async def test_a_signal_starts_the_next_process_by_itself(
    processes: Processes, engine: Any, folder: Path
) -> None:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(folder / "notify.sock"))
    heard.setblocking(False)
    loop, facts = asyncio.get_running_loop(), [""]
    with heard:
        old = await processes.start(NOTIFY_SOCKET=str(folder / "notify.sock"))
        await processes.serve(a=engine.url)
        before = await processes.boot_id()
        old.send_signal(signal.SIGUSR2)
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not facts[-1].startswith("MAINPID="):
                    facts += (await loop.sock_recv(heard, 1000)).decode().splitlines()
            successor = int(facts[-1].removeprefix("MAINPID="))
            above = ancestors(successor)
            await processes.until_replaced(before)
            answered = await processes.ask()
            async with asyncio.timeout(DEADLINE_S):
                code = await old.wait()
            state = await processes.pool()
        finally:
            if facts[-1].startswith("MAINPID="):
                os.kill(int(facts[-1].removeprefix("MAINPID=")), signal.SIGKILL)

    assert successor != old.pid
    assert old.pid not in above  # it is the service manager's child, which hears of its end
    assert answered
    assert code == 0
    assert state["endpoints"]["a"]["state"] == "active"
