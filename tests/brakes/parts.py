"""A cloud at the Protocol's edge that lies on request, and a clock that moves when somebody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from autoscaler.brakes.ours import Prices
from autoscaler.brakes.panic import Panic, Progress, Tempo
from autoscaler.brakes.witness import Witness
from autoscaler.cloud.protocol import Created, CreateRequest, UsageLine
from autoscaler.domain.ids import IntentId, MachineId, ModelName, OperationId, node_name
from autoscaler.domain.machine import (
    Disk,
    FirewallRule,
    Inventory,
    Machine,
    Operation,
    OperationState,
    PowerState,
)
from autoscaler.domain.money import Money
from autoscaler.domain.offer import Offer
from autoscaler.errors import AutoscalerError, CloudUnavailable, EndpointMissing, Rejected
from autoscaler.nodes.inventory import Owner

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
OURS = Owner("as1", "testtest")
PRICES = Prices({"a40.1x": Money.of("1.10")}, Money.of("0.0001"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


FRESH: dict[str, Any] = {  # Any: JSON as a daemon serves it
    "schema": 1,
    "owner": "testtest",
    "prefix": "as1",
    "project": "p1",
    "swept_age_s": 12.0,
    "sweep_s": 60.0,
    "held": None,
    "nodes": [],
    "closed": [],
    "orphans": [],
    "firewall_rules": [],
    "a_later_field": 1,
}


def name(number: int = 0, owner: str = "testtest", prefix: str = "as1") -> str:
    return node_name(prefix, owner, IntentId(LETTERS[number] * 13), 1, ModelName("test/chat"))


def machine(called: str, power: PowerState = PowerState.RUNNING) -> Machine:
    return Machine(
        id=MachineId(f"id-{called}"),
        name=called,
        type="a40.1x",
        location="us-east1-a",
        power=power,
        raw_state=power.value.upper(),
        created_at=NOON,
    )


def create_of(called: str, state: OperationState, **changes: object) -> Operation:
    made = Operation(
        OperationId(f"op-{called}"), state, "CREATE", request_name=called, started_at=NOON
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the caller names fields


class Clock:
    """Moves only when somebody waits."""

    def __init__(self) -> None:
        self.passed_s = 1000.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.passed_s - 1000)

    def boot_s(self) -> float:
        return self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.passed_s += seconds
        for _ in range(5):  # let what was begun end
            await asyncio.sleep(0)


@dataclass
class LyingCloud:
    """Machines, disks and rules; each kind of call may be told to fail or lie first.

    Attributes:
        lists: what the next listings do: an error to raise, or a change of the truth.
        deletes: what the next deletes of VMs do: an error, raised after the effect where it is a lost answer.
        refuses_running: a VM must be stopped first.
    """

    clock: Clock
    vms: dict[str, Machine] = field(default_factory=dict)
    spare_disks: list[Disk] = field(default_factory=list)
    rules: list[FirewallRule] = field(default_factory=list)
    ops: list[Operation] = field(default_factory=list)
    lists: list[AutoscalerError | Callable[[Inventory], Inventory] | None] = field(
        default_factory=list
    )
    deletes: list[AutoscalerError | str | None] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    refuses_running: bool = False
    lists_disks: bool = True
    appears: dict[float, Machine] = field(default_factory=dict)  # at so many seconds
    operations_unread: int = 0  # so many next readings of operations fail
    lists_operations: bool = True
    tells_once: bool = False  # a finished operation

    def add(self, *names: str, power: PowerState = PowerState.RUNNING) -> None:
        for each in names:
            self.vms[f"id-{each}"] = machine(each, power)

    async def inventory(self) -> Inventory:
        for at_s in [at for at in self.appears if self.clock.passed_s - 1000 >= at]:
            late = self.appears.pop(at_s)
            self.vms[late.id] = late
        truth = Inventory(tuple(self.vms.values()), self.clock.now(), complete=True)
        lie = self.lists.pop(0) if self.lists else None
        if isinstance(lie, AutoscalerError):
            raise lie
        return lie(truth) if lie is not None else truth

    async def machine(self, machine_id: MachineId) -> Machine | None:
        self.calls.append(("get", machine_id))
        return self.vms.get(machine_id)

    async def delete(self, machine_id: MachineId) -> None:
        self.calls.append(("delete", machine_id))
        fault = self.deletes.pop(0) if self.deletes else None
        if fault == "ignored":
            return
        found = self.vms.get(machine_id)
        if found is not None and self.refuses_running and found.power is PowerState.RUNNING:
            raise Rejected("409: it runs")
        if isinstance(fault, Rejected):
            raise fault
        self.vms.pop(machine_id, None)
        if isinstance(fault, AutoscalerError):
            raise fault

    async def stop(self, machine_id: MachineId) -> None:
        self.calls.append(("stop", machine_id))
        if machine_id in self.vms:
            self.vms[machine_id] = replace(self.vms[machine_id], power=PowerState.STOPPED)

    async def disks(self) -> Sequence[Disk]:
        if not self.lists_disks:
            raise EndpointMissing("GET disks: 501")
        return list(self.spare_disks)

    async def delete_disk(self, disk_id: str) -> None:
        self.calls.append(("delete_disk", disk_id))
        self.spare_disks = [disk for disk in self.spare_disks if disk.id != disk_id]

    async def firewall_rules(self) -> Sequence[FirewallRule]:
        return list(self.rules)

    async def delete_firewall_rule(self, rule_id: str) -> None:
        self.calls.append(("delete_rule", rule_id))
        self.rules = [rule for rule in self.rules if rule.id != rule_id]

    async def operations(self, since: datetime) -> Sequence[Operation]:
        if self.operations_unread:
            self.operations_unread -= 1
            raise CloudUnavailable("GET operations: 503")
        if not self.lists_operations:
            raise EndpointMissing("GET operations: 501")
        told = list(self.ops)
        if self.tells_once:
            self.ops = [each for each in told if each.state is OperationState.IN_PROGRESS]
        return told

    async def operation(self, operation_id: OperationId) -> Operation | None:
        raise AssertionError("a finished operation may be told only once: leave it to the daemon")

    async def offers(self) -> Sequence[Offer]:
        raise AssertionError("prices come from the list")

    async def create(self, request: CreateRequest) -> Created:
        raise AssertionError("nothing here rents")

    async def ensure_firewall_rule(
        self, name: str, sources: Sequence[str], ports: Sequence[int]
    ) -> FirewallRule:
        raise AssertionError("nothing here makes a rule")

    async def project_id(self) -> str:
        return "p1"

    async def usage(self, since: datetime, until: datetime) -> Sequence[UsageLine]:
        return []

    async def close(self) -> None: ...

    def touched(self) -> set[str]:
        """What was deleted or stopped, by its id."""
        return {subject for kind, subject in self.calls if kind != "get"}


def panic_of(
    cloud: LyingCloud, told: Callable[[Progress], None] = lambda progress: None, **more: object
) -> Panic:
    tempo = Tempo(
        look=timedelta(seconds=5),
        gone_after=timedelta(seconds=60),
        retry=timedelta(seconds=5),
        retry_max=timedelta(seconds=30),
        settling=timedelta(seconds=600),
    )
    return Panic(cloud, OURS, PRICES, tempo, cloud.clock, told, **more)  # type: ignore[arg-type]  # the caller names fields


def witness(**told: Any) -> Witness:  # Any: fields of a Witness
    values: dict[str, Any] = {
        "where": "here", "swept_age_s": 1.0, "held": None, "nodes": {}, "closed": {},
        "orphans": {}, "rules": frozenset(), **told,
    }  # fmt: skip
    return Witness(**values)


class Told:
    """A server that says what it is told to say."""

    def __init__(self) -> None:
        self.body: object = FRESH
        self.status = 200
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if isinstance(self.body, bytes):
            return web.Response(body=self.body, status=self.status)
        return web.json_response(self.body, status=self.status)


@asynccontextmanager
async def telling() -> AsyncIterator[Told]:
    """What answers where a daemon is asked for its inventory."""
    told = Told()
    app = web.Application()
    app.router.add_get("/api/v1/inventory", told.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    told.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield told
    finally:
        await runner.cleanup()
