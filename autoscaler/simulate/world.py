"""A backtest: the daemon's own thinking on a virtual clock, over a model of servers, a market and a balancer.

One calendar of events holds all there is: arrivals, what servers do next, boots and ends of machines, passes. Each pass
hands `think.consider` what the daemon's would have, and its plan is carried out as the daemon does. Nothing here knows
any law.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

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
from autoscaler.simulate.balancer import Balancer, Server
from autoscaler.simulate.fleet import Books, instant
from autoscaler.simulate.job import Job
from autoscaler.simulate.market import Stock
from autoscaler.simulate.result import Minute, Requests, Result, Took
from autoscaler.simulate.signals import Gauges, Meter
from autoscaler.store.protocol import ModelRecord
from autoscaler.think import Inputs, Rules, Thought, consider

DELETE_S = 30.0  # from the delete call until nothing bills any more
_LOOKS_S = 4.0  # a drained node is looked at twice before it is given away
_UNDRAIN_S = 2.0  # until balancers have a node again that was to be drained
_WAKE_GAP_S = 5.0  # passes out of turn are at least so far apart; the first in a line waits for none
_MINUTE_S = 60.0
_NEVER = math.inf
# when, in which turn of equals, and who: a server that has something to do, or what is to be called
_Entry = tuple[float, int, Server | None, Callable[[float], None] | None]


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
            return self.rules.decide(*args, **named, explain=False)
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
        self._meter = Meter(policy)
        self._balancer = Balancer(policy.hold)
        self._requests = Requests()
        self._servers: dict[NodeName, list[Server]] = {}
        self._calendar: list[_Entry] = []
        self._turns = count()
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
        self._hold_s = policy.hold.time.total_seconds()
        self._open = 0  # requests that are neither done nor lost
        self._held = 0
        self._queued = 0
        self._lost: Counter[str] = Counter()
        self._passes = 0
        self._last_pass_s = -_NEVER
        self._woken_at_s = -_NEVER
        self._last: Thought | None = None
        self._minutes: list[Minute] = []
        self._busy_s: dict[NodeName, float] = {}
        self._server_s = 0.0
        self._came = 0

    def run(self) -> Result:
        """Work the calendar off."""
        began = time.perf_counter()
        self._at(0.0, self._regular_pass)
        self._at(_MINUTE_S, self._note_minute)
        end_s = self._work_off()
        self._books.settle(instant(end_s), self._gpus)
        for servers in self._servers.values():
            self._note_busy(servers, end_s)
        took = Took(
            total_s=time.perf_counter() - began,
            decide_s=self._clocked.decide_s,
            place_s=self._clocked.place_s,
            server_s=self._server_s,
        )
        return Result(
            model=self._job.policy.model,
            aim=self._job.aim,
            length_s=end_s,
            requests=self._requests,
            minutes=tuple(self._minutes),
            rentals=tuple(sorted(self._books.rentals, key=lambda rental: rental.node)),
            busy_s=dict(self._busy_s),
            passes=self._passes,
            refused=self._books.refused,
            held=self._held,
            queued=self._queued,
            lost=dict(sorted(self._lost.items())),
            took=took,
        )

    # the calendar

    def _work_off(self) -> float:
        """Everything up to the end; gives when that was."""
        calendar, clock = self._calendar, time.perf_counter
        length_s = self._job.length_s
        arrivals = self._arrivals()
        arrival_s = next(arrivals, _NEVER)
        now_s = 0.0
        while True:
            due_s = calendar[0][0]
            if arrival_s < due_s:
                now_s = arrival_s
                self._arrive(now_s)
                arrival_s = next(arrivals, _NEVER)
                continue
            if arrival_s == _NEVER and not self._open and due_s > length_s:
                return max(now_s if self._came else 0.0, length_s)
            due_s, _, server, what = heappop(calendar)
            if what is not None:
                now_s = due_s if self._open or arrival_s < _NEVER else now_s
                what(due_s)
            elif server is not None and server.due_s == due_s:
                now_s = due_s
                began = clock()
                server.replica.advance(due_s)
                self._server_s += clock() - began
                self._harvest(server, due_s)

    def _arrivals(self) -> Iterator[float]:
        """When each request comes, noted as it does."""
        requests = self._requests
        for request in self._job.requests:
            requests.add(request.arrival_s, request.prompt_tokens, request.output_tokens)
            yield request.arrival_s

    def _at(self, at_s: float, what: Callable[[float], None]) -> None:
        heappush(self._calendar, (at_s, next(self._turns), None, what))

    # a request's way

    def _arrive(self, now_s: float) -> None:
        index = self._came
        self._came += 1
        self._open += 1
        prompt_tokens = self._requests.prompt_tokens[index]
        meter, balancer = self._meter, self._balancer
        meter.arrivals += 1
        meter.prompt_tokens += prompt_tokens
        if not balancer.line:
            server = balancer.pick()
            if server is not None:
                self._send(index, server, now_s)
                return
        is_cold = not balancer.active
        why = balancer.why_full(prompt_tokens)
        is_news = is_cold or not balancer.line
        if why is None:
            balancer.join(index, prompt_tokens)
            self._held += is_cold
            self._queued += not is_cold
        else:
            self._lose(index, why)
        if is_news:
            self._wake(now_s, 0.0 if is_cold and len(balancer.line) == 1 else _WAKE_GAP_S)

    def _send(self, index: int, server: Server, now_s: float) -> None:
        self._balancer.take(server, now_s)
        requests, replica, clock = self._requests, server.replica, time.perf_counter
        began = clock()
        replica.advance(now_s)
        replica.submit(index, requests.prompt_tokens[index], requests.output_tokens[index], now_s)
        self._server_s += clock() - began
        self._reschedule(server)

    def _reschedule(self, server: Server) -> None:
        due_s = server.replica.next_s
        if due_s != server.due_s:
            server.due_s = due_s
            if due_s < _NEVER:
                heappush(self._calendar, (due_s, next(self._turns), server, None))

    def _harvest(self, server: Server, now_s: float) -> None:
        """Note first tokens and ends, and give the room to who waits."""
        requests, meter, replica = self._requests, self._meter, server.replica
        if replica.first:
            for index, at_s in replica.first:
                ttft_s = at_s - requests.arrival_s[index]
                requests.ttft_s[index] = ttft_s
                meter.ttft.observe(ttft_s)
            replica.first.clear()
        if replica.done:
            for index, at_s in replica.done:
                self._end(index, server, at_s)
            replica.done.clear()
            self._reschedule(server)
            if self._balancer.line:
                self._dispatch(now_s)
            if not server.takes and not server.in_flight:
                self._drained(server.node, now_s)
        else:
            self._reschedule(server)

    def _end(self, index: int, server: Server, at_s: float) -> None:
        requests = self._requests
        requests.ended_s[index] = at_s
        self._balancer.give_back(server, at_s)
        self._open -= 1
        tokens = requests.output_tokens[index]
        self._meter.output_tokens += tokens
        if tokens > 1:
            begun_s = requests.arrival_s[index] + requests.ttft_s[index]
            self._meter.itl.observe((at_s - begun_s) / (tokens - 1), tokens - 1)

    def _dispatch(self, now_s: float) -> None:
        """Give servers to those who wait, in turn, as far as they reach."""
        balancer, requests = self._balancer, self._requests
        while balancer.line:
            index = balancer.line[0]
            if requests.arrival_s[index] + self._hold_s <= now_s:
                balancer.leave_first(requests.prompt_tokens[index])
                self._lose(index, "waited too long")
                continue
            server = balancer.pick()
            if server is None:
                return
            balancer.leave_first(requests.prompt_tokens[index])
            self._send(index, server, now_s)

    def _give_up(self, now_s: float) -> None:
        """Answer those with 503 whose time is over."""
        balancer, requests = self._balancer, self._requests
        while balancer.line:
            index = balancer.line[0]
            if requests.arrival_s[index] + self._hold_s > now_s:
                return
            balancer.leave_first(requests.prompt_tokens[index])
            self._lose(index, "waited too long")

    def _lose(self, index: int, why: str) -> None:
        self._requests.lost[index] = 1
        self._lost[why] += 1
        self._open -= 1

    # passes

    def _wake(self, now_s: float, gap_s: float = _WAKE_GAP_S) -> None:
        """Have a pass out of turn, as the daemon does when a request begins to wait or a node changes."""
        at_s = max(now_s, self._last_pass_s + gap_s)
        if self._woken_at_s < at_s:
            self._woken_at_s = at_s
            self._at(at_s, self._pass)

    def _regular_pass(self, now_s: float) -> None:
        self._at(now_s + self._job.reconcile_s, self._regular_pass)
        self._pass(now_s)

    def _pass(self, now_s: float) -> None:
        self._last_pass_s = now_s
        self._passes += 1
        self._give_up(now_s)
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
            history=self._meter.read(now_s, now, self._gauges(now_s)),
            memory=self._memory,
            limits=self._limits,
            now=now,
            decision=DecisionId(f"pass-{self._passes}"),
        )

    def _gauges(self, now_s: float) -> Gauges:
        balancer = self._balancer
        newcomer = self._job.policy.signals.newcomer
        now, inside, uses = instant(now_s), 0, []
        for node in self._books.fleet.in_states(frozenset({State.READY, State.DRAINING})):
            known = node.ready_at is not None and now - node.ready_at >= newcomer
            for server in self._servers[node.name]:
                inside += server.replica.waiting
                if known and node.state is State.READY:
                    uses.append(server.replica.kv_use)
        oldest_s = 0.0
        if balancer.line:
            oldest_s = now_s - self._requests.arrival_s[balancer.line[0]]
        return Gauges(
            waiting=len(balancer.line) + inside,
            running=balancer.in_flight - inside,
            oldest_wait_s=oldest_s,
            kv_use=max(uses) if uses else None,
            serves=bool(balancer.active),
        )

    # machines

    def _order(self, draft: Node, now_s: float) -> None:
        node = self._books.order(draft, instant(now_s))
        self._at(now_s + next(self._boots), lambda at_s: self._ready(node, at_s))

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
        self._balancer.open(servers)
        self._dispatch(now_s)
        self._wake(now_s)

    def _carry_out(self, before: Node, after: Node, now_s: float) -> None:
        name = after.name
        match after.state:
            case State.VERIFYING:
                self._at(now_s + _UNDRAIN_S, lambda at_s: self._ready(after, at_s))
            case State.DRAINING:
                self._balancer.drain(self._servers[name])
                self._at(now_s + _LOOKS_S, lambda at_s: self._drained(name, at_s))
                drain = self._job.policy.drain
                if drain.on_deadline is OnDeadline.CUT:
                    cut_s = now_s + drain.deadline.total_seconds()
                    self._at(cut_s, lambda at_s: self._cut(after, at_s))
            case State.TERMINATING:
                self._at(now_s + DELETE_S, lambda at_s: self._gone(name, at_s))

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
        self._at(now_s + DELETE_S, lambda at_s: self._gone(name, at_s))

    def _cut(self, drained: Node, now_s: float) -> None:
        """The drain's deadline has passed, and the policy cuts then."""
        row = self._books.rows.get(drained.name)
        if row is None or (row.state, row.since) != (State.DRAINING, drained.since):
            return
        for server in self._servers[drained.name]:
            for index in server.replica.abandon():
                self._balancer.give_back(server, now_s)
                self._lose(index, "cut while draining")
            self._reschedule(server)
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
        self._at(now_s + _MINUTE_S, self._note_minute)
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
                waiting=len(self._balancer.line),
                in_flight=self._balancer.in_flight,
                usd=self._books.usd(instant(now_s)),
                fleet=tuple((t, *n) for t, n in sorted(fleet.items())),  # type: ignore[misc]
            )
        )
