"""A request's way through a backtest: it comes, waits or is refused, is served, and ends or is lost, once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from autoscaler.policy import Engine, Policy
from autoscaler.simulate.agenda import Agenda
from autoscaler.simulate.balancer import Balancer, Server
from autoscaler.simulate.requests import Requests
from autoscaler.simulate.signals import Meter
from autoscaler.traces.request import TracedRequest


class Traffic:
    """All requests, and the balancer before the servers.

    Attributes:
        open: requests that have come and neither ended nor were lost.
        held, queued: those that waited in the balancer, without and with a server that takes requests.
        lost: by reason.
        server_s: how long the model servers kept this process busy.
    """

    def __init__(
        self,
        policy: Policy,
        agenda: Agenda,
        wake: Callable[[float, bool], None],
        drained: Callable[[Server, float], None],
    ) -> None:
        """Take what it has to tell.

        Args:
            wake: told when a request begins to wait where none did, and whether it is the first without a server.
            drained: told when a server that takes no more requests has ended its last.
        """
        self.balancer = Balancer(policy.hold)
        self.requests = Requests()
        self.meter = Meter(policy)
        self.came = 0
        self.open = 0
        self.held = 0
        self.queued = 0
        self.lost: Counter[str] = Counter()
        self.server_s = 0.0
        self._agenda = agenda
        self._wake = wake
        self._drained = drained
        self._only_reads = policy.engine is Engine.EMBEDDING
        self._hold_s = policy.hold.time / timedelta(seconds=1)

    def arrivals(self, traced: Iterable[TracedRequest]) -> Iterator[float]:
        """When each request comes, noted as it does.

        Raises:
            ValueError: one comes before its predecessor.
        """
        requests, only_reads, before_s = self.requests, self._only_reads, 0.0
        for request in traced:
            if request.arrival_s < before_s:
                raise ValueError(
                    f"a request at {request.arrival_s:g} s comes after one at {before_s:g} s"
                )
            before_s = request.arrival_s
            output_tokens = 0 if only_reads else request.output_tokens
            requests.add(request.arrival_s, request.prompt_tokens, output_tokens)
            yield request.arrival_s

    def oldest_wait_s(self, now_s: float) -> float:
        line = self.balancer.line
        return now_s - self.requests.arrival_s[line[0]] if line else 0.0

    def arrive(self, now_s: float) -> None:
        """The next request comes."""
        index = self.came
        self.came += 1
        self.open += 1
        prompt_tokens = self.requests.prompt_tokens[index]
        meter, balancer = self.meter, self.balancer
        meter.arrivals += 1
        meter.prompt_tokens += prompt_tokens
        if not balancer.line:
            server = balancer.pick()
            if server is not None:
                self._send(index, server, now_s)
                return
        is_cold = not balancer.active
        is_first = not balancer.line
        why = balancer.why_full(prompt_tokens)
        if why is None:
            balancer.join(index, prompt_tokens)
            self.held += is_cold
            self.queued += not is_cold
        else:
            self._lose(index, why)
        if is_cold or is_first:
            self._wake(now_s, is_cold and is_first)

    def serve(self, server: Server, now_s: float) -> None:
        """A server's next event: note first tokens and ends, and give the room to who waits."""
        began = time.perf_counter()
        replica = server.replica
        replica.advance(now_s)
        self.server_s += time.perf_counter() - began
        if replica.first:
            requests, meter = self.requests, self.meter
            for index, at_s in replica.first:
                ttft_s = at_s - requests.arrival_s[index]
                requests.ttft_s[index] = ttft_s
                meter.ttft.observe(ttft_s)
            replica.first.clear()
        if not replica.done:
            self._agenda.follow(server)
            return
        for index, at_s in replica.done:
            self._end(index, server, at_s)
        replica.done.clear()
        self._agenda.follow(server)
        if self.balancer.line:
            self.dispatch(now_s)
        if not server.takes and not server.in_flight:
            self._drained(server, now_s)

    def dispatch(self, now_s: float) -> None:
        """Give servers to those who wait, in turn, as far as they reach."""
        self.give_up(now_s)
        balancer = self.balancer
        while balancer.line:
            server = balancer.pick()
            if server is None:
                return
            self._send(self._out_of_line(), server, now_s)

    def give_up(self, now_s: float) -> None:
        """Answer those with 503 who have waited for as long as one may."""
        line, arrival_s = self.balancer.line, self.requests.arrival_s
        while line and arrival_s[line[0]] + self._hold_s <= now_s:
            self._lose(self._out_of_line(), "waited too long")

    def cut(self, server: Server, now_s: float) -> None:
        """End all that a server has in flight."""
        for index in server.replica.abandon():
            self.balancer.give_back(server, now_s)
            self._lose(index, "cut while draining")
        self._agenda.follow(server)

    def _send(self, index: int, server: Server, now_s: float) -> None:
        self.balancer.take(server, now_s)
        requests, replica = self.requests, server.replica
        began = time.perf_counter()
        replica.advance(now_s)
        replica.submit(index, requests.prompt_tokens[index], requests.output_tokens[index], now_s)
        self.server_s += time.perf_counter() - began
        self._agenda.follow(server)

    def _end(self, index: int, server: Server, at_s: float) -> None:
        requests = self.requests
        requests.ended_s[index] = at_s
        self.balancer.give_back(server, at_s)
        self.open -= 1
        tokens = requests.output_tokens[index]
        self.meter.output_tokens += tokens
        if tokens > 1:
            begun_s = requests.arrival_s[index] + requests.ttft_s[index]
            self.meter.itl.observe((at_s - begun_s) / (tokens - 1), tokens - 1)

    def _out_of_line(self) -> int:
        index = self.balancer.line[0]
        self.balancer.leave_first(self.requests.prompt_tokens[index])
        return index

    def _lose(self, index: int, why: str) -> None:
        self.requests.lost[index] = 1
        self.lost[why] += 1
        self.open -= 1
