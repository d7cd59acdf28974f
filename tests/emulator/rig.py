"""An emulated cloud over real HTTP, on a clock that moves when told to, with machines of air."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import aiohttp

from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.faults import parse_fault
from autoscaler.emulator.machine import MachineSpec

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDdr0Jv7Y0nC8v9gJt4ZQe1n1S7B9yq2oT3F6l5kT0mA test"
ACCESS_KEY = "made-up-access-key"
PASSWORD = "made-up-password"
START = datetime(2026, 2, 3, 10, 15, tzinfo=UTC)


class ManualClock:
    """Stands still until moved."""

    def __init__(self) -> None:
        self._now = START
        self._sleepers: list[tuple[datetime, int, asyncio.Event]] = []
        self._count = 0

    def now(self) -> datetime:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return
        self._count += 1
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._now + timedelta(seconds=seconds), self._count, woken))
        await woken.wait()

    def move(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            heapq.heappop(self._sleepers)[2].set()


@dataclass
class AirMachines:
    """Remembers what it was told to run."""

    booted: list[tuple[MachineSpec, float]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    fails_to_boot: bool = False
    closed: bool = False
    off: asyncio.Event = field(default_factory=asyncio.Event)
    on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.off.set()  # a shutdown script ends at once, unless a test holds it
        self.on.set()  # a boot, likewise

    async def boot(self, spec: MachineSpec, ssh_after_s: float) -> str:
        if self.fails_to_boot:
            raise OSError("no more processes")
        await self.on.wait()
        self.booted.append((spec, ssh_after_s))
        self.running.add(spec.vm_id)
        return f"ssh-ed25519 host-key-of-{spec.name}"

    async def power_off(self, vm_id: str, timeout_s: float) -> None:
        self.told.append("power_off")
        await self.off.wait()
        self.running.discard(vm_id)

    async def kill(self, vm_id: str) -> None:
        self.told.append("kill")
        self.running.discard(vm_id)

    async def destroy(self, vm_id: str) -> None:
        self.told.append("destroy")
        self.running.discard(vm_id)

    def is_running(self, vm_id: str) -> bool:
        return vm_id in self.running

    async def close(self) -> None:
        self.closed = True
        self.running.clear()


@dataclass(frozen=True)
class Reply:
    """An answer, read. `body` is whatever JSON it was: the tests look at raw shapes."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class Rig:
    """A cloud, and a client that speaks plain HTTP to it."""

    emulator: Emulator
    machines: AirMachines
    clock: ManualClock
    base: str
    client: aiohttp.ClientSession
    project: str

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = ACCESS_KEY,
        **query: str,
    ) -> Reply:
        """Call the API; `P` at the start of the path stands for the project."""
        if path.startswith("P/"):
            path = f"/projects/{self.project}{path[1:]}"
        url = self.base + (path if path.startswith("/_emulator") else f"/v0.1{path}")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.client.request(
            method, url, json=body, params=query, headers=headers
        ) as answer:
            raw = await answer.read()
            is_json = answer.content_type == "application/json"
            parsed = await answer.json() if is_json and raw else raw
            return Reply(answer.status, parsed, dict(answer.headers))

    async def create(self, name: str = "as1-llama-7f3a9c", **changes: object) -> Reply:
        return await self.call("POST", "P/vms", order(name, **changes))

    async def pass_s(self, seconds: float) -> None:
        """Let emulated time pass, in small steps, so that machines follow the books."""
        step = min(1.0, seconds)
        while seconds > 1e-9:
            self.clock.move(min(step, seconds))
            seconds -= step
            await self.emulator.settled()

    async def running(self, name: str = "as1-llama-7f3a9c", **changes: object) -> str:
        """Create a VM and wait until it is RUNNING; gives its id."""
        begun = await self.create(name, **changes)
        assert begun.status == 200, begun.body
        await self.pass_s(30)
        return str(begun.body["operation"]["metadata"]["id"])

    async def vm(self, vm_id: str) -> Any:
        return (await self.call("GET", f"P/vms/{vm_id}")).body

    async def names(self) -> list[str]:
        return [vm["name"] for vm in (await self.call("GET", "P/vms")).body["items"]]

    async def operation(self, begun: Reply) -> Any:
        operation_id = begun.body["operation"]["operation_id"]
        return (await self.call("GET", f"P/vms/operations/{operation_id}")).body

    async def fault(self, text: str) -> None:
        """Order a fault in the command line's form."""
        self.emulator.add_fault(parse_fault(text))

    async def switch(self, **values: str) -> None:
        answer = await self.call("PUT", "/_emulator/switches", values)
        assert answer.status == 200, answer.body

    async def snapshot(self) -> Any:
        return (await self.call("GET", "/_emulator/snapshot")).body

    async def bill(self) -> Any:
        return (await self.call("GET", "/_emulator/bill")).body


def order(name: str = "as1-llama-7f3a9c", **changes: object) -> dict[str, object]:
    """The body of a create; a change to None leaves the field out."""
    body: dict[str, object] = {
        "name": name,
        "type": "l40s-48gb.1x",
        "location": "us-east1-a",
        "image": "ubuntu22.04-nvidia-pcie-docker",
        "ssh_public_key": KEY,
        "startup_script": "#!/bin/bash\nset -eu\n",
    }
    body.update(changes)
    return {key: value for key, value in body.items() if value is not None}


async def rule(cloud: Rig, to: str | None = None, **changes: object) -> dict[str, object]:
    """A rule's body; for the whole network unless `to` names a VM."""
    (network,) = (await cloud.call("GET", "P/vpc/networks")).body["items"]
    return {
        "name": "as1-serve",
        "action": "allow",
        "direction": "ingress",
        "protocols": ["tcp"],
        "sources": [{"cidr": "198.51.100.7/32"}],
        "source_ports": ["1-65535"],
        "destinations": [{"resource_id": to or network["id"]}],
        "destination_ports": ["8000"],
        "vpc_network_id": network["id"],
        **changes,
    }


class Opens(Protocol):
    async def __call__(self, **settings: Any) -> Rig: ...
