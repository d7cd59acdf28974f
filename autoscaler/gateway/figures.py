"""What a pool counts: counters and histograms since the start, and a ring of the last 15 minutes.

Everything here is arithmetic on the request's path, so it is kept to a few list operations. Counters only
grow; a reader takes differences, and knows by `boot_id` when they began anew.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field

RING_S = 900

# Targets are put on edges (an attainment is then exact), so the usual ones are all here.
EDGES_S = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06),
    *(0.075, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.8, 1.0, 1.25, 1.5),
    *(2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.5, 10.0, 12.5, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0),
    *(75.0, 100.0, 120.0, 150.0, 200.0, 250.0, 300.0),
)


class Histogram:
    """Counts of observations between `EDGES_S`, in seconds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES_S) + 1)
        self.total_s = 0.0

    def observe(self, value_s: float, times: int = 1) -> None:
        self.counts[bisect_left(EDGES_S, value_s)] += times
        self.total_s += value_s * times

    def cumulative(self) -> list[int]:
        """Count the observations at or below each edge; the last, above all edges, is the count."""
        running = 0
        out = []
        for count in self.counts:
            running += count
            out.append(running)
        return out


class Ring:
    """One slot per second for the last `RING_S` seconds: what came, what was made, how full it was.

    Seconds are of the monotonic clock. `in_system` between two events is constant, so a second in
    which nothing happened still has its true maximum.
    """

    __slots__ = ("_first", "_second", "arrivals", "in_system_max", "output_tokens", "prompt_tokens")

    def __init__(self, now_s: float) -> None:
        self._first = self._second = int(now_s)
        self.arrivals = array("q", bytes(8 * RING_S))
        self.prompt_tokens = array("q", bytes(8 * RING_S))
        self.output_tokens = array("q", bytes(8 * RING_S))
        self.in_system_max = array("q", bytes(8 * RING_S))

    def advance(self, now_s: float, in_system: int) -> int:
        """Open the slots up to `now_s`, and note that `in_system` requests are here. Its slot."""
        second = int(now_s)
        for opened in range(max(self._second + 1, second - RING_S + 1), second + 1):
            at = opened % RING_S
            self.arrivals[at] = self.prompt_tokens[at] = self.output_tokens[at] = 0
            self.in_system_max[at] = in_system
        self._second = max(self._second, second)
        slot = second % RING_S
        if in_system > self.in_system_max[slot]:
            self.in_system_max[slot] = in_system
        return slot

    def window(self, seconds: int) -> tuple[int, list[int]]:
        """List the slots of the last `seconds` seconds, oldest first, and the first's second."""
        known = min(seconds, RING_S, self._second - self._first + 1)
        first = self._second - known + 1
        return first, [second % RING_S for second in range(first, self._second + 1)]


@dataclass(slots=True)
class Figures:
    """One pool's counters and histograms since this process started.

    `arrivals_total = completed + failed + client_gone + sum(rejected) + waiting + running`, always.
    """

    arrivals_total: int = 0
    completed_total: int = 0
    failed_total: int = 0
    client_gone_total: int = 0
    cold_starts_total: int = 0
    connect_failures_total: int = 0
    prompt_tokens_total: int = 0
    output_tokens_total: int = 0
    rejected_total: dict[str, int] = field(default_factory=dict)
    ttft: Histogram = field(default_factory=Histogram)
    e2e: Histogram = field(default_factory=Histogram)
    queue_time: Histogram = field(default_factory=Histogram)
    inter_token: Histogram = field(default_factory=Histogram)

    def reject(self, reason: str) -> None:
        self.rejected_total[reason] = self.rejected_total.get(reason, 0) + 1
