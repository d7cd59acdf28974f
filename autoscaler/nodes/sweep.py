"""The sweep: every minute, at start and before the first launch, the cloud's listing is compared with the store.

Whatever it decides is recorded as a row before anything is deleted, so that the same never-ending termination carries
it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import (
    DecisionId,
    IntentId,
    MachineId,
    ModelName,
    NodeName,
    parse_name,
    slug,
)
from autoscaler.domain.machine import Disk, Inventory, Machine
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import CLOSED, Node, NodeEvent, State
from autoscaler.domain.offer import Market, OfferKey
from autoscaler.errors import (
    CloudUnavailable,
    EndpointMissing,
    OutcomeUnknown,
    Rejected,
    SchemaError,
    StoreUnavailable,
)
from autoscaler.nodes.inventory import Findings, Owner, compare, holding_traffic
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.store.protocol import Orphan, Store
from autoscaler.timings import Timings

log = structlog.get_logger(__name__)

_SIGHT_KEPT_S = 3600.0  # of an orphan that no listing shows any more
ORPHANS_MODEL = ModelName("orphans")  # the lease and the rows of machines that no policy claims


@dataclass(frozen=True, slots=True)
class _Sight:
    """An orphan, and when it was first and last seen in seconds since boot."""

    orphan: Orphan
    first_s: float
    last_s: float


class Sweeper:
    """Runs sweeps and keeps what the last one found."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        inventory: InventoryFeed,
        leases: Leases,
        clock: Clock,
        timings: Timings,
        mark: Owner,
        in_traffic: Callable[[Sequence[ModelName]], Awaitable[frozenset[NodeName]]] | None = None,
    ) -> None:
        """`in_traffic` says which nodes of some models balancers send to; None where there are no balancers."""
        self._store = store
        self._cloud = cloud
        self._inventory = inventory
        self._leases = leases
        self._clock = clock
        self._timings = timings
        self._mark = mark
        self._in_traffic = in_traffic
        self._confirmed = False
        self._sights: dict[MachineId, _Sight] = {}
        self._disks_told: frozenset[str] = frozenset()
        # Held while several rows appear that a sweep must see all or none of.
        self.gate = asyncio.Lock()
        self.disks_left: tuple[Disk, ...] = ()
        self.findings = Findings()
        self.swept_at: datetime | None = None

    def confirm(self) -> None:
        """A person says that the next listing may be acted on although a guard holds."""
        self._confirmed = True

    async def sweep(self, models: dict[str, ModelName], market: Market | None) -> Findings:
        """Compare once and record what is to be done.

        Args:
            models: slug → model, to book a surfaced machine to the model in its name.

        Raises:
            CloudUnavailable, SchemaError, StoreUnavailable: nothing was changed.
        """
        async with self.gate:
            return await self._sweep(models, market)

    async def _sweep(self, models: dict[str, ModelName], market: Market | None) -> Findings:
        now = self._clock.now()
        inventory = await self._inventory.latest(timedelta(0))
        rows = await self._store.nodes(closed_since=now - self._timings.closed_memory)
        attempts = {
            parts.intent: await self._store.last_attempt(parts.intent)
            for machine in inventory.machines
            if (parts := parse_name(machine.name)) is not None
        }
        orphans = await self._store.orphans()
        findings = compare(
            inventory,
            rows,
            attempts,
            orphans if not inventory.complete else self._first_sights(orphans),
            self._mark,
            self._timings.orphan_grace,
            now,
            confirmed=self._confirmed,
        )
        if findings.orphans and self._in_traffic is not None and not self._confirmed:
            names = await self._in_traffic(tuple(models.values()))
            findings = holding_traffic(findings, names)
        await self._carry_out(findings, inventory, rows, models, market, now)
        if self._confirmed and findings.held is None:
            self._inventory.confirm_absent(findings.absent)
            self._confirmed = False
        if findings.held != self.findings.held:
            log.error("sweep_held", why=findings.held)
        self.findings, self.swept_at = findings, now
        await self._clear_disks(rows, now)
        return findings

    def _first_sights(self, stored: Sequence[Orphan]) -> tuple[Orphan, ...]:
        """Orphans with when they were first seen, those too that a listing has lacked since.

        A listing that leaves one out proves nothing: its grace time would begin anew with every flicker. Within one
        process it is counted by the boot clock: a wall clock that is set back would else make it longer.
        """
        at_s, now = self._clock.boot_s(), self._clock.now()
        for orphan in stored:
            known = self._sights.get(orphan.machine_id)
            age_s = max(0.0, (now - orphan.first_seen).total_seconds())
            first_s = known.first_s if known is not None else at_s - age_s
            self._sights[orphan.machine_id] = _Sight(orphan, first_s, at_s)
        lately_s = at_s - _SIGHT_KEPT_S
        self._sights = {key: seen for key, seen in self._sights.items() if seen.last_s > lately_s}
        return tuple(
            replace(seen.orphan, first_seen=now - timedelta(seconds=at_s - seen.first_s))
            for seen in self._sights.values()
        )

    async def _carry_out(
        self,
        findings: Findings,
        inventory: Inventory,
        rows: tuple[Node, ...],
        models: dict[str, ModelName],
        market: Market | None,
        now: datetime,
    ) -> None:
        by_name = {row.name: row for row in rows}
        await self._store.set_orphans(findings.orphans)
        for name, machine in findings.adopt:
            await self._adopt(by_name[name], machine, now)
        known = {row.machine_id for row in rows if row.state not in CLOSED}
        for machine, why in findings.surplus:
            if machine.id not in known and not await self._was_taken(machine):
                await self._doom(machine, why, by_name, models, market, now)
        for machine in findings.expired:
            if self._mark.is_derived:
                log.error(
                    "orphan_left", machine=machine.name, do="write cloud.owner into config.toml"
                )
                continue
            await self._doom(machine, "orphan: no row ever named it", by_name, models, market, now)

    async def _was_taken(self, machine: Machine) -> bool:
        """Whether a node has bound the machine since the rows were read: of twins its step may choose another."""
        row = await self._store.node(NodeName(machine.name))
        return row is not None and row.machine_id == machine.id and row.state not in CLOSED

    async def _free_name(self, machine: Machine, rows: dict[NodeName, Node]) -> NodeName:
        """A name for the row of a machine whose own name may have one; one may come back more often than once."""
        name = NodeName(machine.name)
        if name not in rows and await self._store.node(name) is None:
            return name
        for suffix in (machine.id[:8], machine.id, *(f"{machine.id}-{n}" for n in range(2, 100))):
            name = NodeName(f"{machine.name}~{suffix}")
            if await self._store.node(name) is None:
                return name
        raise StoreUnavailable(f"{machine.name}: a hundred rows of it, and it is still listed")

    async def _adopt(self, row: Node, machine: Machine, now: datetime) -> None:
        if row.nonce is None or row.model not in self._leases.models:
            await self._doom(machine, "surfaced late", {row.name: row}, {}, None, now)
            return
        # The store lets a closed row live again only while its intent has no later attempt: one may have been
        # recorded since this listing was compared, and then there would be two machines of one intent.
        after = replace(
            row,
            state=State.BOOTING,
            since=now,
            machine_id=machine.id,
            gone_at=None,
            reason="its machine surfaced after it was written off",
        )
        await self._store.advance(
            self._leases.current(row.model), row, after, _event(after, after.reason, now)
        )

    async def _doom(
        self,
        machine: Machine,
        why: str,
        rows: dict[NodeName, Node],
        models: dict[str, ModelName],
        market: Market | None,
        now: datetime,
    ) -> None:
        """Record a row that terminates this machine; a name that a row has already gets its id appended."""
        parts = parse_name(machine.name)
        slugged = parts.model_slug if parts is not None else ""
        model = models.get(slugged)
        if model is None and slugged:  # a long name was cut off
            model = next((m for s, m in models.items() if s.startswith(slugged)), None)
        row = rows.get(NodeName(machine.name))
        if row is not None and row.model in self._leases.models:
            model = row.model
        lease = self._leases.current(model or ORPHANS_MODEL)
        name = await self._free_name(machine, rows)
        key = OfferKey(machine.type, machine.location)
        node = Node(
            name=name,
            model=lease.model,
            intent=parts.intent if parts is not None else IntentId("orphan"),
            attempt=parts.attempt if parts is not None else 0,
            offer=key,
            price_per_hour=price_of(key, rows.values(), market),
            state=State.TERMINATING,
            since=now,
            created_at=now,
            epoch=lease.epoch,
            decision=DecisionId("sweep"),
            reason=why,
            units=0.0,
            replicas=0,
            concurrency=0,
            tensor_parallel=1,
            spec_hash="",
            machine_id=machine.id,
            disk_ids=machine.disk_ids,
            sent_at=machine.created_at or now,
            booted_at=machine.created_at or now,
            failure=f"sweep: {why}",
        )
        log.warning("machine_condemned", machine=machine.id, name=machine.name, why=why)
        await self._store.insert(lease, node, _event(node, why, now))

    async def _clear_disks(self, rows: tuple[Node, ...], now: datetime) -> None:
        """Delete system disks that should have gone with a machine. Other disks are nobody's but the operator's."""
        searched = self._timings.disk_search
        left = {
            f"OS-disk-{row.machine_id}": row
            for row in rows
            if row.machine_id is not None
            and row.gone_at is not None
            and now - row.gone_at < searched
        }
        if not left:
            self.disks_left = ()
            return
        try:
            disks = [disk for disk in await self._cloud.disks() if disk.name in left]
            spare = [disk for disk in disks if not disk.attached_to]
            self.disks_left = tuple(spare)
            for disk in spare:
                await self._clear_disk(disk, left[disk.name], now)
            self._disks_told &= {disk.id for disk in spare}
        except EndpointMissing:
            return
        except (CloudUnavailable, OutcomeUnknown, Rejected, SchemaError) as exc:
            log.warning("disks_not_cleared", why=str(exc))

    async def _clear_disk(self, disk: Disk, row: Node, now: datetime) -> None:
        """Ask for a disk to be deleted, at each sweep until it is gone; told once."""
        log.warning("disk_left_behind", disk=disk.id, name=disk.name)
        await self._cloud.delete_disk(disk.id)
        if disk.id in self._disks_told:
            return
        cause = "its system disk was left behind"
        detail = f"disk {disk.id} ({disk.name}, {disk.size_gib:g} GiB) deleted"
        event = replace(_event(row, cause, now), kind="disk_deleted", detail=detail)
        await self._store.add_event(event)
        self._disks_told |= {disk.id}


