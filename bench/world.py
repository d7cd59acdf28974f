"""The daemon with everything around it, each a process of its own: emulator, gateway, HAProxy if wanted.

The parts are those of the demo, with its timings unless told otherwise; the policies are cheap models that differ in
their names alone. Everything is on loopback, and gone at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import jinja2

from autoscaler.domain.ids import slug
from tests.world.files import Json, Table, free_ports, merged, toml
from tests.world.haproxy import MASTER, SOCKET, write_for_models
from tests.world.policies import CHEAP
from tests.world.processes import die_with_parent

TIME_FACTOR = 200.0
_START_S = 30.0
_STOP_S = 15.0
_MACHINES_NICE = 5  # they stand for other computers: booting, they leave the cores to the daemon

POLICY: Table = {
    **CHEAP,
    "nodes": {"min": 0, "max": 2},
    "deadlines": {"creating": "60s", "booting": "60s", "verifying": "90s"},
    "retries": {"launches_per_window": 1000},
    "hold": {"time": "120s"},
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What world to make.

    Attributes:
        timings: of the config; None leaves the daemon's defaults.
        policy: keys of `POLICY` to replace, by table.
        with_haproxy: clients come through HAProxy, the gateway is its activator.
    """

    models: Sequence[str]
    timings: Table | None
    policy: Mapping[str, object] = field(default_factory=dict)
    with_haproxy: bool = False


