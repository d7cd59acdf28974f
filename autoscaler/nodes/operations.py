"""The cloud's operations, read once for all nodes: a finished one may be told a single time, to whoever asks first.

A listing made to find one node's lost answer by its name also brings the finished operations of others, and may be
the last that is ever heard of them: so every end that was told is kept here.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import NodeName, OperationId
from autoscaler.domain.machine import Operation, OperationState
from autoscaler.errors import CloudUnavailable, EndpointMissing, SchemaError

_REMEMBERED = 4096
_LISTED_EVERY_S = 5.0


class OperationsFeed:
    """Asks for operations by id and by the name in their request; one listing at a time, for all askers."""

    def __init__(self, cloud: Cloud, clock: Clock) -> None:
        self._cloud = cloud
        self._clock = clock
        self._lock = asyncio.Lock()
        self._ended: dict[OperationId, Operation] = {}
        self._listed: tuple[Operation, ...] = ()
        self._listed_at_s: float | None = None
        self._since: datetime | None = None
        self._failure: CloudUnavailable | SchemaError | None = None

    async def by_id(self, operation_id: OperationId) -> Operation | None:
        """One operation as last told; None when the cloud does not know it and its end was never told.

        Raises:
            CloudUnavailable, SchemaError: not known now.
        """
        if operation_id in self._ended:
            return self._ended[operation_id]
        found = await self._cloud.operation(operation_id)
        if found is not None:
            self._keep(found)
            return found
        return self._ended.get(operation_id)  # a listing that ran meanwhile may have been told

    async def by_name(self, name: NodeName, since: datetime) -> Operation | None:
        """The operation whose request carried this name, started since then.

        Raises:
            CloudUnavailable, SchemaError: the operations cannot be listed now, or could not a moment ago.
        """
        known = self._named(name)
        if known is not None and known.state is not OperationState.IN_PROGRESS:
            return known
        async with self._lock:
            await self._list(since)
        return self._named(name)

    async def _list(self, since: datetime) -> None:
        """List afresh, unless that was done a moment ago and reached back far enough."""
        at_s = self._clock.boot_s()
        lately = self._listed_at_s is not None and at_s - self._listed_at_s < _LISTED_EVERY_S
        if lately and self._since is not None and self._since <= since:
            if self._failure is not None:
                raise self._failure
            return
        if lately and self._since is not None:
            since = min(since, self._since)
        self._listed_at_s, self._since = at_s, since
        try:
            self._listed = tuple(await self._cloud.operations(since))
        except EndpointMissing:
            self._listed = ()  # then the listing of machines is the only witness
        except (CloudUnavailable, SchemaError) as exc:
            self._failure, self._listed = exc, ()
            raise
        self._failure = None
        for operation in self._listed:
            self._keep(operation)

    def _named(self, name: NodeName) -> Operation | None:
        told = (*self._ended.values(), *self._listed)
        return next((each for each in told if each.request_name == name), None)

    def _keep(self, operation: Operation) -> None:
        if operation.state is OperationState.IN_PROGRESS:
            return
        if len(self._ended) >= _REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._ended[operation.id] = operation


def poll_pause(age: timedelta) -> timedelta:
    """How long after a look at an operation the next one comes: soon at first, then rarely, for a minute is usual."""
    return timedelta(seconds=2) if age < timedelta(seconds=20) else timedelta(seconds=5)
