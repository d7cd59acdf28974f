"""A world to test in: an emulated cloud, a gateway and a daemon, each a process of its own.

Everything is observed from outside, as an operator and a client would: the daemon's socket, its commands, the cloud's
own books, and what a client reads from the gateway.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

DEADLINE_S = 30.0
MODEL = "test/chat"
CANARY_TOKEN = "hf_canaryTokenThatMayNeverBeSeen"
CLOSED = ("gone", "lost", "cancelled")
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05

Json = dict[str, Any]  # JSON as a process under test serves it
Table = Mapping[str, Any]  # a table of a TOML file

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
    "schema": 1,
    "model": MODEL,
    "aliases": ["chat"],
    "engine": "vllm",
    "nodes": {"min": 0, "max": 4},
    "facts": {"params_b": 8.03, "layers": 32, "hidden": 4096, "kv_heads": 8, "head_dim": 128},
    "typical": {"prompt_tokens": 200, "output_tokens": 50},
    "server": {"max_model_len": 8192},
    "hardware": {"types": ["*.1x"]},
    "spread": {"survive_node": 0},
    "scaling": {
        "demand_window": "3s",
        "work_window": "30s",
        "peak_memory": "3s",
        "drain_backlog_within": "8s",
        "panic_after": "2s",
        "panic_hold": "3s",
        "stabilization": "2s",
        "zero_after": "2s",
        "boot_prior": "5s",
    },
    "signals": {"window": "3s", "quantile_window": "20s", "min_observations": 10},
    "retries": {"offer_backoff": "20s", "offer_backoff_max": "60s"},
    "deadlines": {"creating": "20s", "booting": "20s", "verifying": "30s"},
    "hold": {"time": "30s"},
}


def merged(base: Table, edits: Table) -> Json:
    """A table with some keys replaced, deeply; None takes a key away."""
    result: Json = dict(base)
    for key, value in edits.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def toml(table: Table) -> str:
    """A table as a TOML document: plain values first, then one section per table."""
    plain = [f"{key} = {_value(v)}" for key, v in table.items() if not isinstance(v, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            plain += [f"[{key}]", *(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items())]
    return "\n".join([*plain, ""])


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value)  # strings, numbers and booleans of JSON are TOML


def seconds(text: str) -> float:
    """A time as the daemon tells it, in Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class Answer:
    """What a client got.

    Attributes:
        pieces: the text of each event, as it came.
        whole: the answer ended as it should.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    pieces: list[str] = field(default_factory=list)
    whole: bool = False
    error: str = ""
    finish: str | None = None
    tokens: int | None = None
    ended_at: float = 0.0

    @property
    def node(self) -> str:
        return self.headers.get("x-autoscaler-endpoint", "").partition(".")[0]


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # whatever the command prints
        return json.loads(self.out)


class Refused(OSError):
    """The daemon answers, and has nothing to tell yet."""


class World:
    """One world."""

    def __init__(self, directory: Path, session: aiohttp.ClientSession) -> None:
        self.directory = directory
        self.session = session
        self.cloud: Json = {}
        self.gateway_port = free_port()
        self.serve_port = free_port()
        self.config_edits: Table = {}
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._copying: list[asyncio.Task[None]] = []

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

    async def spawn(self, name: str, *arguments: str, prefix: Sequence[str] = ()) -> None:
        """Start a process of ours under a name; what it says is appended to `<name>.log`."""
        process = await asyncio.create_subprocess_exec(
            *prefix,
            sys.executable,
            "-m",
            "autoscaler",
            *arguments,
            cwd=self.directory,
            # through a pipe, as under systemd: a full disk does not stop its log
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._running[name] = process
        self._copying.append(asyncio.create_task(self._copy_log(name, process)))

    async def _copy_log(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with (self.directory / f"{name}.log").open("ab", buffering=0) as log:
            while piece := await process.stdout.read(65536):
                log.write(piece)

    async def end(self, name: str, signum: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; its exit status."""
        process = self._running.pop(name)
        if process.returncode is None:
            process.send_signal(signum)
        try:
            async with asyncio.timeout(20):
                return await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            pytest.fail(f"{name} did not end within 20 s of signal {signum}\n{self.logs()}")

    def signal(self, name: str, signum: int) -> None:
        self._running[name].send_signal(signum)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    async def exit_code(self, name: str) -> int:
        """Wait for a process that ends by itself."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self._running.pop(name).wait()
        except TimeoutError:
            pytest.fail(f"{name} did not end\n{self.logs()}")

    async def stop(self) -> None:
        for name in ("daemon", "gateway", "emulator"):
            if name in self._running:
                await self.end(name)
        for name in tuple(self._running):
            await self.end(name, signal.SIGKILL)
        for task in self._copying:
            task.cancel()
        await asyncio.gather(*self._copying, return_exceptions=True)

    async def _is_up(self, name: str, is_up: Callable[[], bool]) -> None:
        process = self._running[name]

        async def up() -> bool:
            if process.returncode is not None:
                pytest.fail(f"{name} ended with {process.returncode}\n{self.logs()}")
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

    def logs(self) -> str:
        """The end of every log, for a failure's text."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.directory.glob("*.log"))
        )

    def log_of(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

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
        answer = seen or Answer()
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "all " * 50}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        try:
            async with self.session.post(
                f"{base or self.gateway}/v1/chat/completions", json=body
            ) as response:
                answer.status, answer.headers = response.status, response.headers
                if stream and response.status == 200:
                    await _read_stream(response, answer)
                else:
                    answer.text = await response.text()
                    answer.whole = response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            answer.error = f"{type(exc).__name__}: {exc}"
        answer.ended_at = time.time()
        return answer

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


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer) -> None:
    """Read server-sent events; only `[DONE]` after a finish reason is a whole answer."""
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == b"[DONE]":
            answer.whole = answer.finish is not None
            return
        chunk = json.loads(data)
        for choice in chunk.get("choices", ()):
            answer.pieces.append((choice.get("delta") or {}).get("content") or "")
            answer.finish = choice.get("finish_reason") or answer.finish
        answer.tokens = (chunk.get("usage") or {}).get("completion_tokens", answer.tokens)


def die_with_parent() -> None:
    """Let the kernel end this process when the tests' own one ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def command_lines() -> dict[int, str]:
    """The command line of every process but this one, by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                raw = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            found[int(entry.name)] = raw.replace(b"\0", b" ").decode(errors="replace")
    return found


def processes_below(directory: Path) -> list[str]:
    """Processes that work in a directory or name it: what a run has left behind."""
    found = []
    for pid, line in command_lines().items():
        try:
            where = Path(os.readlink(f"/proc/{pid}/cwd"))
        except OSError:
            continue
        if str(directory) in line or where.is_relative_to(directory):
            found.append(f"{pid} {line}")
    return found


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[World]:
    """A world without any process yet; whatever a test starts in it is ended."""
    timeout = aiohttp.ClientTimeout(total=90)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        world = World(directory, session)
        try:
            yield world
        finally:
            await asyncio.shield(world.stop())
