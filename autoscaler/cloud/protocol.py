"""What a GPU cloud must offer. The emulator and a real cloud both satisfy it; one contract suite runs against each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from autoscaler.domain.ids import MachineId, NodeName, OperationId
from autoscaler.domain.machine import Disk, FirewallRule, Inventory, Machine, Operation
from autoscaler.domain.money import Money
from autoscaler.domain.offer import Offer


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """One machine to ask for. `name` is used in one create call, ever.

    Attributes:
        ssh_public_key: the daemon's client key, OpenSSH form.
        startup_script: ASCII, below 64 kB, beginning `#!/bin/bash`; no secret in it: the cloud echoes it.
    """

    name: NodeName
    offer: Offer
    ssh_public_key: str
    startup_script: str
    shutdown_script: str = ""


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to a create call: the operation to watch and, when the cloud says it at once, the machine's id."""

    operation_id: OperationId
    machine_id: MachineId | None


class Cloud(Protocol):
    """Rents virtual machines by the hour.

    Every method may raise `CloudUnavailable` (nothing is known, repeat the pass later), its `AuthFailed`, and
    `SchemaError` (an answer that we do not understand: act on nothing it says).
    """

    async def offers(self) -> Sequence[Offer]:
        """List what this cloud rents, every priced type, cheapest first."""

    async def inventory(self) -> Inventory:
        """List every machine of the project, whoever made it, and say whether the listing was complete."""

    async def machine(self, machine_id: MachineId) -> Machine | None:
        """Read one machine; None when the cloud says 404 of it, which alone proves nothing."""

    async def create(self, request: CreateRequest) -> Created:
        """Ask for one machine, once.

        Raises:
            OutOfStock: this offer, now. QuotaExceeded: this GPU family. PaymentRequired: the account.
            Rejected: this request, ever.
            OutcomeUnknown: sent, not answered. Look for the name; a retry is a new attempt with a new name.
        """

    async def operation(self, operation_id: OperationId) -> Operation | None:
        """Read one operation; None when the cloud no longer knows it: judge by the machine."""

    async def operations(self, since: datetime) -> Sequence[Operation]:
        """List operations since an instant, to find a lost answer by the name it echoes. May miss finished ones.

        Raises:
            EndpointMissing: this cloud lists none: what it was asked for shows in the listing of machines alone.
        """

    async def delete(self, machine_id: MachineId) -> None:
        """Ask for a machine to go; unknown is no error. No answer proves that it is gone.

        Raises:
            Rejected: refused, for example while it runs: stop it first.
            OutcomeUnknown: not answered. Ask again; repeating is safe.
        """

    async def stop(self, machine_id: MachineId) -> None:
        """Ask a machine to power off. Raises as `delete` does."""

    async def disks(self) -> Sequence[Disk]:
        """List persistent disks, empty when the cloud lists none (`EndpointMissing` otherwise)."""

    async def delete_disk(self, disk_id: str) -> None:
        """Ask for a disk to go. Raises as `delete` does."""

    async def firewall_rules(self) -> Sequence[FirewallRule]:
        """List firewall rules."""

    async def ensure_firewall_rule(
        self, name: str, sources: Sequence[str], ports: Sequence[int]
    ) -> FirewallRule:
        """Make, or verify and mend, the one ingress rule of that name: TCP `ports` from the CIDRs `sources` only.

        Never sends a second create for a name that is listed. Returns the rule, perhaps not active yet.

        Raises:
            Rejected: the cloud refuses the rule.
        """

    async def delete_firewall_rule(self, rule_id: str) -> None:
        """Ask for a rule to go; unknown is no error."""

    async def project_id(self) -> str:
        """The id of the project that our credential reaches, to notice a key of another one."""

    async def usage(self, since: datetime, until: datetime) -> Sequence[UsageLine]:
        """What the cloud says it metered, in whole days, a day late."""

    async def close(self) -> None:
        """Close connections."""


@dataclass(frozen=True, slots=True)
class UsageLine:
    """One day's metered quantity of one resource type.

    Attributes:
        metric: the cloud's own word, such as `gpu-hours`.
        cost: at our price list, None when the resource has no price there.
    """

    date: str
    resource_type: str
    metric: str
    quantity: float
    cost: Money | None = None
