"""What happens to the cloud on the way: thin stock, an offer that sells out under our hands, a machine that dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from autoscaler.demo.stage import Admin
from autoscaler.demo.watch import Watch, short

# Machines in stock per type and location; what is not named has none. The cheapest work is thin on purpose.
_STOCK = {
    ("l40s-48gb.1x", "us-east1-a"): 2,
    ("a100-80gb.1x", "us-east1-a"): 2,
    ("a40.1x", "us-northcentral1-a"): 2,
    ("a100.1x", "us-northcentral1-a"): 3,
}
_DEATH_AT = 0.62  # of the traffic's length
_PATIENCE_S = 30.0


@dataclass(slots=True)
class Story:
    """What was done, for the verdict.

    Attributes:
        height: nodes that must serve before one is killed, so that the others can take its load.
        killed: node name → Unix time at which its machine was killed.
    """

    admin: Admin
    watch: Watch
    height: int = 3
    killed: dict[str, float] = field(default_factory=dict)

    async def set_up(self) -> None:
        """Thin the stock, before anything is rented."""
        for item in (await self.admin.get("/stock"))["items"]:
            count = _STOCK.get((item["type"], item["location"]), 0)
            await self.admin.send(
                "PUT", "/stock", type=item["type"], location=item["location"], count=count
            )

    async def play(self, traffic_s: float) -> None:
        """Let the second machine be sold to another tenant at the last moment, and kill one at the height."""
        await self._until(lambda: self._ready(1))
        await self.admin.send("POST", "/faults", kind="out_of_stock", count=1)
        self.watch.note("the next machine that is ordered will be sold to somebody else")
        start = self.watch.started + traffic_s * _DEATH_AT
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        await self._until(lambda: self._ready(self.height))
        if self._ready(self.height):
            await self._kill()
        else:
            self.watch.note(f"no machine is killed: {self.height} never served at once")

    async def _kill(self) -> None:
        """Kill the machine that came last: by now it has its share of the load."""
        node = max(
            (n for n in self.watch.nodes if n["state"] == "ready"), key=lambda n: n["ready_at"]
        )
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
        return sum(1 for n in self.watch.nodes if n["state"] == "ready") >= count

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait for the next samples until it is so, or patience ends."""
        deadline = time.monotonic() + _PATIENCE_S
        while not is_so() and time.monotonic() < deadline:
            await self.watch.next_look()
