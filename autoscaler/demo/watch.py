"""Watches the run from outside, as an operator would: the daemon's API, the gateway's state, the cloud's own books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from autoscaler.demo.load import Load
from autoscaler.demo.processes import Processes
from autoscaler.demo.stage import PARTS, Admin, DemoFailed, Stage, tail
from autoscaler.quantity import counted

_EVERY_S = 0.5
_SERVING = ("ready", "draining")
_COMING = ("planned", "creating", "booting", "verifying")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        t_s: seconds since the traffic began.
        rate: requests sent per second.
        demand, want, capacity: in replicas: what the traffic needs, what was decided, what takes new requests.
        ready, coming: nodes per offer type.
        units: replicas that serve, per offer type, those that drain included.
        units_coming: replicas on their way.
        usd_per_hour: of all that the cloud bills.
        serving_usd_per_hour: of the nodes that serve.
        usd: what the cloud's own books say was spent so far.
    """

    t_s: float
    rate: float
    in_flight: int
    done: int
    failed: int
    demand: float | None
    want: float | None
    capacity: float
    ready: dict[str, int]
    coming: dict[str, int]
    units: dict[str, float]
    units_coming: float
    usd_per_hour: float
    serving_usd_per_hour: float
    usd: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth telling; a `mark` is a word or two for the picture, "" when it is not shown there."""

    t_s: float
    text: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.t_s:6.1f} s  {self.text}"


@dataclass(slots=True)
class Watch:
    """What was seen of a run."""

    stage: Stage
    load: Load
    admin: Admin
    processes: Processes = field(default_factory=Processes)
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    samples: list[Sample] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    notes: list[Note] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)
    _looked: asyncio.Condition = field(default_factory=asyncio.Condition)

    def start(self) -> None:
        """The traffic begins now."""
        self.started, self.started_at = time.monotonic(), time.time()

    async def run(self) -> None:
        """Look again and again. Runs until cancelled.

        Raises:
            DemoFailed: one of the three processes has ended.
        """
        connector = aiohttp.UnixConnector(str(self.stage.daemon_socket))
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as daemon:
            while True:
                self._check_parts()
                try:
                    await self._look(daemon)
                except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                    self.note(f"not seen: {type(exc).__name__} {exc}")
                async with self._looked:
                    self._looked.notify_all()
                await asyncio.sleep(_EVERY_S)

    async def next_look(self) -> None:
        """Wait until the next look has ended."""
        async with self._looked:
            await self._looked.wait()

    def note(self, text: str, mark: str = "") -> None:
        """Remember something worth telling, with its time."""
        self.notes.append(Note(round(time.monotonic() - self.started, 2), text, mark))

    def _check_parts(self) -> None:
        running = self.processes.scan()
        for name, pid in zip(PARTS, self.stage.pids, strict=True):
            if pid not in running or running[pid].is_dead:
                raise DemoFailed(
                    f"`autoscaler {name}` ended on the way:\n{tail(self.stage.directory, name)}"
                )

    async def _look(self, daemon: aiohttp.ClientSession) -> None:
        async with daemon.get("http://daemon/api/v1/nodes?all=1") as answer:
            self.nodes = await answer.json()
        async with daemon.get("http://daemon/api/v1/status") as answer:
            status = await answer.json()
        bill = await self.admin.get("/bill")
        model: dict[str, Any] = (status["models"] or [{}])[0]
        self.reason = str(model.get("reason") or "")
        self._tell_of_nodes()
        serving = [n for n in self.nodes if n["state"] in _SERVING]
        coming = [n for n in self.nodes if n["state"] in _COMING]
        self.samples.append(
            Sample(
                t_s=round(time.monotonic() - self.started, 2),
                rate=self.load.rate(3.0),
                in_flight=self.load.in_flight,
                done=self.load.done,
                failed=self.load.failed,
                demand=model.get("demand"),
                want=model.get("want"),
                capacity=sum(n["units"] for n in serving if n["state"] == "ready"),
                ready=_by_type(serving),
                coming=_by_type(coming),
                units={t: sum(n["units"] for n in serving if n["type"] == t) for t in _by_type(serving)},
                units_coming=sum(n["units"] for n in coming),
                usd_per_hour=float(bill["usd_per_hour"]),
                serving_usd_per_hour=sum(float(n["usd_per_hour"]) for n in serving),
                usd=float(bill["usd_total"]),
            )
        )  # fmt: skip

    def _tell_of_nodes(self) -> None:
        """Note the first node that serves, and every node that failed, once."""
        for node in self.nodes:
            failure = str(node["failure"] or "")
            if node["ready_at"] and "ready" not in self._told:
                self._told.add("ready")
                held = counted(self.load.in_flight, "request")
                self.note(f"the first node serves; {held} waited for it", "first node")
            if not failure or node["name"] in self._told:
                continue
            self._told.add(node["name"])
            if failure.startswith("stock"):
                where = f"{node['type']} in {node['location']}"
                self.note(f"{where} is sold out: the next offer is tried", "sold out")
            else:
                self.note(f"node {short(node)} is given up: {failure}")


def short(node: Mapping[str, Any]) -> str:
    """What tells a node apart in a table: the beginning of its name's random part."""
    parts = str(node["name"]).split("-")
    return parts[2][:8] if len(parts) > 2 else str(node["name"])


def _by_type(nodes: list[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node["type"]] = counts.get(node["type"], 0) + 1
    return counts
