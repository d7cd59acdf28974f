"""Builders for a node's life: rows, listings, and the world at its edge: a cloud, a balancer and a prober of air."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from autoscaler.balance.group import BalancerGroup
from autoscaler.balance.protocol import Pool, PoolReport, ServerReport, ServerState
from autoscaler.cloud.protocol import Cloud, Created, CreateRequest, UsageLine
from autoscaler.domain.decision import Decision, Verdict
from autoscaler.domain.ids import (
    DecisionId,
    IntentId,
    MachineId,
    ModelName,
    NodeName,
    OperationId,
    node_name,
)
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
from autoscaler.domain.node import Endpoint, Node, State
from autoscaler.domain.offer import Market, Offer, OfferKey
from autoscaler.domain.plan import Plan
from autoscaler.errors import AutoscalerError, BalancerUnavailable, ConfigError
from autoscaler.nodes.launch import Launcher, Scripts
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.protocol import Ailment, Coming, Proven
from autoscaler.nodes.reach import PlainReach, Reach
from autoscaler.nodes.runner import NodeRunner, Parts
from autoscaler.policy import Policy
from autoscaler.store.protocol import Admission
from autoscaler.store.sqlite import SqliteStore
from autoscaler.timings import Timings

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MODEL = ModelName("llama")
OWNER = "abcdefgh"
KEY = OfferKey("l40s-48gb.1x", "us-east1-a")
INTENT = IntentId("a" * 13)
TIMINGS = Timings()


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def policy(**changes: object) -> Policy:
    table: dict[str, object] = {"schema": 1, "model": MODEL, "engine": "vllm", "mode": "active"}
    return Policy.model_validate(table | changes)


def offer(type_: str = "l40s-48gb.1x", gpu: str | None = "l40s", usd: str = "1.25") -> Offer:
    return Offer(
        key=OfferKey(type_, "us-east1-a"),
        price_per_hour=Money.of(usd),
        gpu=gpu,
        gpus=1,
        gpu_memory_gb=48,
        vcpu=8,
        ram_gb=147,
        disk_gb=128,
        in_stock=True,
        image="ubuntu22.04-nvidia-pcie-docker",
    )


def intent_id(number: int) -> IntentId:
    """Distinct ids of the right form."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, digit = divmod(number, 26)
        text = letters[digit] + text
    return IntentId(text.rjust(13, "a"))


def node(state: State = State.PLANNED, **changes: object) -> Node:
    """A row in some state, with the facts that a row in that state has."""
    intent = changes.get("intent", INTENT)
    attempt = changes.get("attempt", 1)
    model = changes.get("model", MODEL)
    assert isinstance(intent, str)
    assert isinstance(attempt, int)
    assert isinstance(model, str)
    name = node_name("as1", OWNER, IntentId(intent), attempt, ModelName(model))
    row = Node(
        name=name,
        model=MODEL,
        intent=INTENT,
        attempt=1,
        offer=KEY,
        price_per_hour=Money.of("1.25"),
        state=state,
        since=NOON,
        created_at=NOON,
        epoch=1,
        decision=DecisionId("d1"),
        reason="wanted",
        units=1.0,
        replicas=1,
        concurrency=8,
        tensor_parallel=1,
        spec_hash=policy().spec_hash(),
        nonce="5a" * 32,
    )
    if state not in (State.PLANNED, State.CANCELLED):
        row = replace(row, sent_at=NOON)
    if state in (State.BOOTING, State.VERIFYING, State.READY, State.DRAINING):
        row = replace(row, machine_id=MachineId(f"m-{name}"), address="203.0.113.7")
    if state in (State.VERIFYING, State.READY, State.DRAINING):
        row = replace(
            row,
            nonce=None,
            host_key="ssh-ed25519 AAAA",
            endpoints=(Endpoint(name, "http://203.0.113.7:8000", 10, 8),),
        )
    if state in (State.READY, State.DRAINING):
        row = replace(row, verified_at=NOON, ready_at=NOON)
    return replace(row, **changes)  # type: ignore[arg-type]  # the caller names fields


def machine(
    name: str = "",
    id_: str | None = None,
    power: PowerState = PowerState.RUNNING,
    created_at: datetime | None = NOON,
) -> Machine:
    name = name or node().name
    return Machine(
        id=MachineId(id_ or f"m-{name}"),
        name=name,
        type=KEY.type,
        location=KEY.location,
        power=power,
        raw_state=power.value.upper(),
        address="203.0.113.7",
        created_at=created_at,
    )


