"""A backtest: the daemon's own thinking on a virtual clock, over a model of servers, a market and a balancer.

One calendar of events holds all there is: arrivals, what servers do next, boots and ends of machines, passes. Each pass
hands `think.consider` what the daemon's would have, and its plan is carried out as the daemon does. Nothing here knows
any law.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop

from autoscaler.act import Limits
from autoscaler.decide.memory import LawMemory
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.decision import Decision
from autoscaler.domain.ids import DecisionId, NodeName
from autoscaler.domain.node import Node, State
from autoscaler.domain.offer import Market
from autoscaler.domain.plan import Plan
from autoscaler.policy import OnDeadline
from autoscaler.reconcile import least_per_hour
from autoscaler.simulate.agenda import Agenda
from autoscaler.simulate.balancer import Server
from autoscaler.simulate.fleet import Books, instant
from autoscaler.simulate.job import Job
from autoscaler.simulate.market import Stock
from autoscaler.simulate.result import Minute, Result, Took
from autoscaler.simulate.signals import Gauges
from autoscaler.simulate.traffic import Traffic
from autoscaler.store.protocol import ModelRecord
from autoscaler.think import Inputs, Rules, Thought, consider

DELETE_S = 30.0  # from the delete call until nothing bills any more
_LOOKS_S = 4.0  # a drained node is looked at twice before it is given away
_UNDRAIN_S = 2.0  # until balancers have a node again that was to be drained
_WAKE_GAP_S = (
    5.0  # passes out of turn are at least so far apart; the first in a line waits for none
)
_MINUTE_S = 60.0
_NEVER = math.inf


def simulate(job: Job, progress: Callable[[float], None] = lambda at_s: None) -> Result:
    """Run a backtest to its end: all requests answered or lost, and `job.length_s` over.

    Args:
        progress: told the second of the trace now and then.
    """
    return World(job, progress).run()


@dataclass(slots=True)
class _Clocked:
    """The rules that a pass thinks with, timed."""

    rules: Rules
    decide_s: float = 0.0
    place_s: float = 0.0

    def timed(self) -> Rules:
        return Rules(self._decide, self._place)

    def _decide(self, *args: object, **named: object) -> tuple[Decision, LawMemory]:
        began = time.perf_counter()
        try:
            return self.rules.decide(*args, **named)
        finally:
            self.decide_s += time.perf_counter() - began

    def _place(self, *args: object, **named: object) -> Plan:
        began = time.perf_counter()
        try:
            return self.rules.place(*args, **named)
        finally:
            self.place_s += time.perf_counter() - began


class World:
    """One run."""

    def __init__(self, job: Job, progress: Callable[[float], None]) -> None:
        policy = job.policy
        self._job = job
        self._progress = progress
        self._profiles = Profiles.load()
        self._books = Books(policy)
        self._stock = Stock(job.market)
        self._boots = job.market.boots.drawn()
        self._agenda = Agenda()
        self._traffic = Traffic(policy, self._agenda, self._demanded, self._emptied)
        self._servers: dict[NodeName, list[Server]] = {}
        self._memory = LawMemory()
        self._clocked = _Clocked(job.rules)
        self._rules = self._clocked.timed()
        offers = job.market.offers
        self._gpus = {offer.key.type: offer.gpus for offer in offers}
        least = least_per_hour(policy, offers)
        self._limits = Limits(
            job.limits,
            {policy.name: policy},
            {} if least is None else {policy.name: least},
            gpus=self._gpus,
        )
        self._passes = 0
        self._last_pass_s = -_NEVER
        self._woken_at_s = -_NEVER
        self._last: Thought | None = None
        self._minutes: list[Minute] = []
        self._busy_s: dict[NodeName, float] = {}

    def run(self) -> Result:
        """Work the calendar off."""
        began = time.perf_counter()
        self._agenda.at(0.0, self._regular_pass)
        self._agenda.at(_MINUTE_S, self._note_minute)
        end_s = self._work_off()
        self._books.settle(instant(end_s), self._gpus)
        for servers in self._servers.values():
            self._note_busy(servers, end_s)
        took = Took(
            total_s=time.perf_counter() - began,
            decide_s=self._clocked.decide_s,
            place_s=self._clocked.place_s,
            server_s=self._traffic.server_s,
        )
        traffic = self._traffic
        return Result(
            model=self._job.policy.model,
            aim=self._job.aim,
            length_s=end_s,
            requests=traffic.requests,
            minutes=tuple(self._minutes),
            rentals=tuple(sorted(self._books.rentals, key=lambda rental: rental.node)),
            busy_s=dict(self._busy_s),
            passes=self._passes,
            refused=self._books.refused,
            held=traffic.held,
            queued=traffic.queued,
            lost=dict(sorted(traffic.lost.items())),
            took=took,
        )

    # the calendar

    def _work_off(self) -> float:
        """Everything up to the end; gives when that was."""
        entries, traffic, length_s = self._agenda.entries, self._traffic, self._job.length_s
        arrivals = traffic.arrivals(self._job.requests)
        arrival_s = next(arrivals, _NEVER)
        now_s = 0.0
        while True:
            due_s = entries[0][0]
            if arrival_s < due_s:
                now_s = arrival_s
                traffic.arrive(now_s)
                arrival_s = next(arrivals, _NEVER)
                continue
            if arrival_s == _NEVER and not traffic.open and due_s > length_s:
                return max(now_s, length_s)
            due_s, _, server, what = heappop(entries)
            if server is not None:
                if server.due_s == due_s:
                    now_s = due_s
                    traffic.serve(server, due_s)
            elif what is not None:
                if traffic.open:
                    now_s = due_s
                what(due_s)

    # passes

    def _demanded(self, now_s: float, at_once: bool) -> None:
        """A request begins to wait."""
        self._wake(now_s, 0.0 if at_once else _WAKE_GAP_S)

    def _wake(self, now_s: float, gap_s: float = _WAKE_GAP_S) -> None:
        """Have a pass out of turn, as the daemon does when a request begins to wait or a node changes."""
        at_s = max(now_s, self._last_pass_s + gap_s)
        if self._woken_at_s < at_s:
            self._woken_at_s = at_s
            self._agenda.at(at_s, self._pass)

    def _regular_pass(self, now_s: float) -> None:
        self._agenda.at(now_s + self._job.reconcile_s, self._regular_pass)
        self._pass(now_s)

    def _pass(self, now_s: float) -> None:
        self._last_pass_s = now_s
        self._passes += 1
        self._traffic.give_up(now_s)
        thought = consider(self._inputs(now_s), self._profiles, self._rules)
        self._memory = thought.memory
        self._last = thought
        now = instant(now_s)
        for draft in thought.rows:
            if self._stock.has(draft.offer, now_s):
                self._order(draft, now_s)
            else:
                self._books.refuse(draft, now)
        if thought.plan.releases or thought.plan.undrain:
            for before, after in self._books.carry_out(thought.plan, now):
                self._carry_out(before, after, now_s)

    def _inputs(self, now_s: float) -> Inputs:
        job, books, now = self._job, self._books, instant(now_s)
        name = job.policy.name
        offers, read_s = self._stock.read(now_s)
        return Inputs(
            policy=job.policy,
            record=ModelRecord(name),
            fleet=books.fleet,
            market=Market(offers, instant(read_s), books.backoffs, dict(books.boots_s)),
            ledger=books.ledger(now),
            history=self._traffic.meter.read(now_s, now, self._gauges(now_s)),
            memory=self._memory,
            limits=self._limits,
            now=now,
            decision=DecisionId(f"pass-{self._passes}"),
        )

    def _gauges(self, now_s: float) -> Gauges:
        balancer = self._traffic.balancer
        newcomer = self._job.policy.signals.newcomer
        now, inside, uses = instant(now_s), 0, []
        for node in self._books.fleet.in_states(frozenset({State.READY, State.DRAINING})):
            known = node.ready_at is not None and now - node.ready_at >= newcomer
            for server in self._servers[node.name]:
                inside += server.replica.waiting
                if known and node.state is State.READY:
                    uses.append(server.replica.kv_use)
        return Gauges(
            waiting=len(balancer.line) + inside,
            running=balancer.in_flight - inside,
            oldest_wait_s=self._traffic.oldest_wait_s(now_s),
            kv_use=max(uses) if uses else None,
            serves=bool(balancer.active),
        )

    # machines

    def _order(self, draft: Node, now_s: float) -> None:
        node = self._books.order(draft, instant(now_s))
        self._agenda.at(now_s + next(self._boots), lambda at_s: self._ready(node, at_s))

    def _ready(self, ordered: Node, now_s: float) -> None:
        """A boot, or an undrain, has come to its end, unless it was given back meanwhile."""
        row = self._books.rows.get(ordered.name)
        if row is None or (row.state, row.since) != (ordered.state, ordered.since):
            return
        node = self._books.make_ready(row.name, instant(now_s))
        servers = self._servers.get(node.name)
        if servers is None:
            in_engine = self._job.policy.hold.queue_in == "engine"
            physics = self._job.physics[node.offer.type]
            servers = [
                Server(
                    node.name,
                    self._job.replica(physics),
                    None if in_engine else endpoint.capacity,
                    endpoint.weight,
                )
                for endpoint in node.endpoints
            ]
            self._servers[node.name] = servers
        self._traffic.balancer.open(servers)
        self._traffic.dispatch(now_s)
        self._wake(now_s)

    def _carry_out(self, before: Node, after: Node, now_s: float) -> None:
        name = after.name
        match after.state:
            case State.VERIFYING:
                self._agenda.at(now_s + _UNDRAIN_S, lambda at_s: self._ready(after, at_s))
            case State.DRAINING:
                self._traffic.balancer.drain(self._servers[name])
                self._agenda.at(now_s + _LOOKS_S, lambda at_s: self._drained(name, at_s))
                drain = self._job.policy.drain
                if drain.on_deadline is OnDeadline.CUT:
                    cut_s = now_s + drain.deadline.total_seconds()
                    self._agenda.at(cut_s, lambda at_s: self._cut(after, at_s))
            case State.TERMINATING:
                self._agenda.at(now_s + DELETE_S, lambda at_s: self._gone(name, at_s))

    def _emptied(self, server: Server, now_s: float) -> None:
        """A server that takes no more requests has ended its last."""
        self._drained(server.node, now_s)

    def _drained(self, name: NodeName, now_s: float) -> None:
        """Delete a node whose last request has ended."""
        row = self._books.rows.get(name)
        if row is None or row.state is not State.DRAINING:
            return
        servers = self._servers[name]
        if any(server.in_flight for server in servers):
            return
        if now_s < (row.since - instant(0)).total_seconds() + _LOOKS_S - 1e-6:
            return  # it is looked at again
        self._books.leave(name, instant(now_s))
        self._agenda.at(now_s + DELETE_S, lambda at_s: self._gone(name, at_s))

    def _cut(self, drained: Node, now_s: float) -> None:
        """The drain's deadline has passed, and the policy cuts then."""
        row = self._books.rows.get(drained.name)
        if row is None or (row.state, row.since) != (State.DRAINING, drained.since):
            return
        for server in self._servers[drained.name]:
            self._traffic.cut(server, now_s)
        self._drained(drained.name, now_s)

    def _gone(self, name: NodeName, now_s: float) -> None:
        row = self._books.rows[name]
        servers = self._servers.pop(name, [])
        self._note_busy(servers, now_s)
        self._books.end(name, instant(now_s), self._gpus.get(row.offer.type, 0))
        self._wake(now_s)

    def _note_busy(self, servers: list[Server], now_s: float) -> None:
        """Keep how long a node's servers worked, taken together."""
        if servers:
            busy_s = sum(s.busy_s + (now_s - s.busy_since if s.in_flight else 0.0) for s in servers)
            self._busy_s[servers[0].node] = busy_s / len(servers)

    # the story

    def _note_minute(self, now_s: float) -> None:
        self._agenda.at(now_s + _MINUTE_S, self._note_minute)
        self._progress(now_s)
        fleet: dict[str, list[int]] = {}
        for node in self._books.rows.values():
            counts = fleet.setdefault(node.offer.type, [0, 0, 0])
            place = 1 if node.state is State.READY else 0 if node.state is State.BOOTING else 2
            counts[place] += 1
        decision = self._last.decision if self._last is not None else None
        self._minutes.append(
            Minute(
                at_s=now_s,
                demand=decision.demand if decision is not None else None,
                want=decision.want if decision is not None else 0,
                ready=decision.ready if decision is not None else 0.0,
                waiting=len(self._traffic.balancer.line),
                in_flight=self._traffic.balancer.in_flight,
                usd=self._books.usd(instant(now_s)),
                fleet=tuple((t, *n) for t, n in sorted(fleet.items())),  # type: ignore[misc]
            )
        )
