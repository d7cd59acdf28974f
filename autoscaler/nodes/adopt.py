"""Adopt: machines that the store does not know become nodes again, each once it is proven and verified in full.

Proven: the host key that it shows is certified by our authority, for this VM and no other, and the certificate's text
says what the node is. Verified: as after a boot, down to one answered request. Only then are the rows written, all in
one go between two sweeps, so that no sweep finds half of them unknown and nothing is rented in their place. Nothing is
ever deleted here, and nothing restarted: balancers that know the nodes send to them all the while.

A VM that a person rented is proven by the person's own word on its host key, and joins in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from autoscaler.clock import Clock
from autoscaler.domain.ids import (
    MachineId,
    ModelName,
    NodeName,
    new_intent_id,
    node_name,
    parse_name,
)
from autoscaler.domain.machine import Machine
from autoscaler.domain.node import BY_HAND, Node, NodeEvent, State
from autoscaler.domain.offer import Market, Offer, OfferKey
from autoscaler.errors import (
    AutoscalerError,
    ConfigError,
    NodeUnreachable,
)
from autoscaler.nodes.adopted import ADOPTED, check, row_of
from autoscaler.nodes.hostkey import normal_form
from autoscaler.nodes.introductions import Introductions
from autoscaler.nodes.inventory import Owner
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.protocol import Prober, Proven
from autoscaler.nodes.reach import Reach
from autoscaler.nodes.ssh import fingerprint
from autoscaler.nodes.sweep import Sweeper, price_of
from autoscaler.policy import Policy
from autoscaler.quantity import show_duration
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)

WITHIN = timedelta(minutes=4)  # for all of them, side by side
_AT_ONCE = 32
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """One machine, and what came of looking at it.

    Attributes:
        node: its row to be; None when it cannot be adopted.
        why: why not.
        proof: what its host key is believed for.
        detail: what verification showed.
    """

    machine: Machine
    node: Node | None = None
    why: str = ""
    proof: str = "our authority signed its host key"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Size:
    """What a VM of an offer carries of a model."""

    units: float
    replicas: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Adopter:
    """Takes machines over.

    Attributes:
        sizes: says what an offer carries of a policy's model; raises `ConfigError` when it cannot run it.
    """

    store: Store
    inventory: InventoryFeed
    leases: Leases
    sweeper: Sweeper
    introductions: Introductions
    prober: Prober
    reach: Reach
    clock: Clock
    mark: Owner
    policies: Callable[[], Mapping[ModelName, Policy]]
    market: Callable[[], Market | None]
    sizes: Callable[[Policy, Offer], Size]

    # of our mark

    async def survey(self, vm: str | None = None) -> tuple[Found, ...]:
        """Look at every machine of ours that no row knows, or at one; changes nothing, here or there.

        Args:
            vm: the name or id of the one; it may have been rented by hand if it was adopted before.

        Raises:
            ConfigError: there is no such machine, or a row knows it.
            CloudUnavailable, SchemaError, StoreUnavailable: nothing is known now.
        """
        if vm is not None:
            machines: Iterable[Machine] = (await self._machine(vm),)
        else:
            listed, known = await self.inventory.latest(timedelta(0)), await self._known()
            machines = [
                machine
                for machine in listed.machines
                if self._is_ours(machine) and not await self._row(machine, known)
            ]
        return await _each(self._proven, map(Found, machines))

    async def take(self, found: Sequence[Found], actor: str) -> tuple[Found, ...]:
        """Verify what was proven and write the rows of what serves; the rest says why not.

        Raises:
            StoreUnavailable, LeaseLost: some rows may be written. Adopt again.
        """
        deadline_s = self.clock.boot_s() + WITHIN.total_seconds()

        async def verified(one: Found) -> Found:
            return await self._verified(one, deadline_s)

        done = await _each(verified, found)
        return await self._recorded(done, actor)

    # by hand

    async def meet(self, vm: str, model: ModelName) -> tuple[Machine, str, bool]:
        """A machine that is to join a model, the host key that it shows, and whether it lets us in.

        The key is worth nothing until a person has compared it.

        Raises:
            ConfigError: there is no such machine, a row knows it, or it is another deployment's.
            NodeUnreachable: no answer over SSH. CloudUnavailable, SchemaError, StoreUnavailable: not known now.
        """
        machine = await self._machine(vm)
        self._policy(model)
        shown = await self.introductions.shown_key(_address(machine))
        return machine, shown, await self.introductions.lets_in(_address(machine), shown)

    async def vouched(self, machine: Machine, model: ModelName, host_key: str) -> Found:
        """A machine whose host key a person vouches for, as a line or by its fingerprint: its row to be.

        Raises:
            ConfigError: it shows another key, its type has no price, or cannot run the model.
            NodeUnreachable: no answer. StoreUnavailable: not known now.
        """
        shown = await self.introductions.shown_key(_address(machine))
        if not _is_same(host_key, shown):
            raise ConfigError(
                f"--host-key: {machine.name} shows {fingerprint(shown)}, which is not the key given: nothing was sent "
                "to it. Read the key on the machine itself: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
            )
        policy, now = self._policy(model), self.clock.now()
        key, market = OfferKey(machine.type, machine.location), self.market()
        price = price_of(key, await self.store.nodes(), market)
        offer = market.offer(key) if market is not None else None
        if not price or offer is None:
            raise ConfigError(
                f"{machine.name}: {key} is not offered with a price now, so nobody knows what it costs or carries: "
                "see `autoscaler offers`, and cloud.prices_file"
            )
        size, ours = self.sizes(policy, offer), parse_name(machine.name)
        intent = ours.intent if ours is not None else new_intent_id()
        attempt = ours.attempt if ours is not None else 1
        name = node_name(self.mark.prefix, self.mark.owner, intent, attempt, model)
        row = Node(
            name=NodeName(machine.name) if ours is not None else name,
            model=model,
            intent=intent,
            attempt=attempt,
            offer=key,
            price_per_hour=price,
            state=State.VERIFYING,
            since=now,
            created_at=machine.created_at or now,
            epoch=0,
            decision=ADOPTED if ours is not None else BY_HAND,
            reason="adopted",
            units=size.units,
            replicas=size.replicas,
            concurrency=size.concurrency,
            tensor_parallel=policy.hardware.tensor_parallel,
            spec_hash=policy.spec_hash(),
            machine_id=machine.id,
            address=machine.address,
            host_key=shown,
            disk_ids=machine.disk_ids,
            sent_at=machine.created_at or now,
            booted_at=machine.created_at or now,
        )
        return await self._placed(
            Found(machine, row, proof="a person vouches for its host key"), policy
        )

    # steps

    async def _machine(self, vm: str) -> Machine:
        inventory = await self.inventory.latest(timedelta(0))
        found = [m for m in inventory.machines if vm in (m.name, m.id)]
        if len(found) != 1:
            many = "several machines have this name, give the id" if found else "no such machine"
            raise ConfigError(f"{vm}: {many} (`autoscaler cloud vms` lists all)")
        row, parts = await self._row(found[0], await self._known()), parse_name(found[0].name)
        if row is not None:
            raise ConfigError(f"{vm}: it is node {row.name} already, {row.state}")
        if parts is not None and (parts.prefix, parts.owner) != (self.mark.prefix, self.mark.owner):
            raise ConfigError(
                f"{vm}: its name says that it belongs to deployment {parts.prefix}-{parts.owner}, and this is "
                f"{self._mark}: two must not manage one machine"
            )
        return found[0]

    async def _known(self) -> dict[MachineId | None, Node]:
        return {row.machine_id: row for row in await self.store.nodes()}

    async def _row(self, machine: Machine, known: Mapping[MachineId | None, Node]) -> Node | None:
        """The row that knows it: open, or closed under its name, which the sweep then deals with."""
        return known.get(machine.id) or await self.store.node(NodeName(machine.name))

    async def _proven(self, found: Found) -> Found:
        machine = found.machine
        shown, manifest = await self.introductions.introduce(_address(machine))
        check(machine, manifest, self._mark)
        policy = self._policy(ModelName(manifest.model))
        row = row_of(manifest, machine, shown, self.clock.now())
        return await self._placed(Found(machine, row), policy)

    async def _placed(self, found: Found, policy: Policy) -> Found:
        assert found.node is not None
        endpoints = await self.reach.endpoints(found.node, found.machine, policy)
        return replace(found, node=replace(found.node, endpoints=endpoints))

    async def _verified(self, found: Found, deadline_s: float) -> Found:
        """Look again until it is verified, or is not by the deadline."""
        node = found.node
        if node is None or node.address is None or node.host_key is None:
            return found
        market, why = self.market(), ""
        offer = market.offer(node.offer) if market is not None else None
        await self.introductions.authorize(node.address, node.host_key)
        while True:
            try:
                seen = await self.prober.verify(node, self._policy(node.model), offer)
            except NodeUnreachable as exc:
                why = str(exc)
            else:
                if isinstance(seen, Proven):
                    after = replace(node, tokens_per_s=seen.tokens_per_s)
                    return replace(found, node=after, detail=seen.detail)
                why = seen.stage
            if self.clock.boot_s() >= deadline_s:
                return replace(
                    found, node=None, why=f"not verified within {show_duration(WITHIN)}: {why}"
                )
            await self.clock.sleep(_PAUSE_S)

    async def _recorded(self, done: Sequence[Found], actor: str) -> tuple[Found, ...]:
        async with self.sweeper.gate:
            now, known = self.clock.now(), await self._known()
            taken = {one.machine.id for one in done if one.node is not None}
            # With most of them known the guard lets go: what is still unknown gets its grace time anew.
            left = [replace(o, first_seen=now) for o in await self.store.orphans()]
            await self.store.set_orphans([o for o in left if o.machine_id not in taken])
            return tuple([await self._record(one, known, actor, now) for one in done])

    async def _record(
        self, found: Found, known: Mapping[MachineId | None, Node], actor: str, now: datetime
    ) -> Found:
        if found.node is None:
            return found
        if (row := await self._row(found.machine, known)) is not None:
            return replace(found, node=None, why=f"it is node {row.name} already")
        lease = self.leases.current(found.node.model)
        cause = f"adopted by {actor}: {found.proof}"
        node = replace(
            found.node,
            epoch=lease.epoch,
            since=now,
            reason=cause,
            verified_at=now,
            ready_at=now,  # its boot was measured when it was one
        )
        event = NodeEvent(
            at=now,
            kind="node_adopted",
            model=node.model,
            node=node.name,
            state=node.state,
            cause=cause,
            actor=actor,
            detail=f"machine {found.machine.id} ({found.machine.name}); {found.detail}",
            decision=node.decision,
        )
        await self.store.insert(lease, node, event)
        log.info("node_adopted", node=node.name, model=node.model, actor=actor)
        return replace(found, node=node)

    # checks

    @property
    def _mark(self) -> str:
        return f"{self.mark.prefix}-{self.mark.owner}"

    def _is_ours(self, machine: Machine) -> bool:
        return machine.name.startswith(f"{self._mark}-") and parse_name(machine.name) is not None

    def _policy(self, model: ModelName) -> Policy:
        policy = self.policies().get(model)
        if policy is None:
            raise ConfigError(
                f"there is no policy of {model}: put its file into the directory of policies"
            )
        self.leases.current(model)
        return policy


async def _each(
    look: Callable[[Found], Awaitable[Found]], subjects: Iterable[Found]
) -> tuple[Found, ...]:
    """Look at all side by side, a few at a time; one that fails says why and hinders no other."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(subject: Found) -> Found:
        try:
            async with places:
                return await look(subject)
        except AutoscalerError as exc:
            return Found(subject.machine, why=str(exc))

    async with asyncio.TaskGroup() as tasks:
        looks = [tasks.create_task(one(subject)) for subject in subjects]
    return tuple(look.result() for look in looks)


def _address(machine: Machine) -> str:
    if machine.address is None:
        raise NodeUnreachable(f"{machine.name}: the cloud lists no address of it")
    return machine.address


def _is_same(given: str, shown: str) -> bool:
    """Whether a person's word, a public key line or a fingerprint, is of this key."""
    given = given.strip()
    if given.startswith("SHA256:"):
        return given == fingerprint(shown)
    try:
        return normal_form(given) == normal_form(shown)
    except ValueError:
        return False