@dataclass(slots=True)
class World:
    """What runs.

    Attributes:
        url: where clients ask.
        pids: by process: emulator, gateway, haproxy, daemon.
    """

    directory: Path
    session: aiohttp.ClientSession
    plan: Plan
    cloud: Json = field(default_factory=dict)
    url: str = ""
    pids: dict[str, int] = field(default_factory=dict)
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def run_directory(self) -> Path:
        return self.directory / "run"

    async def admin(self, method: str, path: str, **body: object) -> Json:
        """Ask the emulator's own API."""
        url = f"{self.cloud['admin_url']}{path}"
        async with self.session.request(method, url, json=body or None) as answer:
            answer.raise_for_status()
            found: Json = await answer.json()
            return found

    async def daemon(self, path: str) -> Any:  # JSON as the daemon serves it
        return await self._ask_socket("daemon.sock", path)

    async def gateway(self, path: str) -> Any:  # JSON as the gateway serves it
        return await self._ask_socket("gateway.sock", path)

    async def _ask_socket(self, name: str, path: str) -> Any:
        connector = aiohttp.UnixConnector(str(self.run_directory / name))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://local{path}") as answer,
        ):
            answer.raise_for_status()
            return await answer.json()

    async def creates(self) -> dict[str, float]:
        """When each machine's create call was answered, by its name, in seconds of this process's clock."""
        asked = time.time()
        now = datetime.fromisoformat((await self.admin("GET", "/health"))["now"])
        at = (asked + time.time()) / 2
        found: dict[str, float] = {}
        for event in (await self.admin("GET", "/ledger?kind=call&limit=100000"))["events"]:
            if "create_vm" in event["details"].values():
                ago: timedelta = now - datetime.fromisoformat(event["at"])
                found.setdefault(event["name"], at - ago.total_seconds() / TIME_FACTOR)
        return found

    def cpu_s(self, name: str) -> float:
        """Processor time that a process has used so far."""
        fields = Path(f"/proc/{self.pids[name]}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self, name: str) -> float:
        """Memory that a process holds now, in MB."""
        pages = int(Path(f"/proc/{self.pids[name]}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def log_tail(self, name: str, characters: int = 2000) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")[-characters:]

    # starting and stopping

    async def start(self) -> None:
        plan = self.plan
        self.run_directory.mkdir(mode=0o700)
        await self._start_emulator()
        inner, front, serve, metrics = free_ports(4)
        await self._spawn(
            "gateway",
            *(sys.executable, "-m", "autoscaler", "gateway", "--listen", f"127.0.0.1:{inner}"),
            *("--control", "run/gateway.sock", "--state", "gateway.json", "--drain-timeout", "1"),
        )
        await self._until("gateway", self.run_directory / "gateway.sock")
        self.url = f"http://127.0.0.1:{inner}"
        if plan.with_haproxy:
            config = write_for_models(
                self.directory, plan.models, front=front, inner=inner, metrics=metrics
            )
            binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
            await self._spawn(
                "haproxy",
                binary,
                "-W",
                "-S",
                str(self.directory / MASTER),
                "-f",
                str(config),
            )
            await self._until("haproxy", self.directory / SOCKET)
            self.url = f"http://127.0.0.1:{front}"
        (self.directory / "config.toml").write_text(toml(self._config(serve)))
        (self.directory / "policies").mkdir()
        for model in plan.models:
            text = toml({**merged(POLICY, plan.policy), "model": model})
            (self.directory / "policies" / f"{slug(model)}.toml").write_text(text)
        await self._spawn(
            "daemon", sys.executable, "-m", "autoscaler", "run", "--config", "config.toml"
        )
        await self._until("daemon", self.run_directory / "daemon.sock")
        await self._until_ready(f"http://127.0.0.1:{serve}/readyz")

    async def _start_emulator(self) -> None:
        await self._spawn(
            "emulator",
            *(sys.executable, "-m", "autoscaler", "emulator", "--ready-file", "cloud.json"),
            *("--access-key-file", "access-key", "--state-dir", "machines"),
            *("--time-factor", str(TIME_FACTOR)),
            nice=_MACHINES_NICE,
        )
        await self._until("emulator", self.directory / "cloud.json")
        self.cloud = json.loads((self.directory / "cloud.json").read_text())
        for item in (await self.admin("GET", "/stock"))["items"]:
            where = {"type": item["type"], "location": item["location"]}
            await self.admin("PUT", "/stock", **where, count=1000)
        for item in (await self.admin("GET", "/quota"))["items"]:
            await self.admin("PUT", "/quota", family=item["family"], count=1000)

    def _config(self, serve: int) -> Table:
        config: dict[str, object] = {
            "schema": 1,
            "policies": "policies",
            "state_dir": "state",
            "runtime_dir": "run",
            "cloud": {
                "url": self.cloud["url"],
                "project": self.cloud["project_id"],
                "key_file": self.cloud["key_file"],
                "owner": "benchrun",
                "requests_per_s": 1000,
                "in_flight": 64,
            },
            "limits": {
                "usd_per_hour": "1000",
                "usd_per_month": "100000",
                "nodes": 1000,
                "launches_per_window": 10000,
            },
            "ssh": {"port": self.cloud["ssh_port"]},
            "firewall": {"sources": ["127.0.0.1/32"]},
            "serve": {"listen": f"127.0.0.1:{serve}"},
        }
        if self.plan.timings is not None:
            config["timings"] = self.plan.timings
        if self.plan.with_haproxy:
            config["balancer"] = "haproxy"
            here = {"socket": SOCKET, "master_socket": MASTER}
            config["haproxy"] = [{key: str(self.directory / name) for key, name in here.items()}]
        return config

    async def _spawn(self, name: str, *argv: str, nice: int = 0) -> None:
        with (self.directory / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the benchmark alone, which ends the parts in order
                preexec_fn=partial(die_with_parent, nice),
            )
        self._processes.append(process)
        self.pids[name] = process.pid

    async def _until(self, name: str, path: Path) -> None:
        """Wait until a process has made the file that says that it is up."""
        async with asyncio.timeout(_START_S):
            while not path.exists():  # noqa: ASYNC240  # one stat of a local file
                if self._processes[-1].returncode is not None:
                    raise RuntimeError(f"{name} ended:\n{self.log_tail(name)}")
                await asyncio.sleep(0.05)

    async def _until_ready(self, url: str) -> None:
        async with asyncio.timeout(_START_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with self.session.get(url) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for process in reversed(self._processes):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


@contextlib.asynccontextmanager
async def world(plan: Plan) -> AsyncIterator[World]:
    """Start everything, and stop it at the end. The daemon is ready: it has swept and knows the market."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=150)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            made = World(Path(name), session, plan)
            task = asyncio.current_task()
            assert task is not None
            # SIGTERM ends a run as Ctrl-C does: with nothing left behind
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            try:
                await made.start()
                yield made
            finally:
                await asyncio.shield(made.stop())


def demo_timings() -> Table:
    """The timings of the demo, for a cloud whose clock runs fast."""
    text = resources.files("autoscaler.demo").joinpath("config.toml.j2").read_text()
    template = jinja2.Environment(autoescape=False).from_string(text)  # TOML, not HTML
    timings: Table = tomllib.loads(template.render(ssh_port=1))["timings"]
    return timings


def quantile(values: Sequence[float], q: float) -> float:
    """The nearest-rank quantile; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
