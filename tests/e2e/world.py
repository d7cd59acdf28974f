"""A world to test in: an emulated cloud, a gateway and a daemon, each a process of its own.

Everything is observed from outside, as an operator and a client would: the daemon's socket, its commands, the cloud's
own books, and what a client reads from the gateway.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.world import client
from tests.world.client import Answer
from tests.world.files import Json, Table, free_port, merged, toml
from tests.world.policies import CHEAP, SHORT_WINDOWS
from tests.world.processes import Processes, Said, die_with_parent

DEADLINE_S = 30.0
MODEL = "test/chat"
CANARY_TOKEN = "hf_canaryTokenThatMayNeverBeSeen"
CLOSED = ("gone", "lost", "cancelled")
_POLL_S = 0.05

TIMINGS: Table = {
    "reconcile": "500ms",
    "step": "150ms",
    "sweep": "1s",
    "market": "1s",
    "settling_time": "8s",
    "orphan_grace": "4s",
    "gone_after": "500ms",
    "delete_retry": "500ms",
    "delete_retry_max": "2s",
    "in_flight_gap": "200ms",
    "ssh_retry": "150ms",
    "liveness": "300ms",
    "unhealthy_after": "1s",
    "start_caution": "1s",
}

POLICY: Table = {
    **CHEAP,
    **SHORT_WINDOWS,
    "model": MODEL,
    "aliases": ["chat"],
    "nodes": {"min": 0, "max": 4},
    "retries": {"offer_backoff": "20s", "offer_backoff_max": "60s"},
    "deadlines": {"creating": "20s", "booting": "20s", "verifying": "30s"},
    "hold": {"time": "30s"},
}


def seconds(text: str) -> float:
    """A time as the daemon tells it, in Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


class Refused(OSError):
    """The daemon answers, and has nothing to tell yet."""


