"""What a backtest came to: every request, every machine, a line a minute, and the figures made of them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from autoscaler.domain.ids import NodeName
from autoscaler.domain.money import Money, total
from autoscaler.simulate.fleet import Rental
from autoscaler.simulate.job import Aim
from autoscaler.simulate.requests import Requests

REVERSAL_S = 600.0  # a launch so soon after a release was in vain
_HOUR_S = 3600.0
_HOUR_COUNTS = 100  # requests that an hour must have to be the worst
_QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Minute:
    """How things stood at one minute.

    Attributes:
        demand, ready: in reference replicas, as the last decision had them.
        want: what it wanted.
        waiting, in_flight: requests in the balancer's line, and at servers.
        usd: spent so far.
        fleet: per VM type its nodes that boot, serve, and leave.
    """

    at_s: float
    demand: float | None
    want: int
    ready: float
    waiting: int
    in_flight: int
    usd: float
    fleet: tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Took:
    """Where a run's own time went, in seconds of the wall clock."""

    total_s: float
    decide_s: float
    place_s: float
    server_s: float

    @property
    def rest_s(self) -> float:
        return self.total_s - self.decide_s - self.place_s - self.server_s


@dataclass(frozen=True, slots=True)
class GpuHours:
    """What rented GPUs did.

    Attributes:
        serving, idle: ready, with and without anything in flight.
        boot: from the order to the first request that could be given to it.
        leave: from the release to the end: drained, then deleted.
        wasted: of machines that were given back before they served.
    """

    serving: float
    idle: float
    boot: float
    leave: float
    wasted: float

    @property
    def total(self) -> float:
        return self.serving + self.idle + self.boot + self.leave + self.wasted


@dataclass(frozen=True, slots=True)
class Attained:
    """Shares of all requests that were in time; lost ones were not.

    Attributes:
        worst_hour: of first tokens, in the worst hour with at least a hundred requests; None without such an hour.
    """

    ttft: float
    itl: float | None
    both: float
    worst_hour: float | None