def machine_of(row: Node) -> Machine:
    return machine(row.name, row.machine_id)


def listing(
    *machines: Machine, at: datetime = NOON, complete: bool = True, why: str = ""
) -> Inventory:
    return Inventory(tuple(machines), at, complete, why)


class HandClock:
    """Stands still until moved; the wall may jump without the boot clock."""

    def __init__(self) -> None:
        self.wall = NOON
        self.boot = 1000.0

    def now(self) -> datetime:
        return self.wall

    def boot_s(self) -> float:
        return self.boot

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)

    def move(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.boot += seconds

    def jump(self, by: timedelta) -> None:
        self.wall += by


@dataclass
class AirCloud:
    """A cloud at the Protocol's edge. It keeps a log of every call with an effect."""

    clock: HandClock
    vms: dict[MachineId, Machine] = field(default_factory=dict)
    ops: dict[OperationId, Operation] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    create_raises: list[AutoscalerError] = field(default_factory=list)
    makes_although_it_raises: bool = False
    power_on_create: PowerState = PowerState.RUNNING
    delete_raises: list[AutoscalerError] = field(default_factory=list)
    deletes_work: bool = True
    unreadable: AutoscalerError | None = None
    complete: bool = True
    hidden: bool = False  # lists nothing although machines exist
    get_says_404: bool = False
    at_create: Callable[[CreateRequest], None] | None = None
    rentable: tuple[Offer, ...] = field(default_factory=lambda: (offer(),))
    spare_disks: list[Disk] = field(default_factory=list)

    def sent(self, what: str) -> list[str]:
        return [subject for kind, subject in self.calls if kind == what]

    async def offers(self) -> Sequence[Offer]:
        self._readable()
        return self.rentable

    async def inventory(self) -> Inventory:
        self._readable()
        found = () if self.hidden else tuple(self.vms.values())
        why = "" if self.complete else "a page is missing"
        return Inventory(found, self.clock.now(), self.complete, why)

    async def machine(self, machine_id: MachineId) -> Machine | None:
        self._readable()
        return None if self.get_says_404 else self.vms.get(machine_id)

    async def create(self, request: CreateRequest) -> Created:
        self.calls.append(("create", request.name))
        if self.at_create is not None:
            self.at_create(request)
        failure = self.create_raises.pop(0) if self.create_raises else None
        if failure is None or self.makes_although_it_raises:
            self.add(request.name)
        if failure is not None:
            raise failure
        return Created(OperationId(f"op-{request.name}"), MachineId(f"m-{request.name}"))

    def add(self, name: str, id_: str | None = None) -> Machine:
        made = machine(name, id_, self.power_on_create)
        self.vms[made.id] = made
        operation = OperationId(f"op-{name}")
        self.ops[operation] = Operation(
            operation, OperationState.SUCCEEDED, "create", made.id, request_name=name
        )
        return made

    def failed(self, operation_id: OperationId, message: str) -> Operation:
        return replace(self.ops[operation_id], state=OperationState.FAILED, message=message)

    async def operation(self, operation_id: OperationId) -> Operation | None:
        self._readable()
        return self.ops.get(operation_id)

    async def operations(self, since: datetime) -> Sequence[Operation]:
        self._readable()
        return list(self.ops.values())

    async def delete(self, machine_id: MachineId) -> None:
        self.calls.append(("delete", machine_id))
        if self.delete_raises:
            raise self.delete_raises.pop(0)
        if self.deletes_work:
            self.vms.pop(machine_id, None)

    async def stop(self, machine_id: MachineId) -> None:
        self.calls.append(("stop", machine_id))

    async def disks(self) -> Sequence[Disk]:
        return self.spare_disks

    async def delete_disk(self, disk_id: str) -> None:
        self.calls.append(("delete_disk", disk_id))
        self.spare_disks = [disk for disk in self.spare_disks if disk.id != disk_id]

    async def firewall_rules(self) -> Sequence[FirewallRule]:
        return []

    async def ensure_firewall_rule(
        self, name: str, sources: Sequence[str], ports: Sequence[int]
    ) -> FirewallRule:
        return FirewallRule("r1", name, tuple(sources), tuple(map(str, ports)), active=True)

    async def delete_firewall_rule(self, rule_id: str) -> None: ...

    async def project_id(self) -> str:
        return "p1"

    async def usage(self, since: datetime, until: datetime) -> Sequence[UsageLine]:
        return []

    async def close(self) -> None: ...

    def _readable(self) -> None:
        if self.unreadable is not None:
            raise self.unreadable


@dataclass
class AirBalancer:
    """A balancer at the Protocol's edge, with one pool."""

    servers: dict[str, ServerReport] = field(default_factory=dict)
    incarnation: str = "1"
    old_processes: int = 0
    counts_old_processes: bool = True
    silent: bool = False
    check_passes: bool = True
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "air"

    @property
    def settle_time(self) -> timedelta:
        return timedelta(seconds=3)

    def place(self, endpoint_id: str, in_flight: int) -> None:
        self.servers[endpoint_id] = replace(self.servers[endpoint_id], in_flight=in_flight)

    async def report(self, model: ModelName) -> PoolReport:
        self._answer()
        return PoolReport(
            model,
            tuple(self.servers.values()),
            self.incarnation,
            0,
            NOON,
            self.old_processes,
            self.counts_old_processes,
        )

    async def ensure_pool(self, pool: Pool) -> None:
        self._answer()

    async def register(self, model: ModelName, endpoint: Endpoint) -> None:
        self._answer()
        self.told.append(("register", endpoint.id))
        state = ServerState.UP if self.check_passes else ServerState.DOWN
        self.servers[endpoint.id] = ServerReport(endpoint.id, endpoint.url, state, 0)

    async def drain(self, model: ModelName, endpoint_id: str) -> None:
        self._answer()
        self.told.append(("drain", endpoint_id))
        if endpoint_id in self.servers:
            known = self.servers[endpoint_id]
            self.servers[endpoint_id] = replace(known, state=ServerState.DRAINING)

    async def remove(self, model: ModelName, endpoint_id: str, *, force: bool = False) -> None:
        self._answer()
        self.told.append(("cut" if force else "remove", endpoint_id))
        known = self.servers.get(endpoint_id)
        if known is not None and known.in_flight and not force:
            raise BalancerUnavailable("requests are in flight there")
        self.servers.pop(endpoint_id, None)

    async def drop_pool(self, model: ModelName) -> None: ...

    async def close(self) -> None: ...

    def restart(self, *, forgets: bool = True) -> None:
        self.incarnation += "+"
        if forgets:
            self.servers.clear()

    def _answer(self) -> None:
        if self.silent:
            raise BalancerUnavailable("no answer")


@dataclass
class AirProber:
    """A prober at the Protocol's edge: each answer is a field."""

    key: str | AutoscalerError = "ssh-ed25519 AAAA"
    verdict: Coming | Proven | AutoscalerError = field(default_factory=lambda: Proven(90.0, "fine"))
    ill: str | None = None
    reached: bool = True
    sick_gpus: dict[NodeName, str] = field(default_factory=dict)
    running: int | None = 0
    diagnosed: list[str] = field(default_factory=list)

    async def contact(self, node: Node) -> str:
        if isinstance(self.key, AutoscalerError):
            raise self.key
        return self.key

    async def verify(self, node: Node, policy: Policy, offer: Offer | None) -> Coming | Proven:
        if isinstance(self.verdict, AutoscalerError):
            raise self.verdict
        return self.verdict

    async def ailment(
        self, node: Node, policy: Policy, offer: Offer | None = None
    ) -> Ailment | None:
        if self.ill is None and node.name in self.sick_gpus:
            return Ailment(self.sick_gpus[node.name], reached=True, gpus=True)
        return Ailment(self.ill, self.reached) if self.ill is not None else None

    async def in_flight(self, node: Node, policy: Policy) -> int | None:
        return self.running

    async def diagnostics(self, node: Node, policy: Policy | None) -> str:
        self.diagnosed.append(node.name)
        return "last words"


class OpenGate:
    """A firewall that is in place."""

    async def ready(self) -> None: ...


@dataclass
class Life:
    """One daemon's view of its nodes, stepped by hand; `heir` is the next daemon on the same store."""

    store: SqliteStore
    clock: HandClock
    cloud: AirCloud
    balancer: AirBalancer
    prober: AirProber
    leases: Leases
    launcher: Launcher
    runner: NodeRunner
    inventory: InventoryFeed
    policies: dict[ModelName, Policy]
    forbidden: list[str] = field(default_factory=list)
    failures: list[AutoscalerError] = field(default_factory=list)
    bad_script: list[ConfigError] = field(default_factory=list)
    markets: list[Market] = field(default_factory=list)
    unpaid: list[str] = field(default_factory=list)
    settling: list[timedelta] = field(default_factory=list)
    disagreed: list[ModelName] = field(default_factory=list)
    pause_s: float = 2.0

    async def add(self, row: Node) -> Node:
        """Record a row as a pass would have, in the store's own words."""
        lease = self.leases.current(row.model)
        plan = Plan(row.model, row.decision, row.since)
        decision = Decision(
            id=DecisionId(row.name),
            model=row.model,
            at=row.since,
            verdict=Verdict.OUT,
            demand=1.0,
            raw=1.0,
            want=1,
            have=0.0,
            ready=0.0,
            binding="demand",
            reason="demand",
            recommendations=(),
        )
        await self.store.commit_plan(
            lease, decision, plan, [row], (), "{}", lambda ledger, rows: Admission(tuple(rows))
        )
        return row

    async def get(self, name: NodeName) -> Node:
        found = await self.store.node(name)
        assert found is not None
        return found

    async def step(self, name: NodeName) -> Node:
        """One step of one node; the clock moves on by one step."""
        row = await self.get(name)
        await self.runner.read()
        try:
            await self.runner.step(row)
        except AutoscalerError as exc:
            self.failures.append(exc)
        await self.runner.learn()
        await self.leases.renew_all()
        self.clock.move(self.pause_s)
        return await self.get(name)

    async def until(self, name: NodeName, state: State, most: int = 200) -> Node:
        for _ in range(most):
            row = await self.step(name)
            if row.state is state:
                return row
        raise AssertionError(f"still {row.state} after {most} steps: {row.reason}")

    async def steps(self, name: NodeName, count: int) -> Node:
        for _ in range(count):
            row = await self.step(name)
        return row

    async def heir(self) -> Life:
        """The daemon that comes after this one was killed: nothing but the store and the world is left."""
        return await life(self.store, self.clock, self.cloud, self.balancer, self.prober)


async def life(
    store: SqliteStore,
    clock: HandClock | None = None,
    cloud: AirCloud | None = None,
    balancer: AirBalancer | None = None,
    prober: AirProber | None = None,
    reach: Reach | None = None,
) -> Life:
    clock = clock or HandClock()
    cloud = cloud or AirCloud(clock)
    balancer, prober = balancer or AirBalancer(), prober or AirProber()
    leases = Leases(store, "daemon-1", clock)
    assert await leases.acquire(MODEL)
    market = [Market((offer(),), NOON)]
    inventory = InventoryFeed(cloud, clock)
    forbidden: list[str] = []
    bad_script: list[ConfigError] = []
    unpaid: list[str] = []
    settling: list[timedelta] = []
    disagreed: list[ModelName] = []
    launcher = _launcher(store, cloud, clock, leases, market, forbidden, bad_script, unpaid)
    policies = {MODEL: policy()}
    runner = NodeRunner(
        Parts(
            store=store,
            cloud=cloud,
            clock=clock,
            leases=leases,
            inventory=inventory,
            balancers=BalancerGroup([balancer], clock.boot_s),
            prober=prober,
            reach=reach or PlainReach(public=True),
            launcher=launcher,
            timings=TIMINGS,
            policies=lambda: policies,
            market=lambda: market[0],
            changed=lambda before, after: None,
            settling=settling.append,
            disagreed=disagreed.append,
        )
    )
    made = Life(
        store, clock, cloud, balancer, prober, leases, launcher, runner, inventory, policies
    )
    made.unpaid, made.settling, made.disagreed = unpaid, settling, disagreed
    made.forbidden, made.bad_script, made.markets = forbidden, bad_script, market
    return made


def _launcher(
    store: SqliteStore,
    cloud: Cloud,
    clock: HandClock,
    leases: Leases,
    market: list[Market],
    forbidden: list[str],
    bad_script: list[ConfigError],
    unpaid: list[str],
) -> Launcher:
    def render(node: Node, policy: Policy, offer: Offer) -> Scripts:
        if bad_script:
            raise bad_script[0]
        return Scripts("#!/bin/bash\n", "#!/bin/bash\n")

    return Launcher(
        store,
        cloud,
        clock,
        leases,
        lambda: market[0],
        render,
        OpenGate(),
        "ssh-ed25519 AAAA test",
        lambda: forbidden[0] if forbidden else None,
        unpaid.append,
    )


def open_store(path: Path) -> SqliteStore:
    return SqliteStore.open(path / "autoscaler.db")
