"""What happens to the cloud on the way: thin stock, an offer that sells out under our hands, a machine that dies."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from autoscaler.demo.load import node_of
from autoscaler.demo.stage import Admin
from autoscaler.demo.watch import Watch, short
from autoscaler.traces.request import TracedRequest

# Machines in stock per type and location; what is not named has none. The cheapest work is thin on purpose.
_STOCK = {
    ("l40s-48gb.1x", "us-east1-a"): 2,
    ("a100-80gb.1x", "us-east1-a"): 2,
    ("a40.1x", "us-northcentral1-a"): 2,
    ("a100.1x", "us-northcentral1-a"): 3,
}
_LAST_DEATH_AT = 0.62  # of the traffic's length: enough must come after it to see the fleet recover
_PATIENCE_S = 3.0  # for the newest machine to be given a request
_PARTS = 24  # the fullest is sought among so many


def death_due_s(requests: Sequence[TracedRequest], traffic_s: float) -> float:
    """When the machine is to die: as the fullest part of the traffic ends, and never too late to see what follows."""
    counts = Counter(int(request.arrival_s / traffic_s * _PARTS) for request in requests)
    fullest = max(counts, key=lambda part: (counts[part], -part), default=0)
    return traffic_s * min(_LAST_DEATH_AT, (fullest + 1) / _PARTS)


@dataclass(slots=True)
class Story:
    """What was done, for the verdict.

    Attributes:
        death_s: seconds after which one may be killed, counted from the first request.
        height: nodes that must serve before one is killed, so that the others can take its load.
        killed: node name → Unix time at which its machine was killed.
    """

    admin: Admin
    watch: Watch
    death_s: float
    height: int
    killed: dict[str, float] = field(default_factory=dict)

    async def set_up(self) -> None:
        """Thin the stock, before anything is rented."""
        for item in (await self.admin.get("/stock"))["items"]:
            count = _STOCK.get((item["type"], item["location"]), 0)
            await self.admin.send(
                "PUT", "/stock", type=item["type"], location=item["location"], count=count
            )

    async def play(self) -> None:
        """Let the second machine be sold to another tenant at the last moment, and kill one at the height.

        Either waits for its moment as long as there is traffic. To be cancelled when the run is over.
        """
        await self._until(lambda: self._ready(1))
        await self.admin.send("POST", "/faults", kind="out_of_stock", count=1)
        self.watch.note("the next machine that is ordered will be sold to somebody else")
        due = self.watch.started + self.death_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        while not self.killed:
            await self.watch.next_look()
            if self._ready(self.height) and self.watch.load.in_flight:
                await self._until(lambda: bool(self._working()), _PATIENCE_S)
                if self._serving():
                    await self._kill(self._newest())

    async def _kill(self, node: dict[str, Any]) -> None:
        """Let a node's machine die, as its power would: nothing is said to anybody."""
        name = str(node["name"])
        self.killed[name] = time.time()
        try:
            await self.admin.send("POST", f"/vms/{name}/kill")
        except aiohttp.ClientResponseError as exc:  # given back since we looked
            del self.killed[name]
            self.watch.note(f"node {short(node)} could not be killed: {exc.message}")
            return
        self.watch.note(f"the machine of node {short(node)} ({node['type']}) dies", "machine dies")

    def _ready(self, count: int) -> bool:
        return len(self._serving()) >= count

    def _working(self) -> list[dict[str, Any]]:
        """Nodes that answer somebody at this moment, as the clients see it; not the first, which has what was held."""
        busy = {node_of(s) for s in self.watch.load.seen if s.ended_at is None}
        return [n for n in self._serving()[1:] if n["name"] in busy]

    def _newest(self) -> dict[str, Any]:
        """The node that came last, one at work if there is any."""
        return (self._working() or self._serving())[-1]

    def _serving(self) -> list[dict[str, Any]]:
        ready = [n for n in self.watch.nodes if n["state"] == "ready"]
        return sorted(ready, key=lambda n: str(n["ready_at"]))

    async def _until(self, is_so: Callable[[], bool], patience_s: float = math.inf) -> None:
        """Wait for the next samples until it is so, or patience ends."""
        deadline = time.monotonic() + patience_s
        while not is_so() and time.monotonic() < deadline:
            await self.watch.next_look()