@dataclass(frozen=True, slots=True)
class MinuteLatency:
    """First tokens of one minute's arrivals."""

    at_s: float
    arrivals: int
    attained: float
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        length_s: until when machines were billed.
        busy_s: per node, how long its servers had anything in flight, on average over them.
        refused: launches that found their offer sold out.
        held, queued: requests that waited in the balancer, with no server and with servers up.
        lost: requests that were lost, by reason.
    """

    model: str
    aim: Aim
    length_s: float
    requests: Requests
    minutes: tuple[Minute, ...]
    rentals: tuple[Rental, ...]
    busy_s: Mapping[NodeName, float]
    passes: int
    refused: int
    held: int
    queued: int
    lost: Mapping[str, int]
    took: Took

    @cached_property
    def cost(self) -> Money:
        """From each create call until the machine was gone."""
        return total([rental.cost for rental in self.rentals])

    @property
    def lost_count(self) -> int:
        return sum(self.lost.values())

    @property
    def launches(self) -> int:
        return len(self.rentals)

    @cached_property
    def releases(self) -> int:
        return sum(rental.released_s is not None for rental in self.rentals)

    @cached_property
    def cancelled(self) -> int:
        """Machines that were given back before they served."""
        return sum(r.ready_s is None and r.released_s is not None for r in self.rentals)

    @cached_property
    def reversals(self) -> int:
        """Launches within ten minutes of a release."""
        released = sorted(r.released_s for r in self.rentals if r.released_s is not None)
        found = 0
        for rental in self.rentals:
            before = bisect_right(released, rental.ordered_s)
            found += before > 0 and rental.ordered_s - released[before - 1] < REVERSAL_S
        return found

    @cached_property
    def gpu_hours(self) -> GpuHours:
        serving = idle = boot = leave = wasted = 0.0
        for one in self.rentals:
            hours = one.gpus / _HOUR_S
            if one.ready_s is None:
                cost = (one.gone_s - one.ordered_s) * hours
                wasted, boot = (
                    (wasted, boot + cost) if one.released_s is None else (wasted + cost, boot)
                )
                continue
            until_s = one.gone_s if one.released_s is None else one.released_s
            busy_s = min(self.busy_s.get(one.node, 0.0), until_s - one.ready_s)
            boot += (one.ready_s - one.ordered_s) * hours
            serving += busy_s * hours
            idle += (until_s - one.ready_s - busy_s) * hours
            leave += (one.gone_s - until_s) * hours
        return GpuHours(serving, idle, boot, leave, wasted)

    @cached_property
    def attained(self) -> Attained:
        """By request, at the client's side."""
        requests, aim = self.requests, self.aim
        count = len(requests)
        in_ttft = in_itl = in_both = 0
        hours: dict[int, list[int]] = {}
        for index in range(count):
            is_lost = requests.lost[index]
            most_s = aim.ttft_s + aim.ttft_per_prompt_token_s * requests.prompt_tokens[index]
            first = not is_lost and requests.ttft_s[index] <= most_s
            between = not is_lost
            if between and aim.itl_s is not None:
                itl_s = requests.itl_s(index)
                between = itl_s is None or itl_s <= aim.itl_s
            hour = hours.setdefault(int(requests.arrival_s[index] // _HOUR_S), [0, 0])
            hour[0] += 1
            hour[1] += first
            in_ttft += first
            in_itl += between
            in_both += first and between
        if not count:
            return Attained(1.0, None if aim.itl_s is None else 1.0, 1.0, None)
        worst = [good / came for came, good in hours.values() if came >= _HOUR_COUNTS]
        return Attained(
            in_ttft / count,
            None if aim.itl_s is None else in_itl / count,
            in_both / count,
            min(worst, default=None),
        )

    @cached_property
    def ttft_quantiles(self) -> dict[str, float]:
        """Of all first tokens that came."""
        return _quantiles([value for value in self.requests.ttft_s if value == value])

    @cached_property
    def itl_quantiles(self) -> dict[str, float]:
        """Of the mean time between a request's tokens."""
        values = (self.requests.itl_s(index) for index in range(len(self.requests)))
        return _quantiles([value for value in values if value is not None])

    @cached_property
    def tokens(self) -> int:
        """Prompt and output tokens of the requests that were answered."""
        requests = self.requests
        return sum(
            prompt + output
            for prompt, output, lost in zip(
                requests.prompt_tokens, requests.output_tokens, requests.lost, strict=True
            )
            if not lost
        )

    @property
    def usd_per_1000_requests(self) -> float | None:
        return _ratio(float(self.cost.usd) * 1e3, len(self.requests))

    @property
    def usd_per_million_tokens(self) -> float | None:
        return _ratio(float(self.cost.usd) * 1e6, self.tokens)

    @property
    def usd_per_1000_attained(self) -> float | None:
        """Per thousand requests that were in time."""
        in_time = round(self.attained.both * len(self.requests))
        return _ratio(float(self.cost.usd) * 1e3, in_time)

    @property
    def usd_per_million_output_tokens(self) -> float | None:
        requests = self.requests
        pairs = zip(requests.output_tokens, requests.lost, strict=True)
        return _ratio(float(self.cost.usd) * 1e6, sum(output for output, lost in pairs if not lost))

    @cached_property
    def latencies(self) -> tuple[MinuteLatency, ...]:
        """First tokens by the minute of arrival; minutes without arrivals are left out."""
        requests, aim = self.requests, self.aim
        minutes: dict[int, list[int]] = {}
        for index, arrival_s in enumerate(requests.arrival_s):
            minutes.setdefault(int(arrival_s // 60), []).append(index)
        found = []
        for minute, indices in sorted(minutes.items()):
            values = sorted(v for i in indices if (v := requests.ttft_s[i]) == v)
            good = sum(
                not requests.lost[i]
                and requests.ttft_s[i]
                <= aim.ttft_s + aim.ttft_per_prompt_token_s * requests.prompt_tokens[i]
                for i in indices
            )
            found.append(
                MinuteLatency(
                    minute * 60.0,
                    len(indices),
                    good / len(indices),
                    _quantile(values, 0.5),
                    _quantile(values, 0.95),
                )
            )
        return tuple(found)

    def to_json(self) -> dict[str, object]:
        """The figures and the story by the minute, without single requests."""
        hours, types = self.gpu_hours, self.types
        return {
            "model": self.model,
            "length_s": round(self.length_s, 3),
            "goal": asdict(self.aim),
            "requests": {
                "came": len(self.requests),
                "answered": len(self.requests) - self.lost_count,
                "held": self.held,
                "queued": self.queued,
                "lost": dict(self.lost),
            },
            "usd": {
                "total": str(self.cost.usd),
                "per_1000_requests": self.usd_per_1000_requests,
                "per_1000_attained": self.usd_per_1000_attained,
                "per_million_tokens": self.usd_per_million_tokens,
                "per_million_output_tokens": self.usd_per_million_output_tokens,
            },
            "attained": asdict(self.attained),
            "ttft_s": self.ttft_quantiles,
            "itl_s": self.itl_quantiles,
            "gpu_hours": {**asdict(hours), "total": hours.total},
            "actions": {
                "launches": self.launches,
                "releases": self.releases,
                "cancelled": self.cancelled,
                "reversals": self.reversals,
                "refused": self.refused,
                "passes": self.passes,
                "types": types,
            },
            "took_s": {**asdict(self.took), "rest_s": self.took.rest_s},
            "minutes": [asdict(minute) for minute in self.minutes],
            "latencies": [asdict(minute) for minute in self.latencies],
        }

    @cached_property
    def types(self) -> dict[str, int]:
        """Launches by VM type."""
        found: dict[str, int] = {}
        for rental in self.rentals:
            found[rental.offer.type] = found.get(rental.offer.type, 0) + 1
        return dict(sorted(found.items()))


def _quantiles(values: list[float]) -> dict[str, float]:
    values.sort()
    shares = {f"p{share * 100:g}": _quantile(values, share) for share in _QUANTILES}
    return {name: value for name, value in shares.items() if value is not None}


def _quantile(ranked: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of them do not exceed; None when there are none."""
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else None


def _ratio(amount: float, of: int) -> float | None:
    return amount / of if of else None
