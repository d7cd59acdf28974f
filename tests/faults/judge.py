"""Hears of all that the daemon does to the world, and what becomes of clients, and asks whether it may be so."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import Node, State
from autoscaler.emulator.http import Answer, Request
from autoscaler.policy import OnDeadline
from autoscaler.store.protocol import Admission
from tests.faults import shop as clients
from tests.faults.balancers import SimBalancer
from tests.faults.hosts import Command
from tests.faults.invariants import Invariant
from tests.faults.lives import Life
from tests.faults.shop import Ended

if TYPE_CHECKING:
    from tests.faults.world import World


RETURN_S = 60.0  # within which a balancer that comes back is told how things stand


class Judge:
    """Feeds the inspector with events, and excuses what faults excuse."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._whole: dict[tuple[ModelName, str], bool] = {}
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
        lease, decision, plan, releases = args[0], args[1], args[2], args[4]
        now, rows = self._world.time.now(), self._world.store.rows()
        run = next((one for one in self._world.runs if one.life is life), None)
        policies = run.daemon.book.policies if run is not None else self._world.policies
        self._world.inspector.planned(
            admission.admitted,
            now,
            rows,
            {name: policy.nodes.max for name, policy in policies.items()},
            self._world.options.nodes,
            Decimal(self._world.options.usd_per_hour),
        )
        leaving = [before for before, after, _ in releases if before.state is State.READY]
        leaving = [n for n in leaving if self._is_by_demand(plan, n)]
        if not leaving or run is None:
            return
        model, policy = lease.model, policies[lease.model]
        since_s = self._world.time.seconds() - run.began_s
        if since_s < policy.scaling.stabilization.total_seconds():
            self._world.inspector.violated(
                Invariant.RESTART_KILLS_NOTHING,
                now,
                leaving[0].name,
                f"{leaving[0].name} released {since_s:.0f} s after a start: {decision.reason}",
            )
        overlooked = run.daemon.balancers.overlooked(model)
        fronts = [one.name for one in self._world.balancers if one.name not in overlooked]
        if not all(self._whole.get((model, front), False) for front in fronts):
            self._world.inspector.violated(
                Invariant.DATA,
                now,
                leaving[0].name,
                f"{leaving[0].name} released although figures lack: {decision.reason}",
            )
        serving = len(leaving) + sum(
            1 for row in rows.values() if row.model == model and row.state is State.READY
        )
        if len(leaving) > max(1, -(-serving // 10)):
            self._world.inspector.violated(
                Invariant.PACE,
                now,
                str(decision.id),
                f"{len(leaving)} of {serving} nodes released at once: {decision.reason}",
            )

    def _is_by_demand(self, plan: Any, node: Node) -> bool:
        """Whether a release came from what was measured, and not from a limit or a person's word."""
        reason = next((r.reason for r in plan.releases if r.node == node.name), "")
        return not any(
            word in reason for word in ("limit", "usd_per", "retired", "override", "max")
        )

    def told(
        self, life: Life, balancer: SimBalancer, kind: str, model: ModelName, endpoint: str
    ) -> None:
        self._world.inspector.balancer_told(
            kind, endpoint, self._world.time.now(), self._world.store.rows()
        )

    def heard(self, model: ModelName, source: str, whole: bool) -> None:
        self._whole[model, source] = whole

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
            age = self._world.time.now() - self._world.inspector.since(row)
            is_late = row.state is not State.DRAINING or (
                policy is not None and age >= policy.drain.deadline - timedelta(seconds=30)
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
