"""A cloud whose every call is counted by what became of it: a refused key is seen though nothing else is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum

from autoscaler.cloud.protocol import Cloud, Created, CreateRequest, UsageLine
from autoscaler.domain.ids import MachineId, OperationId
from autoscaler.domain.machine import Disk, FirewallRule, Inventory, Machine, Operation
from autoscaler.domain.offer import Offer
from autoscaler.errors import (
    AuthFailed,
    CloudUnavailable,
    Forbidden,
    HeldBack,
    NotFound,
    OutcomeUnknown,
    OutOfStock,
    PaymentRequired,
    Rejected,
    SchemaError,
)


class Outcome(StrEnum):
    """What became of a call."""

    OK = "ok"
    KEY_REFUSED = "key_refused"
    HELD_BACK = "held_back"  # by our own rate limit: nothing was sent
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"  # sent and not answered
    OUT_OF_STOCK = "out_of_stock"
    PAYMENT = "payment"
    NOT_FOUND = "not_found"
    REJECTED = "rejected"
    NOT_UNDERSTOOD = "not_understood"
    BROKEN = "broken"


# The first that fits: a kind stands before what it is a kind of.
_OUTCOMES: tuple[tuple[type[Exception], Outcome], ...] = (
    (AuthFailed, Outcome.KEY_REFUSED),
    (Forbidden, Outcome.KEY_REFUSED),
    (HeldBack, Outcome.HELD_BACK),
    (CloudUnavailable, Outcome.UNAVAILABLE),
    (OutcomeUnknown, Outcome.UNKNOWN),
    (OutOfStock, Outcome.OUT_OF_STOCK),
    (PaymentRequired, Outcome.PAYMENT),
    (NotFound, Outcome.NOT_FOUND),
    (Rejected, Outcome.REJECTED),
    (SchemaError, Outcome.NOT_UNDERSTOOD),
)


def outcome_of(exc: Exception) -> Outcome:
    """Name what a failed call came to."""
    return next((name for kind, name in _OUTCOMES if isinstance(exc, kind)), Outcome.BROKEN)


class WatchedCloud:
    """Passes every call on to `cloud`, and tells `told` its name and what became of it."""

    def __init__(self, cloud: Cloud, told: Callable[[str, Outcome], None]) -> None:
        self._cloud = cloud
        self._told = told

    @contextmanager
    def _watch(self, call: str) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            self._told(call, outcome_of(exc))
            raise
        self._told(call, Outcome.OK)

    async def offers(self) -> Sequence[Offer]:
        with self._watch("offers"):
            return await self._cloud.offers()

    async def inventory(self) -> Inventory:
        with self._watch("inventory"):
            return await self._cloud.inventory()

    async def machine(self, machine_id: MachineId) -> Machine | None:
        with self._watch("machine"):
            return await self._cloud.machine(machine_id)

    async def create(self, request: CreateRequest) -> Created:
        with self._watch("create"):
            return await self._cloud.create(request)

    async def operation(self, operation_id: OperationId) -> Operation | None:
        with self._watch("operation"):
            return await self._cloud.operation(operation_id)

    async def operations(self, since: datetime) -> Sequence[Operation]:
        with self._watch("operations"):
            return await self._cloud.operations(since)

    async def delete(self, machine_id: MachineId) -> None:
        with self._watch("delete"):
            await self._cloud.delete(machine_id)

    async def stop(self, machine_id: MachineId) -> None:
        with self._watch("stop"):
            await self._cloud.stop(machine_id)

    async def disks(self) -> Sequence[Disk]:
        with self._watch("disks"):
            return await self._cloud.disks()

    async def delete_disk(self, disk_id: str) -> None:
        with self._watch("delete_disk"):
            await self._cloud.delete_disk(disk_id)

    async def firewall_rules(self) -> Sequence[FirewallRule]:
        with self._watch("firewall_rules"):
            return await self._cloud.firewall_rules()

    async def ensure_firewall_rule(
        self, name: str, sources: Sequence[str], ports: Sequence[int]
    ) -> FirewallRule:
        with self._watch("ensure_firewall_rule"):
            return await self._cloud.ensure_firewall_rule(name, sources, ports)

    async def delete_firewall_rule(self, rule_id: str) -> None:
        with self._watch("delete_firewall_rule"):
            await self._cloud.delete_firewall_rule(rule_id)

    async def project_id(self) -> str:
        with self._watch("project_id"):
            return await self._cloud.project_id()

    async def usage(self, since: datetime, until: datetime) -> Sequence[UsageLine]:
        with self._watch("usage"):
            return await self._cloud.usage(since, until)

    async def close(self) -> None:
        await self._cloud.close()
