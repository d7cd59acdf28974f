"""Hears of all that the daemon does to the world, and what becomes of clients, and asks whether it may be so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import Node, State
from autoscaler.emulator.http import Answer, Request
from autoscaler.policy import OnDeadline, Policy
from autoscaler.store.protocol import Admission
from tests.faults import shop as clients
from tests.faults.balancers import SimBalancer
from tests.faults.bounds import NOT_LAUNCHED, Bounds
from tests.faults.cloud import catalogue
from tests.faults.hosts import Command
from tests.faults.invariants import Invariant
from tests.faults.lives import Life
from tests.faults.options import CONCURRENCY
from tests.faults.shop import Ended

if TYPE_CHECKING:
    from tests.faults.world import World, _Run


RETURN_S = 60.0  # within which a balancer that comes back is told how things stand


class Judge:
    """Feeds the inspector with events, and excuses what faults excuse."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._whole: dict[tuple[ModelName, str], bool] = {}
        self._measured: dict[tuple[ModelName, str], bool] = {}
        self._deleted: dict[str, str] = {}

    def called(self, life: Life, request: Request, *, was_frozen: bool) -> None:
        """A call is on its way to the cloud; one that was on it when its process froze cannot be held back."""
        now, rows = self._world.time.now(), self._world.store.rows()
        if request.method == "POST" and request.path.endswith("/vms"):
            self._world.inspector.create_sent(orjson.loads(request.body)["name"], now, rows)
        if request.method in ("DELETE", "PATCH") and "/vms/" in request.path:
            vm_id = request.path.rpartition("/")[2]
            machine = self._world.booked_one(vm_id)
            self._deleted[vm_id] = request.method
            if not was_frozen:
                self._world.inspector.delete_sent(machine, now, rows, request.method)

    def answered(self, life: Life, request: Request, answer: Answer) -> None:
        """Its answer reached the daemon."""

    def stored(self, life: Life, name: str, args: tuple[Any, ...], result: object) -> None:
        now = self._world.time.now()
        if name in ("commit_plan", "advance", "update", "insert"):
            self._world.inspector.epoch_used(args[0].model, args[0].epoch, now)
        if name == "advance":
            self._world.inspector.row_changed(args[1], args[2], now)
            self._world.inspector.explained(
                now, args[2].name, f"its event {args[3].kind} has no cause", args[3].cause
            )
            self._check_listed(args[2])
        if name == "commit_plan":
            for before, after, _ in args[4]:
                self._world.inspector.row_changed(before, after, now)
            assert isinstance(result, Admission)
            self._planned(life, args, result)

    def _check_listed(self, row: Node) -> None:
        """7: who is called ready is listed by every balancer that says anything."""
        if row.state is not State.READY:
            return
        for one in self._world.balancers:
            lists = {entry.endpoint.id for entry in one.entries.get(row.model, {}).values()}
            if not (one.away or one.dead) and row.name not in lists:
                self._world.inspector.violated(
                    Invariant.VERIFIED,
                    self._world.time.now(),
                    row.name,
                    f"{row.name} is ready, and {one.name} does not list it",
                )

    def _planned(self, life: Life, args: tuple[Any, ...], admission: Admission) -> None:
        """A pass has recorded what it decided: every word of it, what it rents, and what it gives back."""
        lease, decision, plan, releases = args[0], args[1], args[2], args[4]
        now, inspector = self._world.time.now(), self._world.inspector
        run = next((one for one in self._world.runs if one.life is life), None)
        inspector.explained(now, str(decision.id), "decided for no reason", decision.reason)
        for node in admission.admitted:
            inspector.explained(now, node.name, "has no reason", node.reason, node.decision)
        for node, why in admission.refused:
            inspector.explained(now, node.name, "was refused for no reason", why)
        if admission.admitted:
            policies = run.daemon.book.policies if run is not None else self._world.policies
            bounds, rows = self._bounds(policies), self._world.store.rows()
            inspector.planned(admission.admitted, now, rows, bounds, decision.at)
        if run is None:
            return
        # whatever lacks: what is known to wait or to run is demand
        unseen = (decision.demand or 0.0) - self._in_flight(lease.model) / CONCURRENCY
        if unseen > 1 and not self._is_known(self._measured, run, lease.model):
            self._lacks(lease.model, f"{lease.model} wants {decision.demand:.2f}")
        leaving = [before for before, after, _ in releases if before.state is State.READY]
        leaving = [node for node in leaving if self._is_by_demand(plan, node)]
        if leaving:
            self._released(run, decision, leaving)

    def _released(self, run: _Run, decision: Decision, leaving: Sequence[Node]) -> None:
        """9, 10 and 13: nodes that serve are given back by demand."""
        model, first, world = decision.model, leaving[0].name, self._world
        since_s = world.time.seconds() - run.began_s
        if since_s < run.daemon.book.policies[model].scaling.stabilization.total_seconds():
            what = f"{first} released {since_s:.0f} s after a start: {decision.reason}"
            world.inspector.violated(Invariant.RESTART_KILLS_NOTHING, world.time.now(), first, what)
        if not self._is_known(self._whole, run, model):
            self._lacks(first, f"{first} is released: {decision.reason}")
        rows = world.store.rows().values()
        ready = sum(1 for row in rows if row.model == model and row.state is State.READY)
        serving = len(leaving) + ready
        if len(leaving) > max(1, -(-serving // 10)):
            what = f"{len(leaving)} of {serving} nodes released at once: {decision.reason}"
            world.inspector.violated(Invariant.PACE, world.time.now(), str(decision.id), what)

    def _in_flight(self, model: ModelName) -> int:
        shop = self._world.shop
        return shop.waiting_for(model) + sum(
            shop.through(model, one) for one in self._world.balancers
        )

    def _lacks(self, subject: str, what: str) -> None:
        at = self._world.time.now()
        self._world.inspector.violated(
            Invariant.DATA, at, subject, f"{what}, although figures lack"
        )

    def _is_known(
        self, heard: Mapping[tuple[ModelName, str], bool], run: _Run, model: ModelName
    ) -> bool:
        """Whether it is so of all balancers without whose word nothing is known of a model."""
        overlooked = run.daemon.balancers.overlooked(model)
        fronts = [one.name for one in self._world.balancers if one.name not in overlooked]
        return all(heard.get((model, front), False) for front in fronts)

    def _bounds(self, policies: Mapping[ModelName, Policy]) -> Bounds:
        """What this deployment's limits are now."""
        world, every = self._world, self._world.config.limits
        rows = world.store.rows().values()
        midnight = world.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        proven = world.options.proven or any(_proves_deletes(row) for row in rows)
        per_day = every.usd_per_day if not world.stepped_s else None
        return Bounds(
            nodes={name: policy.nodes.max for name, policy in policies.items()},
            every=every.nodes,
            usd_per_hour=Decimal(world.options.usd_per_hour),
            unproven=None if proven else 1,
            gpus=every.gpus,
            types={name: kind.gpus for name, kind in catalogue().types.items()},
            launches={name: p.retries.launches_per_window for name, p in policies.items()},
            every_launch=every.launches_per_window,
            window=every.launch_window,
            usd_per_day=per_day.usd if per_day is not None else None,
            day_left=midnight + timedelta(days=1) - world.clock.now(),
            spent=_billed_since(world, midnight) if per_day is not None else Decimal(0),
            drain=min((p.drain.deadline for p in policies.values()), default=timedelta(0)),
        )

    def _is_by_demand(self, plan: Any, node: Node) -> bool:
        """Whether a release came from what was measured, and not from a limit or a person's word."""
        reason = next((r.reason for r in plan.releases if r.node == node.name), "")
        return not any(
            word in reason
            for word in (
                "limit",
                "usd_per",
                "per_window",
                "to the minimum",
                "retired",
                "override",
                "max",
            )
        )

    def told(
        self, life: Life, balancer: SimBalancer, kind: str, model: ModelName, endpoint: str
    ) -> None:
        self._world.inspector.balancer_told(
            kind, endpoint, self._world.time.now(), self._world.store.rows()
        )

    def heard(self, model: ModelName, source: str, whole: bool) -> None:
        """A front was read: whether nothing lacks, and whether anything may be known by it."""
        self._whole[model, source] = whole
        kind = self._world.shop.troubles[model].kind
        self._measured[model, source] = whole or kind == "zeros are missing"

    def commanded(self, command: Command) -> None:
        if command.kind == "contact":
            return
        if command.pinned is None or command.showed != command.pinned:
            self._world.inspector.violated(
                Invariant.PINNED,
                self._world.time.now(),
                command.node,
                f"{command.kind} on {command.node} with key {command.showed}, {command.pinned}",
            )
        host = self._world.machines.hosts.get(command.vm_id)
        if host is not None and command.showed != host.host_key:
            self._world.inspector.violated(
                Invariant.PINNED,
                self._world.time.now(),
                command.node,
                f"{command.kind} on {command.node} through somebody in the middle",
            )
        row = self._world.store.rows().get(NodeName(command.node))
        if row is not None and row.machine_id not in (None, command.vm_id):
            self._world.inspector.violated(
                Invariant.PINNED,
                self._world.time.now(),
                command.node,
                f"{command.kind} meant for {command.node} ran on another machine",
            )

    def placed(self, request: clients.Request) -> None:
        unheard_s = self._world.time.seconds() - request.balancer.back_s
        if request.balancer.away or unheard_s < RETURN_S:
            return  # nobody could tell it: 0014 says what that may cost
        unfit = request.host.spec.boot_faults & {"wrong_gpus", "health_ok_generation_garbage"}
        if (
            unfit and request.host.boots == 1
        ):  # a reboot may bring them; that is seen an hour later at most
            self._world.inspector.violated(
                Invariant.VERIFIED,
                self._world.time.now(),
                request.endpoint,
                f"a request went to {request.endpoint}, which has {', '.join(sorted(unfit))}",
            )
        self._world.inspector.placed(
            request.endpoint,
            request.host.spec.vm_id,
            self._world.time.now(),
            self._world.store.rows(),
        )

    def ended(self, ended: Ended) -> None:
        """A request did not end well. Whose fault is it?"""
        request, host = ended.request, ended.request.host
        if ended.why in ("its balancer died", "the client gave up") or host.is_ill:
            return
        if self._world.deceived:
            return
        vm_id = host.spec.vm_id
        if ended.why == "its machine died" and vm_id not in self._deleted:
            return  # the cloud's doing
        row = self._world.store.rows().get(NodeName(request.endpoint.partition(".")[0]))
        if row is not None:
            policy = self._world.policies.get(row.model)
            drained_for = self._world.inspector.drained_for(row.name, self._world.time.now())
            is_late = policy is not None and (
                drained_for >= policy.drain.deadline - timedelta(seconds=30)
            )
            if row.machine_id not in (None, vm_id):
                return  # its own machine had ended and another took the address: `placed` judges that
            cuts = policy is not None and policy.drain.on_deadline is OnDeadline.CUT
            if (row.failure or "").startswith("register: "):
                return  # a balancer lied for so long: docs/guarantees.md says what that costs
            if cuts and is_late and row.failure is None:
                return
            why = f"{ended.why}; {row.state}: {row.reason}"
        else:
            why = ended.why
        self._world.inspector.cut(request.endpoint, self._world.time.now(), why)


def _proves_deletes(row: Node) -> bool:
    """Whether it existed, was asked to go, and went."""
    vanished = (row.failure or "").startswith("vanished")
    asked = row.state is State.GONE and row.deletes > 0 and not vanished
    return asked and row.booted_at is not None


def _billed_since(world: World, since: datetime) -> Decimal:
    """What the cloud bills from then on for machines that plans asked for; a minute of each less."""
    now = world.time.now()
    rows = world.store.rows().values()
    ours = {row.machine_id for row in rows if row.decision not in NOT_LAUNCHED}
    usd = Decimal(0)
    for account in world.cloud.emulator.cloud.books.meter.accounts():
        if account.kind == "vm" and account.id in ours:
            length_s = sum(span.seconds_within(since, now, now) for span in account.exists)
            usd += account.usd_per_hour * Decimal(max(0.0, length_s - 60)) / 3600
    return usd
