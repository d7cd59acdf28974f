"""Look at one node in the world, as its state asks: reads only, and every failure to read is "not known"."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from autoscaler.balance.group import BalancerGroup, Heard
from autoscaler.balance.protocol import PoolReport, ServerState
from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Inventory, Machine, Operation, PowerState
from autoscaler.domain.node import Node, State
from autoscaler.domain.offer import Offer
from autoscaler.errors import (
    BalancerUnavailable,
    CloudUnavailable,
    HostKeyMismatch,
    NodeUnreachable,
    SchemaError,
    VerificationFailed,
)
from autoscaler.nodes import register
from autoscaler.nodes.absence import AbsenceProof
from autoscaler.nodes.drain import DrainEvidence, none_takes_new
from autoscaler.nodes.inventory import implausible
from autoscaler.nodes.lifecycle import Sighting
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.liveness import Suspicion, Witnesses
from autoscaler.nodes.node_memory import NodeMemory
from autoscaler.nodes.operations import OperationsFeed, poll_pause
from autoscaler.nodes.protocol import Coming, Prober, Proven
from autoscaler.nodes.reach import Reach
from autoscaler.policy import Engine, Policy
from autoscaler.timings import Timings

# a state that mkinf adds some day says nothing
_NO_TESTIMONY = (PowerState.RUNNING, PowerState.UNKNOWN)
_SILENT_ENGINES = (Engine.EMBEDDING, Engine.CUSTOM)  # they export no count of requests in flight


class Looker:
    """Makes sightings."""

    def __init__(
        self,
        cloud: Cloud,
        inventory: InventoryFeed,
        balancers: BalancerGroup,
        prober: Prober,
        reach: Reach,
        clock: Clock,
        timings: Timings,
        known: Callable[[], Sequence[Node]],
    ) -> None:
        """`known` gives every open node: a listing that misses too many of them proves nothing of any."""
        self._cloud = cloud
        self._operations = OperationsFeed(cloud, clock)
        self._inventory = inventory
        self._balancers = balancers
        self._prober = prober
        self._reach = reach
        self._clock = clock
        self._timings = timings
        self._known = known

    def memory(self) -> NodeMemory:
        """A fresh memory for one node."""
        return NodeMemory(
            AbsenceProof(self._timings.gone_after),
            DrainEvidence(self._balancers.settle_time, self._timings.in_flight_gap),
        )

    async def look(
        self,
        node: Node,
        policy: Policy | None,
        offer: Offer | None,
        memory: NodeMemory,
        now: datetime,
    ) -> Sighting:
        """See what the node's state asks for."""
        memory.serving = node.state in (State.READY, State.DRAINING)
        memory.disagrees = False
        if memory.judged_in is not node.state:
            # What was held against it before it drained, or before it came back, no longer counts.
            memory.judged_in, memory.next_probe_s = node.state, 0.0
            memory.suspicion = memory.condemned = memory.sick = None
        if node.state is not State.DRAINING:
            memory.drain.forget()
            memory.drain_overdue = memory.cut_told = False
        if node.state is not State.VERIFYING:
            memory.unlisted_since_s = None
        match node.state:
            case State.CREATING:
                return await self._creating(node, memory, now)
            case State.BOOTING:
                return await self._booting(node, policy, memory)
            case State.VERIFYING:
                return await self._verifying(node, policy, offer, memory)
            case State.READY:
                return await self._ready(node, policy, offer, memory)
            case State.DRAINING:
                return await self._draining(node, policy, offer, memory, now)
            case State.FAILED:
                return Sighting(diagnosed=memory.diagnosed)
            case State.TERMINATING:
                return await self._terminating(node, memory)
            case _:
                return Sighting()

    async def _creating(self, node: Node, memory: NodeMemory, now: datetime) -> Sighting:
        inventory = await self._list()
        machine = _machine_of(node, inventory, self._taken(node))
        listed = inventory is not None and inventory.complete
        at_s = self._clock.boot_s()
        if at_s < memory.next_probe_s:
            return Sighting(machine=machine, listed=listed)
        memory.next_probe_s = at_s + poll_pause(now - node.since).total_seconds()
        operation: Operation | None = None
        try:
            if node.operation_id is not None:
                operation = await self._operations.by_id(node.operation_id)
            elif machine is None:
                since = (node.sent_at or node.created_at) - timedelta(minutes=5)
                operation = await self._operations.by_name(node.name, since)
            wanted = node.machine_id or (operation.machine_id if operation else None)
            if machine is None and wanted is not None:
                machine = await self._cloud.machine(wanted)
        except (CloudUnavailable, SchemaError):
            pass
        return Sighting(machine=machine, operation=operation, listed=listed)

    async def _booting(self, node: Node, policy: Policy | None, memory: NodeMemory) -> Sighting:
        machine, absent = await self._machine(node, memory)
        address = machine.address if machine is not None else None
        if absent or machine is None or address is None or policy is None:
            return Sighting(machine=machine, proven_absent=absent)
        if self._clock.boot_s() < memory.next_probe_s:
            return Sighting(machine=machine)
        memory.next_probe_s = self._clock.boot_s() + self._timings.ssh_retry.total_seconds()
        there = replace(node, address=address)
        try:
            key = await self._prober.contact(there)
            there = replace(there, host_key=key)
            endpoints = await self._reach.endpoints(there, machine, policy)
        except VerificationFailed as exc:
            return Sighting(machine=machine, fault=f"reach: {exc}")
        except NodeUnreachable as exc:
            memory.stage = f"ssh: {exc}"
            return Sighting(machine=machine)
        except HostKeyMismatch as exc:
            return Sighting(machine=machine, fault=f"host-key: {exc}")
        return Sighting(machine=machine, host_key=key, endpoints=endpoints)

    async def _verifying(
        self, node: Node, policy: Policy | None, offer: Offer | None, memory: NodeMemory
    ) -> Sighting:
        machine, absent = await self._machine(node, memory)
        if absent or policy is None:
            return Sighting(machine=machine, proven_absent=absent)
        if node.verified_at is not None:
            return await self._registering(node, machine, memory)
        try:
            seen = await self._prober.verify(node, policy, offer)
        except NodeUnreachable as exc:
            memory.stage = f"unreachable: {exc}"
            return Sighting(machine=machine)
        except HostKeyMismatch as exc:
            return Sighting(machine=machine, fault=f"host-key: {exc}")
        except VerificationFailed as exc:
            return Sighting(machine=machine, fault=f"verify: {exc}")
        match seen:
            case Coming(stage=stage):
                memory.stage = stage
                return Sighting(machine=machine)
            case Proven():
                memory.proven = seen
                return Sighting(machine=machine, verified=True)

    async def _registering(
        self, node: Node, machine: Machine | None, memory: NodeMemory
    ) -> Sighting:
        at_s = self._clock.boot_s()
        known = await self._ask(node, self._balancers.patience.grace)
        registered = known is not None and register.is_registered(node, known.reports)
        silent = self._balancers.waited_for(node.model)
        memory.stage = f"balancer: {silent} does not answer" if silent is not None else memory.stage
        if known is None or registered:
            memory.unlisted_since_s = None
        elif memory.unlisted_since_s is None:
            memory.unlisted_since_s = at_s
        since_s = at_s if memory.unlisted_since_s is None else memory.unlisted_since_s
        return Sighting(
            machine=machine, registered=registered, unlisted_for=timedelta(seconds=at_s - since_s)
        )

    async def _ready(
        self, node: Node, policy: Policy | None, offer: Offer | None, memory: NodeMemory
    ) -> Sighting:
        known = await self._ask(node, timedelta(0))
        registered = known is None or register.is_known(node, known.reports)
        memory.disagrees = not registered
        if memory.condemned is not None:
            return Sighting(fault=memory.condemned, registered=registered)
        machine, absent = await self._machine(node, memory)
        if not absent and policy is not None:
            await self._suspect(node, policy, offer, machine, known, memory)
        all_answer = known is not None and not known.overlooked
        may_drain = all_answer or self._balancers.why_no_release(node.model) is None
        sick = memory.sick if may_drain and self._may_drain_sick(node) else None
        return Sighting(machine=machine, proven_absent=absent, registered=registered, sick=sick)

    def _may_drain_sick(self, node: Node) -> bool:
        """One at a time of a model: should our check of the GPUs be what is wrong, the fleet stands."""
        return not any(
            other.model == node.model
            and other.name != node.name
            and other.reason.startswith("gpu: ")
            and other.state in (State.DRAINING, State.FAILED, State.TERMINATING)
            for other in self._known()
        )

    async def _suspect(
        self,
        node: Node,
        policy: Policy,
        offer: Offer | None,
        machine: Machine | None,
        known: Heard | None,
        memory: NodeMemory,
    ) -> None:
        at_s = self._clock.boot_s()
        if at_s < memory.next_probe_s:
            return
        memory.next_probe_s = at_s + self._timings.liveness.total_seconds()
        is_missed = machine is None and self._listing_counts()
        cloud = "the cloud does not list it" if is_missed else None
        if machine is not None and machine.power not in _NO_TESTIMONY:
            cloud = f"the cloud says {machine.raw_state}"
        ailment = await self._prober.ailment(node, policy, offer)
        memory.sick = f"gpu: {ailment.what}" if ailment is not None and ailment.gpus else None
        fails = ailment is not None and not ailment.gpus
        witnesses = Witnesses(
            daemon=ailment.what if ailment is not None and fails else None,
            balancer=_down_at(node, known.reports) if known is not None else None,
            cloud=cloud,
            reached=ailment is None or ailment.reached,
        )
        if len(witnesses.against) < 2:
            memory.suspicion = None
            return
        lasted = memory.suspicion is not None and at_s - memory.suspected_s <= self.believed_for_s
        since_s = memory.suspicion.since_s if memory.suspicion is not None and lasted else at_s
        memory.suspicion, memory.suspected_s = Suspicion(since_s, witnesses), at_s

    @property
    def believed_for_s(self) -> float:
        """How long a suspicion holds without another look: a daemon that slept begins anew."""
        timings = self._timings
        return max(timings.unhealthy_after, 3 * timings.liveness).total_seconds()

    def _taken(self, node: Node) -> frozenset[MachineId]:
        """The machines of other rows: a twin that the sweep gives back is nobody's."""
        rows = (row for row in self._known() if row.name != node.name)
        return frozenset(row.machine_id for row in rows if row.machine_id is not None)

    async def _draining(
        self,
        node: Node,
        policy: Policy | None,
        offer: Offer | None,
        memory: NodeMemory,
        now: datetime,
    ) -> Sighting:
        """Count what is in flight. What two witnesses call dead or hung finishes nothing: it is not waited for."""
        known = await self._ask(node, self._balancers.patience.absent_after)
        engine: int | None = None
        if known is not None:
            engine = await self._engine_in_flight(node, policy, known, now)
            memory.drain.witness(node, known.reports, engine, self._clock.boot_s())
            memory.disagrees = not none_takes_new(node, known.reports)
        if memory.condemned is not None:
            return Sighting(fault=memory.condemned)
        machine, absent = await self._machine(node, memory)
        if policy is not None and not absent and not memory.drain.is_idle:
            await self._suspect(node, policy, offer, machine, known, memory)
        if known is None:
            return Sighting(machine=machine, proven_absent=absent)
        dead = machine is not None and machine.power in (PowerState.BROKEN, PowerState.STOPPED)
        fault = f"power: the cloud says {machine.raw_state}" if machine and dead else None
        return Sighting(
            machine=machine,
            proven_absent=absent,
            drained=memory.drain.is_drained(self._clock.boot_s()),
            unregistered=register.is_unregistered(node, known.reports),
            fault=fault,
        )

    async def _engine_in_flight(
        self, node: Node, policy: Policy | None, known: Heard, now: datetime
    ) -> int | None:
        """The engine's own count. One that has not said by the deadline leaves the balancers' word.

        One that never says leaves it at once, if every balancer answers and can count what a reload left behind:
        HAProxy said zero while four streams ran on in a process that it does not list without its master socket.
        """
        is_silent = policy is None or policy.engine in _SILENT_ENGINES
        is_whole = not known.overlooked and all(r.counts_old_processes for r in known.reports)
        if is_silent and is_whole:
            return 0
        count = None
        if policy is not None and not is_silent:
            count = await self._prober.in_flight(node, policy)
        deadline = policy.drain.deadline if policy is not None else self._timings.blind_drain
        return 0 if count is None and now - node.since >= deadline else count

    async def _terminating(self, node: Node, memory: NodeMemory) -> Sighting:
        machine, absent = await self._machine(node, memory)
        # Only a verified node was ever in a balancer. One that does not answer may still send it requests, and its
        # address may soon be a stranger's: the machine stays until every balancer says that it forgot the entry.
        patience = self._balancers.patience.absent_after
        known = await self._ask(node, patience) if node.verified_at is not None else Heard(())
        gone = known is not None and register.is_unregistered(node, known.reports)
        memory.disagrees = known is not None and not gone
        return Sighting(machine=machine, proven_absent=absent, unregistered=gone)

    async def _machine(self, node: Node, memory: NodeMemory) -> tuple[Machine | None, bool]:
        """The node's machine as listed, and whether it is proven absent."""
        # What a balancer is to be told of a node that serves or drains does not wait for the cloud.
        wait = self._timings.step if memory.serving else None
        inventory = await self._list(wait)
        if inventory is None:
            return None, False
        if implausible(inventory, self._known(), self._inventory.confirmed_absent):
            return _machine_of(node, inventory), False
        memory.absence.witness(inventory, self._inventory.read_at_s, node.name, node.machine_id)
        if not memory.absence.listings_agree:
            return _machine_of(node, inventory), False
        if node.machine_id is None:
            return None, True
        try:
            return None, await self._cloud.machine(node.machine_id) is None
        except (CloudUnavailable, SchemaError):
            return None, False

    def _listing_counts(self) -> bool:
        """Whether what the newest listing lacks speaks against a node: not if it is old, cut or beyond belief."""
        inventory = self._inventory.last
        if inventory is None or not inventory.complete or self._inventory.is_failing:
            return False
        return not implausible(inventory, self._known(), self._inventory.confirmed_absent)

    async def _list(self, wait: timedelta | None = None) -> Inventory | None:
        try:
            return await self._inventory.latest(self._timings.step, wait)
        except (CloudUnavailable, SchemaError):
            return None

    async def _ask(self, node: Node, patience: timedelta) -> Heard | None:
        try:
            return await self._balancers.ask(node.model, patience)
        except BalancerUnavailable:
            return None


def _machine_of(
    node: Node, inventory: Inventory | None, taken: Collection[MachineId] = ()
) -> Machine | None:
    """The node's machine: by its id, else by its name; of twins the running one, else the oldest."""
    if inventory is None:
        return None
    if node.machine_id is not None:
        return inventory.by_id(node.machine_id)
    twins = sorted(
        (m for m in inventory.named(node.name) if m.id not in taken),
        key=lambda m: (
            m.power is not PowerState.RUNNING,
            m.created_at.timestamp() if m.created_at else 0.0,
            m.id,
        ),
    )
    return twins[0] if twins else None


def _down_at(node: Node, known: Sequence[PoolReport]) -> str | None:
    down = [
        endpoint.id
        for report in known
        for endpoint in node.endpoints
        if (server := report.server(endpoint.id)) is not None
        and (server.state is ServerState.DOWN or server.check_fails)
    ]
    return f"a balancer's check fails for {', '.join(down)}" if down else None
