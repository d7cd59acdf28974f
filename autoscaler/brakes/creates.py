"""Creates of ours, as operations tell of them. A finished one may be told only once: all that was told is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId, OperationId, parse_name
from autoscaler.domain.machine import Operation, OperationState
from autoscaler.errors import EndpointMissing
from autoscaler.nodes.inventory import Owner

_REMEMBERED = timedelta(days=7)  # how far back operations are asked for


@dataclass(slots=True)
class Creates:
    """What was heard in one run of a command.

    Attributes:
        missing: why this cloud lists no operations at all, empty while it may.
        is_heard: they were listed at least once.
    """

    cloud: Cloud
    owner: Owner
    missing: str = ""
    is_heard: bool = False
    _told: dict[OperationId, Operation] = field(default_factory=dict)

    async def listen(self, now: datetime) -> None:
        """Read what the cloud tells now.

        Raises:
            CloudUnavailable, SchemaError, Rejected: it could not be read; what was heard before stays.
        """
        try:
            operations = await self.cloud.operations(now - _REMEMBERED)
        except EndpointMissing as exc:
            self.missing = str(exc)
            return
        self.missing, self.is_heard = "", True
        for each in operations:
            before = self._told.get(each.id)
            if before is None or before.state is OperationState.IN_PROGRESS:
                self._told[each.id] = each

    @property
    def machines(self) -> frozenset[MachineId]:
        """Every VM that was made under a name of ours, gone or not."""
        return frozenset(each.machine_id for _, each in self.named() if each.machine_id is not None)

    @property
    def deleted(self) -> frozenset[MachineId]:
        """VMs whose delete has succeeded, whoever asked for it."""
        return frozenset(
            each.machine_id
            for each in self._told.values()
            if each.machine_id is not None
            and "delete" in each.kind.lower()
            and each.state is OperationState.SUCCEEDED
        )

    def named(self) -> Iterator[tuple[str, Operation]]:
        """Each operation that was asked for under a name of ours, with that name."""
        for each in self._told.values():
            if is_our_vm(each.request_name or "", self.owner):
                yield each.request_name or "", each


def is_our_vm(name: str, owner: Owner) -> bool:
    """Whether a VM's name has our whole form, prefix and owner mark exactly."""
    parts = parse_name(name)
    return parts is not None and (parts.prefix, parts.owner) == (owner.prefix, owner.owner)
