"""mkinf as a `Cloud`: the client's values as domain values, and what follows from the API's gaps."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.mkinf import values
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.failures import clean, refusal
from autoscaler.cloud.mkinf.firewall import Firewall
from autoscaler.cloud.mkinf.offers import Catalogue, ImageNames, offers_of
from autoscaler.cloud.mkinf.prices import PriceList
from autoscaler.cloud.protocol import Created, CreateRequest, UsageLine
from autoscaler.domain.ids import MachineId, OperationId
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
from autoscaler.errors import (
    AuthFailed,
    EndpointMissing,
    NotFound,
    OutOfStock,
    QuotaExceeded,
    Rejected,
    SchemaError,
)

log = structlog.get_logger(__name__)

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{1,61}[a-z0-9]")
_SCRIPT_BYTES: Final = 64_000
_MOST_WITNESSES: Final = 8
_DISK: Final = re.compile(r"disk|persistent-|\bgi?b-")  # how usage names what is metered by size
_POWER: Final = {
    PowerState.STARTING: ("DEFINING", "PAUSED", "BLOCKED", "INITIALIZING", "STARTING", "CREATING"),
    PowerState.RUNNING: ("RUNNING",),
    PowerState.STOPPING: ("SHUTDOWN", "STOPPING"),
    PowerState.STOPPED: ("SHUTOFF", "STOPPED"),
    PowerState.BROKEN: ("CRASHED", "PMSUSPENDED", "ERROR"),
    PowerState.DELETING: ("DELETING", "DELETED"),
}
_POWER_OF: Final = {word: power for power, words in _POWER.items() for word in words}


class MkinfCloud:
    """Rents virtual machines from mkinf. Satisfies `Cloud`, whose docstrings say what each does."""

    def __init__(
        self, client: MkinfClient, prices: PriceList, images: ImageNames, clock: Clock
    ) -> None:
        self.client = client
        self._prices = prices
        self._images = images
        self._clock = clock
        self._firewall = Firewall(client, clock)
        self._listed: frozenset[MachineId] = frozenset()
        self._complaints: frozenset[str] = frozenset()

    async def offers(self) -> Sequence[Offer]:
        catalogue = Catalogue(
            availabilities=await self.client.availabilities(),
            specs=await self.client.specs(),
            images=await self.client.images(),
        )
        offers = offers_of(catalogue, self._prices, self._images)
        self._complain(offers)
        return offers

    async def inventory(self) -> Inventory:
        at = self._clock.now()
        try:
            listing = await self.client.vms()
        except SchemaError as exc:
            return Inventory((), at, complete=False, why_incomplete=str(exc))
        machines = tuple(_machine(vm) for vm in listing)
        left_out: list[str] = []
        if listing.complete and listing.doubts:
            found = await self._left_out(machines)
            machines += found
            left_out = [f"{each.name} ({each.id}) was left out" for each in found]
        problems = (*listing.problems, *left_out, *(listing.doubts if left_out else ()))
        if not problems:
            self._listed = frozenset(machine.id for machine in machines)
        return Inventory(machines, at, complete=not problems, why_incomplete="; ".join(problems))

    async def machine(self, machine_id: MachineId) -> Machine | None:
        try:
            return _machine(await self.client.vm(machine_id))
        except NotFound:
            return None

    async def create(self, request: CreateRequest) -> Created:
        _check(request)
        operation = await self.client.create_vm(
            values.VmRequest(
                name=request.name,
                type=request.offer.key.type,
                location=request.offer.key.location,
                image=request.offer.image or "",
                ssh_public_key=request.ssh_public_key,
                startup_script=request.startup_script,
                shutdown_script=request.shutdown_script,
            )
        )
        machine_id = operation.resource_id
        return Created(
            OperationId(operation.operation_id),
            MachineId(machine_id) if machine_id is not None else None,
        )

    async def operation(self, operation_id: OperationId) -> Operation | None:
        try:
            return _operation(await self.client.operation(operation_id))
        except (NotFound, EndpointMissing):
            return None

    async def operations(self, since: datetime) -> Sequence[Operation]:
        return tuple(_operation(each) for each in await self.client.operations(since=since))

    async def delete(self, machine_id: MachineId) -> None:
        try:
            await self.client.delete_vm(machine_id)
        except NotFound:
            log.debug("machine_unknown", machine=machine_id)
        except EndpointMissing:
            raise
        except Rejected:
            # Refused because a delete is under way, perhaps ours whose answer was lost: look.
            machine = await self.machine(machine_id)
            if machine is not None and machine.power is not PowerState.DELETING:
                raise

    async def stop(self, machine_id: MachineId) -> None:
        try:
            await self.client.act_on_vm(machine_id, "STOP")
        except NotFound:
            log.debug("machine_unknown", machine=machine_id)

    async def disks(self) -> Sequence[Disk]:
        gib = self._prices.disk_gb_hour
        return tuple(_disk(each, gib) for each in await self.client.disks())

    async def delete_disk(self, disk_id: str) -> None:
        try:
            await self.client.delete_disk(disk_id)
        except NotFound:
            log.debug("disk_unknown", disk=disk_id)

    async def firewall_rules(self) -> Sequence[FirewallRule]:
        return await self._firewall.rules()

    async def ensure_firewall_rule(
        self,
        name: str,
        sources: Sequence[str],
        ports: Sequence[int],
        machine_id: MachineId | None = None,
    ) -> FirewallRule:
        return await self._firewall.ensure(name, sources, ports, machine_id)

    async def delete_firewall_rule(self, rule_id: str) -> None:
        await self._firewall.delete(rule_id)

    async def project_id(self) -> str:
        """Tell the project that the credential reaches.

        Raises:
            Rejected: it reaches others, and not the one in the config.
        """
        configured = self.client.configured_project_id
        if configured is None:
            return await self.client.project_id()
        try:
            reached = [project.id for project in await self.client.projects()]
            configured = await self.client.project_id()
        except (AuthFailed, EndpointMissing, NotFound):
            # A project's key may be refused there. Then reading from the project is the proof.
            await self.client.availabilities()
            return configured
        if reached and configured not in reached:
            raise Rejected(
                f"the credential reaches project {', '.join(reached)}, and the config says"
                f" {configured}: one of them is wrong"
            )
        return configured

    async def usage(self, since: datetime, until: datetime) -> Sequence[UsageLine]:
        return tuple(
            UsageLine(
                date=each.date.isoformat(),
                resource_type=each.resource_type or "",
                metric=each.billable_metric or "",
                quantity=float(each.quantity),
                cost=self._cost(each),
            )
            for each in await self.client.usage(since.date(), until.date())
        )

    async def close(self) -> None:
        await self.client.close()

    async def _left_out(self, machines: tuple[Machine, ...]) -> tuple[Machine, ...]:
        """Ask singly for machines that were listed before and are not in a doubtful list."""
        missing = self._listed - {machine.id for machine in machines}
        asked = [await self.machine(each) for each in sorted(missing)[:_MOST_WITNESSES]]
        return tuple(machine for machine in asked if machine is not None)

    def _complain(self, offers: Sequence[Offer]) -> None:
        """Log contradictions between price list and specs, when they change."""
        complaints = frozenset(
            f"{offer.key.type}: {text}" for offer in offers for text in offer.warnings
        ) | frozenset(
            f"{offer.key.type}: {offer.unrentable}"
            for offer in offers
            if offer.unrentable and "specs say" in offer.unrentable
        )
        for complaint in sorted(complaints - self._complaints):
            log.warning("price_list_contradicted", problem=complaint)
        self._complaints = complaints

    def _cost(self, usage: values.Usage) -> Money | None:
        """Price a line of usage: by GPU where the metric says so, else by machine or disk."""
        metric = (usage.billable_metric or "").lower()
        priced = self._prices.types.get(usage.resource_type or "")
        if priced is not None and "gpu" in metric and priced.gpu is not None:
            return priced.gpu.price_per_hour * usage.quantity
        if priced is not None and ("vm" in metric or priced.gpu is None):
            return priced.price_per_hour * usage.quantity
        if _DISK.search(f"{metric} {usage.resource_type}".lower()) and "hour" in metric:
            return self._prices.disk_gb_hour * usage.quantity
        return None


def _check(request: CreateRequest) -> None:
    """Refuse what the cloud would refuse, or what must not be rented, before it is sent.

    Raises:
        Rejected: always the same for the same request.
    """
    offer = request.offer
    if offer.price_per_hour is None or offer.unrentable is not None or offer.image is None:
        raise Rejected(f"{offer.key} is not for rent: {offer.unrentable or 'no price or image'}")
    if _NAME.fullmatch(request.name) is None:
        raise Rejected(f"VM name {request.name!r}: 3 to 63 of a-z, 0-9 and -, letter first")
    for which in ("startup_script", "shutdown_script"):
        script: str = getattr(request, which)
        if script and not (script.isascii() and script.startswith("#!/bin/bash")):
            raise Rejected(f"{which}: must be ASCII and begin with #!/bin/bash")
        if len(script) >= _SCRIPT_BYTES:
            raise Rejected(f"{which}: {len(script)} bytes; it must be below {_SCRIPT_BYTES}")


def _machine(vm: values.Vm) -> Machine:
    return Machine(
        id=MachineId(vm.id),
        name=vm.name,
        type=vm.type or "",
        location=vm.location or "",
        power=_POWER_OF.get(vm.state, PowerState.UNKNOWN),
        raw_state=vm.state,
        address=_address(vm.public_address),
        private_address=_address(vm.private_address),
        created_at=vm.created_at,
        disk_ids=tuple(disk.id for disk in vm.disks),
    )


@lru_cache(maxsize=4096)  # every listing has the same ones
def _address(text: str | None) -> str | None:
    """Take an address that can be connected to; the API gives `""` and `:0` at times."""
    try:
        address = ipaddress.IPv4Address(text or "")
    except ValueError:
        return None
    usable = not (address.is_unspecified or address.is_link_local or address.is_multicast)
    return str(address) if usable else None


def _operation(operation: values.Operation) -> Operation:
    match operation.state:
        case "SUCCEEDED":
            state = OperationState.SUCCEEDED
        case "FAILED":
            state = OperationState.FAILED
        case _:
            state = OperationState.IN_PROGRESS
    resource_id = operation.resource_id
    code, message = _why_failed(operation.result)
    return Operation(
        id=OperationId(operation.operation_id),
        state=state,
        kind=operation.kind,
        machine_id=MachineId(resource_id) if resource_id is not None else None,
        request_name=operation.request_name,
        echoes_script=operation.echoes_script,
        code=code,
        message=message,
        started_at=operation.started_at,
    )


def _why_failed(result: values.OperationResult | None) -> tuple[str, str]:
    """Read code and message; stock and quota have one code each, however they were said."""
    code, message = clean((result and result.code) or ""), clean((result and result.message) or "")
    match refusal(code, message, ""):
        case QuotaExceeded():
            return "quota_exceeded", message or code
        case OutOfStock():
            return "out_of_stock", message or code
        case _:
            return code, message


def _disk(disk: values.Disk, price_of_gib: Money) -> Disk:
    return Disk(
        id=disk.id,
        name=disk.name or "",
        size_gib=disk.size_gib or 0.0,
        location=disk.location or "",
        attached_to=tuple(MachineId(each.id) for each in disk.attached_to if each.id),
        created_at=disk.created_at,
        price_per_hour=price_of_gib * Decimal(str(disk.size_gib or 0)),
    )