def price_of(key: OfferKey, rows: Iterable[Node], market: Market | None) -> Money:
    """What a machine is booked at: as it was rented, else as its type is offered, else at the dearest price known.

    What is sold out is not offered, and bills all the same.
    """
    offers = market.offers if market is not None else ()
    rented = [row for row in rows if row.offer.type == key.type]
    choices = (
        [row.price_per_hour for row in rented if row.offer == key],
        [offer.price_per_hour for offer in offers if offer.key == key],
        [
            *(row.price_per_hour for row in rented),
            *(offer.price_per_hour for offer in offers if offer.key.type == key.type),
        ],
    )
    for prices in choices:
        if known := [price for price in prices if price]:
            return max(known)
    dearest = max((offer.price_per_hour for offer in offers if offer.price_per_hour), default=ZERO)
    log.error("price_unknown", offer=str(key), booked_at=str(dearest))
    return dearest


def model_slugs(models: tuple[ModelName, ...]) -> dict[str, ModelName]:
    """Each model under the slug that stands in its machines' names."""
    return {slug(model): model for model in models}


def _event(node: Node, cause: str, now: datetime) -> NodeEvent:
    return NodeEvent(
        at=now,
        kind=f"node_{node.state}",
        model=node.model,
        node=node.name,
        state=node.state,
        cause=cause,
        actor="sweep",
    )
