"""Moves nodes forward: look, record the step, then run its effect. One task per node, none of them in another's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from autoscaler.balance.group import BalancerGroup
from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.machine import Inventory
from autoscaler.domain.node import CLOSED, Node, State
from autoscaler.domain.offer import Market
from autoscaler.errors import (
    AutoscalerError,
    BalancerUnavailable,
    CloudUnavailable,
    LeaseLost,
    SchemaError,
    StoreUnavailable,
)
from autoscaler.nodes import terminate
from autoscaler.nodes.ages import Ages
from autoscaler.nodes.facts import entered, looked_at
from autoscaler.nodes.inventory import is_anothers
from autoscaler.nodes.launch import MARKET_FAILURES, Launcher
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.lifecycle import Effect, Rules, Sighting, Step, next_step
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.liveness import judge
from autoscaler.nodes.look import Looker
from autoscaler.nodes.node_memory import NodeMemory
from autoscaler.nodes.protocol import Prober
from autoscaler.nodes.reach import Reach
from autoscaler.nodes.recorder import Recorder
from autoscaler.nodes.sending import Sender
from autoscaler.nodes.settling import SettlingTime
from autoscaler.policy import OnDeadline, Policy
from autoscaler.quantity import counted
from autoscaler.store.protocol import Store
from autoscaler.timings import Timings

log = structlog.get_logger(__name__)

_UNREACHED = ("server: ", "warm-up: ")  # stages of verification once the script has finished
_TOLD_BY = timedelta(seconds=30)  # by then balancers that answer have what was just recorded


@dataclass(frozen=True, slots=True)
class Parts:
    """What the runner works with."""

    store: Store
    cloud: Cloud
    clock: Clock
    leases: Leases
    inventory: InventoryFeed
    balancers: BalancerGroup
    prober: Prober
    reach: Reach
    launcher: Launcher
    timings: Timings
    policies: Callable[[], Mapping[ModelName, Policy]]
    market: Callable[[], Market | None]
    changed: Callable[[Node, Node], None]  # told of every recorded change of state
    cut: Callable[[ModelName], None] = lambda model: None  # told of every drain that cut requests
    settling: Callable[[timedelta], None] = lambda length: None  # told of the settling time in use
    # told of every look at a node that a balancer lists otherwise than recorded
    disagreed: Callable[[ModelName], None] = lambda model: None


class NodeRunner:
    """Owns the tasks of all nodes that are not closed."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._looker = Looker(
            parts.cloud,
            parts.inventory,
            parts.balancers,
            parts.prober,
            parts.reach,
            parts.clock,
            parts.timings,
            lambda: self._open,
        )
        self._ages = Ages(parts.clock)
        self._settling = SettlingTime(
            parts.store,
            parts.clock,
            parts.timings,
            parts.launcher.create_timeout,
            parts.settling,
        )
        self._recorder = Recorder(
            parts.store,
            parts.clock,
            parts.leases,
            self._ages,
            parts.launcher,
            parts.policies,
            parts.changed,
        )
        self._sender = Sender(self._recorder, self._settling, parts.timings)
        self._open: tuple[Node, ...] = ()
        self._memories: dict[NodeName, NodeMemory] = {}
        self._wakes: dict[NodeName, asyncio.Event] = {}
        self._held: str | None = None

    @property
    def held(self) -> str | None:
        """Why no suspect node is given up, None when nothing is held."""
        return self._held

    def stage(self, name: NodeName) -> str | None:
        """What a node waits for, as last seen."""
        memory = self._memories.get(name)
        return memory.stage if memory is not None else None

    @property
    def unreached(self) -> list[str]:
        """Which servers run and are not reached, and why, as last seen."""
        coming = {node.name for node in self._open if node.state is State.VERIFYING}
        return [
            f"{name}: {memory.stage.partition(': ')[2]}"
            for name, memory in self._memories.items()
            if name in coming and memory.proven is None and memory.stage is not None
            if memory.stage.startswith(_UNREACHED)
        ]

    def in_flight(self, name: NodeName) -> int | None:
        """Requests in flight on a draining node, as last seen."""
        memory = self._memories.get(name)
        return memory.drain.in_flight if memory is not None else None

    @property
    def overdue_drains(self) -> int:
        """Nodes that drain beyond their deadline, as last seen: they bill and take nothing new."""
        return sum(memory.drain_overdue for memory in self._memories.values())

    def wake(self, name: NodeName) -> None:
        """Let the node's next step come at once."""
        if name in self._wakes:
            self._wakes[name].set()

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Give every open node its task, those that appear later too. Runs until cancelled."""
        self._parts.inventory.use(tasks)
        while True:
            try:
                await self._start_new(tasks)
                await self.learn()
                self.judge()
            except StoreUnavailable as exc:
                log.warning("nodes_not_read", why=str(exc))
            await self._parts.clock.sleep(min(1.0, self._parts.timings.step.total_seconds()))

    async def start_new(self, tasks: asyncio.TaskGroup) -> None:
        """Give every open node its task now, without waiting for the next round."""
        await self._start_new(tasks)

    async def read(self) -> None:
        """Read which nodes are open: what a listing is held against."""
        self._open = await self._parts.store.nodes()

    async def _start_new(self, tasks: asyncio.TaskGroup) -> None:
        await self.read()
        for node in self._open:
            if node.name not in self._wakes:
                self._wakes[node.name] = asyncio.Event()
                tasks.create_task(self._live(node.name), name=f"node {node.name}")

    async def learn(self) -> None:
        """Learn from the newest listing how long machines take to be listed."""
        await self._settling.learn(self._parts.inventory)

    def judge(self) -> None:
        """Condemn serving nodes on the word of two witnesses, but never most of the fleet at once."""
        at_s = self._parts.clock.boot_s()
        suspects = {
            name: memory.suspicion
            for name, memory in self._memories.items()
            if memory.suspicion and at_s - memory.suspected_s <= self._looker.believed_for_s
        }
        serving = sum(1 for memory in self._memories.values() if memory.serving)
        patience = self._parts.timings.unhealthy_after
        is_cloud_away = self._parts.inventory.is_failing
        verdict = judge(serving, suspects, patience, at_s, is_cloud_away=is_cloud_away)
        if verdict.held != self._held:
            log.error("condemnation_held", why=verdict.held)
            self._held = verdict.held
        for name, why in verdict.condemned.items():
            self._memories[name].condemned = why

    async def _live(self, name: NodeName) -> None:
        """One node's whole life in this process. A failure is logged when it changes and tried again, backed off."""
        pause = base = self._parts.timings.step.total_seconds()
        last_failure = ""
        try:
            while True:
                try:
                    node = await self._parts.store.node(name)
                    if node is None or node.state in CLOSED:
                        return
                    moved = await self.step(node)
                    pause, last_failure = (0.0 if moved else base), ""
                except (CloudUnavailable, BalancerUnavailable, StoreUnavailable) as exc:
                    pause, last_failure = base, _log_changed(name, last_failure, exc)
                except (AutoscalerError, OSError) as exc:
                    pause = min(max(pause, base) * 2, 60.0)
                    last_failure = _log_changed(name, last_failure, exc)
                except Exception:
                    # One node that throws for ever is isolated, backed off and visible; the others go on.
                    pause = min(max(pause, base) * 2, 60.0)
                    log.exception("node_step_broken", node=name)
                await self._pause(name, pause)
        finally:
            self._wakes.pop(name, None)
            self._memories.pop(name, None)
            self._ages.forget(name)

    async def _pause(self, name: NodeName, seconds: float) -> None:
        wake = self._wakes[name]
        try:
            async with asyncio.timeout(seconds):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()

    async def step(self, node: Node) -> bool:
        """Look, record, act once. True when something is new, so that the next step may come at once."""
        memory = self._memories.setdefault(node.name, self._looker.memory())
        policy = self._parts.policies().get(node.model)
        market = self._parts.market()
        offer = market.offer(node.offer) if market is not None else None
        if node.state is State.PLANNED:
            return await self._sender.send(node, policy, self._ages.instant(node))
        if node.state is State.CREATING and node.operation_id is None:
            node = await self._first_look(node)
        judged_at = self._ages.instant(node)
        seen = await self._looker.look(node, policy, offer, memory, judged_at)
        if memory.disagrees and judged_at - node.since >= _TOLD_BY:
            self._parts.disagreed(node.model)
        step = next_step(node, seen, self._rules(policy), judged_at)
        await self._alarm(node, step, memory, judged_at)
        now = self._parts.clock.now()
        after = self._after(node, seen, step, memory, now)
        if after.machine_id != node.machine_id and await is_anothers(after, self._parts.store):
            return False  # a twin that the sweep gives back: by the next step that is known
        detail = memory.proven.detail if after.state is State.READY and memory.proven else ""
        await self._recorder.record(node, after, step.reason, detail)
        await self._effect(after, step, policy, memory)
        # Just verified and registered: that the balancers have it can be seen now, not a step later.
        is_verified_now = after.verified_at is not None and node.verified_at is None
        return is_verified_now or after.state is not node.state

    async def _first_look(self, node: Node) -> Node:
        if node.first_look_at is not None or node.failure is not None:
            return node
        # An heir finds `creating` without ids: the call may have been made. It counts from its own first look.
        looked = replace(node, first_look_at=self._parts.clock.now())
        await self._recorder.update(node, looked)
        return looked

    def _rules(self, policy: Policy | None) -> Rules:
        deadlines = {State.FAILED: self._parts.timings.diagnostics}
        if policy is not None:
            deadlines |= {
                State.CREATING: policy.deadlines.creating,
                State.BOOTING: policy.deadlines.booting,
                State.VERIFYING: policy.deadlines.verifying,
                State.DRAINING: policy.drain.deadline,
            }
        cut = policy is not None and policy.drain.on_deadline is OnDeadline.CUT
        registering = policy.deadlines.registering if policy is not None else timedelta.max
        return Rules(deadlines, self._settling.length, registering, cut)

    def _after(
        self, node: Node, seen: Sighting, step: Step, memory: NodeMemory, now: datetime
    ) -> Node:
        """The node as it will be recorded: the step's state and what the sighting taught."""
        speed = memory.proven.tokens_per_s if memory.proven is not None else None
        after = looked_at(node, seen, step, memory.stage, speed, now)
        if step.state is node.state:
            return after
        absent_for = memory.absence.absent_for(self._parts.clock.boot_s())
        return entered(after, seen, step, now, absent_for)

    async def _effect(
        self, node: Node, step: Step, policy: Policy | None, memory: NodeMemory
    ) -> None:
        if step.effect is Effect.NONE:
            return
        balancers = self._parts.balancers
        self._parts.leases.current(node.model)  # what slept past its lease acts no more
        match step.effect:
            case Effect.REGISTER:
                await balancers.register(node, partial(self._parts.leases.current, node.model))
            case Effect.DRAIN:
                await balancers.drain(node)
            case Effect.REMOVE:
                await balancers.remove(node, force=False)
                memory.drain.removed = True
            case Effect.CUT:
                if node.state is State.DRAINING and not memory.cut_told:
                    await self._say_cut(node, memory)
                    memory.cut_told = True
                await balancers.remove(node, force=True)
            case Effect.SAVE_DIAGNOSTICS:
                await self._save_diagnostics(node, policy, memory)
            case Effect.DELETE:
                await self._delete(node, memory)
            case Effect.CREATE | Effect.CONTACT | Effect.VERIFY:
                pass  # looking at the node is what moves these on

    async def _alarm(self, node: Node, step: Step, memory: NodeMemory, now: datetime) -> None:
        """Say once, and again every hour, that a node bills on and on because it cannot be given back."""
        age = now - node.since
        stays = step.state is node.state
        policy = self._parts.policies().get(node.model)
        blind = self._parts.timings.blind_drain
        deadline = policy.drain.deadline if policy is not None else blind
        memory.drain_overdue = stays and node.state is State.DRAINING and age >= deadline
        stuck = node.state is State.TERMINATING and age >= self._parts.timings.delete_alarm
        at_s = self._parts.clock.boot_s()
        if not stays:
            memory.next_alarm_s = 0.0
        if not (memory.drain_overdue or (stuck and stays)) or at_s < memory.next_alarm_s:
            return
        memory.next_alarm_s = at_s + self._parts.timings.alarm_repeat.total_seconds()
        since = node.since.isoformat(timespec="seconds")
        if stuck:
            log.error("delete_stuck", node=node.name, since=since, why=step.reason)
            return
        counts = memory.drain
        log.error(
            "drain_overdue", node=node.name, since=since, in_flight=counts.in_flight, why=counts.why
        )
        await self._recorder.say(
            node,
            "drain_overdue",
            f"draining since {since}, {counts.in_flight} in flight",
            counts.why,
        )

    async def _say_cut(self, node: Node, memory: NodeMemory) -> None:
        count = memory.drain.in_flight
        log.error("requests_cut", node=node.name, in_flight=count)
        self._parts.cut(node.model)
        words = f"{counted(count, 'request')} in flight at the drain's deadline"
        await self._recorder.say(node, "requests_cut", words)

    async def _save_diagnostics(
        self, node: Node, policy: Policy | None, memory: NodeMemory
    ) -> None:
        """Take it out of traffic first, then save what can be saved; neither may keep it alive for long."""
        if node.verified_at is not None:
            try:
                await self._parts.balancers.drain(node)
            except BalancerUnavailable as exc:
                log.warning("failed_node_not_drained", node=node.name, why=str(exc))
        kind = (node.failure or "").partition(":")[0]
        if node.address is not None and kind not in MARKET_FAILURES:
            text = await self._parts.prober.diagnostics(node, policy)
            await self._recorder.say(node, "node_diagnosed", node.failure or node.reason, text)
        memory.diagnosed = True

    async def _delete(self, node: Node, memory: NodeMemory) -> None:
        timings, now = self._parts.timings, self._parts.clock.now()
        longest = timings.delete_retry_max
        if memory.delete_forbidden:
            longest = min(longest, terminate.FORBIDDEN_RETRY)
        if not terminate.delete_due(node, timings.delete_retry, longest, now):
            return
        await self._parts.reach.close(node)
        inventory: Inventory | None = None
        try:
            inventory = await self._parts.inventory.latest(timings.step)
        except (CloudUnavailable, SchemaError) as exc:
            log.debug("deleting_unlisted", node=node.name, why=str(exc))
        cloud = self._parts.cloud
        self._parts.leases.current(node.model)  # the listing may have taken long
        after, memory.delete_forbidden = await terminate.delete(cloud, node, inventory, now)
        await self._recorder.update(node, after)


def _log_changed(name: NodeName, last: str, exc: Exception) -> str:
    """Log a failure when it differs from the last one."""
    text = f"{type(exc).__name__}: {exc}"
    if text != last:
        level = log.error if isinstance(exc, LeaseLost) else log.warning
        level("node_step_failed", node=name, why=text)
    return text