class World:
    """One world."""

    def __init__(self, directory: Path, session: aiohttp.ClientSession, *, forked: bool) -> None:
        self.directory = directory
        self.session = session
        self.cloud: Json = {}
        self.gateway_port = free_port()
        self.serve_port = free_port()
        self.config_edits: Table = {}
        self.processes = Processes(directory, forked=forked)
        self.spawn, self.end = self.processes.spawn, self.processes.end
        self.signal, self.pid = self.processes.signal, self.processes.pid
        self.exit_code = self.processes.exit_code
        self.logs, self.log_of = self.processes.logs, self.processes.log_of

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def serve(self) -> str:
        return f"http://127.0.0.1:{self.serve_port}"

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "daemon.sock"

    # processes

    async def start_emulator(self, *arguments: str) -> None:
        ready = self.directory / "cloud.json"
        await self.spawn(
            "emulator", "emulator", "--ready-file", "cloud.json", "--access-key-file", "access-key",
            "--time-factor", "100", "--state-dir", "machines", *arguments,
        )  # fmt: skip
        await self._is_up("emulator", ready.exists)
        self.cloud = json.loads(ready.read_text())

    async def start_gateway(self, *arguments: str) -> None:
        (self.directory / "run").mkdir(mode=0o700, exist_ok=True)
        control = self.directory / "run" / "gateway.sock"
        control.unlink(missing_ok=True)
        await self.spawn(
            "gateway", "gateway", "--listen", f"127.0.0.1:{self.gateway_port}",
            "--control", str(control), "--state", "gateway.json",
            *arguments,
        )  # fmt: skip
        await self._is_up("gateway", control.exists)

    async def start_daemon(self, *prefix: str) -> None:
        """Start the daemon and wait until it has swept and read the market."""
        self.write_config()
        self.socket.unlink(missing_ok=True)
        await self.spawn("daemon", "run", "--config", "config.toml", prefix=prefix)
        await self._is_up("daemon", self.socket.exists)

        async def is_ready() -> bool:
            async with self.session.get(f"{self.serve}/readyz") as answer:
                return answer.status == 200

        await self.until(is_ready, "the daemon is ready")

    async def stop(self) -> None:
        await self.processes.stop("daemon", "gateway", "emulator")

    async def _is_up(self, name: str, is_up: Callable[[], bool]) -> None:
        async def up() -> bool:
            code = self.processes.has_ended(name)
            if code is not None:
                pytest.fail(f"{name} ended with {code}\n{self.logs()}")
            return is_up()

        await self.until(up, f"{name} is up")

    # files

    def config(self) -> Json:
        base = {
            "schema": 1,
            "policies": "policies",
            "state_dir": "state",
            "runtime_dir": "run",
            "cloud": {
                "url": self.cloud.get("url", "http://127.0.0.1:9/v0.1"),
                "project": self.cloud.get("project_id", "p"),
                "key_file": "access-key",
                "owner": "testtest",
                "requests_per_s": 200,
                "in_flight": 16,
            },
            "limits": {"usd_per_hour": "20", "usd_per_month": "1000", "nodes": 10},
            "ssh": {"port": self.cloud.get("ssh_port", 2222)},
            "firewall": {"sources": ["127.0.0.1/32"]},
            "serve": {"listen": f"127.0.0.1:{self.serve_port}"},
            "timings": TIMINGS,
            "log": {"level": "debug", "format": "json"},
        }
        return merged(base, self.config_edits)

    def write_config(self) -> None:
        (self.directory / "config.toml").write_text(toml(self.config()))

    def write_policy(self, name: str = "chat", **edits: Any) -> Path:
        """Write `policies/<name>.toml`: the usual policy with these edits."""
        folder = self.directory / "policies"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.toml"
        # In one step, as a good editor does: the daemon watches the folder.
        part = self.directory / f"{name}.part"
        part.write_text(toml(merged(POLICY, edits)))
        part.replace(path)
        return path

    # the cloud

    async def admin(self, method: str, path: str, **body: object) -> Any:  # JSON of the emulator
        url = f"{self.cloud['admin_url']}{path}"
        async with self.session.request(method, url, json=body or None) as answer:
            assert answer.status < 400, await answer.text()
            return await answer.json()

    async def fault(self, kind: str, **options: object) -> None:
        await self.admin("POST", "/faults", kind=kind, **options)

    async def clear_faults(self) -> None:
        await self.admin("DELETE", "/faults")

    async def struck(self, kind: str) -> int:
        """How often a kind of fault has struck."""
        return int((await self.admin("GET", "/faults"))["struck"].get(kind, 0))

    async def calls(self, call: str) -> list[Json]:
        """Every call of one kind that the cloud took, oldest first."""
        events = (await self.admin("GET", "/ledger?kind=call&limit=10000"))["events"]
        return [event for event in events if event["details"].get("call") == call]

    async def created_names(self) -> list[str]:
        """The name in every create call, in order."""
        return [str(call["name"]) for call in await self.calls("create_vm")]

    async def machines(self) -> list[Json]:
        """The VMs that there are, whatever is told of them."""
        vms: list[Json] = (await self.admin("GET", "/snapshot"))["vms"]
        return vms

    async def billing(self) -> list[Json]:
        items: list[Json] = (await self.admin("GET", "/bill"))["still_billing"]
        return items

    async def only_in_stock(self, **counts: int) -> None:
        """Let only these types be in stock, each in the locations that offer it; `l40s` is `l40s-48gb.1x`."""
        names = {
            "l40s": "l40s-48gb.1x",
            "a40": "a40.1x",
            "a100": "a100.1x",
            "a100_80": "a100-80gb.1x",
        }
        wanted = {names[key]: count for key, count in counts.items()}
        for item in (await self.admin("GET", "/stock"))["items"]:
            await self.admin(
                "PUT", "/stock", type=item["type"], location=item["location"],
                count=wanted.get(item["type"], 0),
            )  # fmt: skip

    # the daemon

    async def get(self, path: str) -> Any:  # JSON of the daemon
        connector = aiohttp.UnixConnector(str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://daemon{path}") as answer,
        ):
            if answer.status != 200:
                raise Refused(await answer.text())
            return await answer.json()

    async def tell(self, verb: str, **body: str) -> None:
        """Say a verb on the daemon's socket, as a command does and without its start."""
        connector = aiohttp.UnixConnector(str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://daemon/api/v1/{verb}", json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()

    async def nodes(self, *states: str) -> list[Json]:
        """All nodes, closed ones included, or those in some states; oldest first."""
        found: list[Json] = await self.get("/api/v1/nodes?all=1")
        return sorted(
            (node for node in found if not states or node["state"] in states),
            key=lambda node: str(node["created_at"]),
        )

    async def events(self, **query: str) -> list[Json]:
        """Recorded events, oldest first."""
        text = "&".join(f"{key}={value}" for key, value in query.items())
        found: list[Json] = await self.get(f"/api/v1/events?limit=1000&{text}")
        return sorted(found, key=lambda event: str(event["at"]))

    async def metrics(self) -> str:
        """The daemon's page for Prometheus."""
        async with self.session.get(f"{self.serve}/metrics") as answer:
            return await answer.text()

    async def model(self) -> Json:
        """The first model's line of the status."""
        models: list[Json] = (await self.get("/api/v1/status"))["models"]
        return models[0]

    async def ready(self, count: int = 1) -> list[Json]:
        """Wait until so many nodes are ready; the ready ones."""

        async def enough() -> bool:
            return len(await self.nodes("ready")) >= count

        await self.until(enough, f"{count} nodes are ready")
        return await self.nodes("ready")

    async def is_empty(self) -> None:
        """Wait until every node is closed and nothing bills."""

        async def empty() -> bool:
            return not await self.billing() and not [
                node for node in await self.nodes() if node["state"] not in CLOSED
            ]

        await self.until(empty, "nothing is left and nothing bills")

    async def in_state(self, name: str, *states: str) -> Json:
        """Wait until a node is in one of these states."""

        async def there() -> bool:
            return any(node["name"] == name for node in await self.nodes(*states))

        await self.until(there, f"{name} is {' or '.join(states)}")
        return next(node for node in await self.nodes() if node["name"] == name)

    async def command(self, *arguments: str, config: str = "config.toml") -> Said:
        """Run `autoscaler …` as an operator would."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "autoscaler", *arguments, "--config", config,
            cwd=self.directory, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
        return Said(process.returncode or 0, out.decode(), err.decode())

    # clients

    async def ask(
        self,
        model: str = MODEL,
        *,
        tokens: int = 8,
        stream: bool = False,
        base: str = "",
        seen: Answer | None = None,
    ) -> Answer:
        """Ask once, and read the answer to its end. Never raises: what broke is in `error`.

        Args:
            base: another address than the gateway's.
            seen: filled while the answer comes, for a test that looks at it on the way.
        """
        return await client.ask(
            self.session, base or self.gateway, model, tokens=tokens, stream=stream, seen=seen
        )

    async def streams(
        self, count: int, *, tokens: int, base: str = "", model: str = MODEL
    ) -> list[asyncio.Task[Answer]]:
        """Start so many streaming answers, and return once each has its first event."""
        seen = [Answer() for _ in range(count)]
        tasks = [
            asyncio.create_task(self.ask(model, tokens=tokens, stream=True, base=base, seen=one))
            for one in seen
        ]

        async def all_stream() -> bool:
            return all(one.pieces or one.ended_at for one in seen)

        await self.until(all_stream, f"{count} answers stream")
        return tasks

    async def until(
        self, is_so: Callable[[], Awaitable[bool]], what: str, timeout: float = DEADLINE_S
    ) -> None:
        """Ask again and again until it is so; the logs are the failure's text."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                if await is_so():
                    return
            except (aiohttp.ClientError, OSError):
                pass  # not up yet, or just restarting
            if time.monotonic() > deadline:
                pytest.fail(
                    f"not within {timeout:g} s: {what}\n{await self._story()}\n{self.logs()}"
                )
            await asyncio.sleep(_POLL_S)

    async def _story(self) -> str:
        """What the daemon recorded, as far as it can be asked."""
        try:
            events = await self.events()
        except (aiohttp.ClientError, OSError) as exc:
            return f"no events: {exc}"
        return "\n".join(f"{e['at'][11:23]} {e['node']} {e['kind']}: {e['cause']}" for e in events)


@asynccontextmanager
async def opened(directory: Path, *, forked: bool = False) -> AsyncIterator[World]:
    """A world without any process yet; whatever a test starts in it is ended."""
    timeout = aiohttp.ClientTimeout(total=90)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        world = World(directory, session, forked=forked)
        try:
            yield world
        finally:
            await asyncio.shield(world.stop())
