"""Watches the run from outside, as an operator would: the daemon's API, the gateway's state, the cloud's own books."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from autoscaler.demo.load import Load
from autoscaler.demo.stage import Admin, Stage

_EVERY_S = 0.5
_SERVING = ("ready", "draining")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        t_s: seconds since the traffic began.
        rate: requests sent per second.
        ready, coming: nodes per offer type.
        usd_per_hour: of all that the cloud bills.
        usd: what the cloud's own books say was spent so far.
    """

    t_s: float
    rate: float
    in_flight: int
    done: int
    failed: int
    demand: float | None
    want: float | None
    capacity: float | None
    ready: dict[str, int]
    coming: dict[str, int]
    usd_per_hour: float
    usd: float


@dataclass(slots=True)
class Watch:
    """What was seen of a run."""

    stage: Stage
    load: Load
    admin: Admin
    started: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    _cpu: dict[tuple[int, int], float] = field(default_factory=dict)
    _looked: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Look again and again. Runs until cancelled."""
        connector = aiohttp.UnixConnector(str(self.stage.daemon_socket))
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as daemon:
            while True:
                try:
                    await self._look(daemon)
                except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                    self.note(f"not seen: {exc}")
                async with self._looked:
                    self._looked.notify_all()
                await asyncio.sleep(_EVERY_S)

    async def next_look(self) -> None:
        """Wait until the next look has ended."""
        async with self._looked:
            await self._looked.wait()

    def note(self, text: str) -> None:
        """Remember something worth telling, with its time."""
        self.notes.append(f"{time.monotonic() - self.started:6.1f} s  {text}")

    async def _look(self, daemon: aiohttp.ClientSession) -> None:
        async with daemon.get("http://daemon/api/v1/nodes?all=1") as answer:
            self.nodes = await answer.json()
        async with daemon.get("http://daemon/api/v1/status") as answer:
            status = await answer.json()
        bill = await self.admin.get("/bill")
        model: dict[str, Any] = (status["models"] or [{}])[0]
        self.reason = str(model.get("reason") or "")
        self._count_cpu()
        self.samples.append(
            Sample(
                t_s=round(time.monotonic() - self.started, 2),
                rate=self.load.rate(3.0),
                in_flight=self.load.in_flight,
                done=self.load.done,
                failed=self.load.failed,
                demand=model.get("demand"),
                want=model.get("want"),
                capacity=sum(n["units"] for n in self.nodes if n["state"] == "ready"),
                ready=_by_type(self.nodes, _SERVING),
                coming=_by_type(self.nodes, ("planned", "creating", "booting", "verifying")),
                usd_per_hour=float(bill["usd_per_hour"]),
                usd=float(bill["usd_total"]),
            )
        )

    @property
    def cpu_s(self) -> float:
        """CPU seconds of everything that the demo runs, itself included, as sampled."""
        return sum(self._cpu.values())

    def _count_cpu(self) -> None:
        """Add up CPU time per process, dead ones with their last figure."""
        tick = os.sysconf("SC_CLK_TCK")
        parents, figures = {}, {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(entry.name)
            parents[pid] = int(fields[1])
            figures[pid] = (int(fields[19]), (int(fields[11]) + int(fields[12])) / tick)
        ours = {os.getpid()}
        grown = True
        while grown:
            found = {pid for pid, parent in parents.items() if parent in ours} - ours
            ours |= found
            grown = bool(found)
        for pid in ours & figures.keys():
            started, seconds = figures[pid]
            self._cpu[pid, started] = seconds


def _by_type(nodes: list[dict[str, Any]], states: tuple[str, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in nodes:
        if node["state"] in states:
            counts[node["type"]] = counts.get(node["type"], 0) + 1
    return counts
