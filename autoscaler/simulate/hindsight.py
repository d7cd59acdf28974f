"""What the cheapest fleet would have cost in hindsight, on the market and the servers of one backtest.

Its work is the backtest's own: what each request keeps a replica busy for, by the model of the servers and at the batch
that still meets the aim. It knows no stock-outs, no limits and no spread, and parts of a machine are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoscaler.domain.offer import Offer
from autoscaler.simulate.bound import Start, demand, strict
from autoscaler.simulate.job import Aim, Job
from autoscaler.simulate.physics import ServerPhysics
from autoscaler.simulate.result import Result


@dataclass(frozen=True, slots=True)
class Hindsight:
    """The plan that knew the whole trace.

    Attributes:
        usd, usd_whole: by parts of machines, and by whole replicas; without one request late.
        type: the VM type whose work is cheapest.
        replica_hours: of that type.
        boot_s: the least that a machine billed in this run before it served, which each start is charged.
    """

    usd: float
    usd_whole: float
    type: str
    replica_hours: float
    boot_s: float

    def ratio(self, result: Result) -> float | None:
        """What the run cost in units of the bound; None where the bound is nothing."""
        return float(result.cost.usd) / self.usd if self.usd > 0 else None

    def to_json(self) -> dict[str, object]:
        return {
            "usd": self.usd,
            "usd_whole_replicas": self.usd_whole,
            "type": self.type,
            "replica_hours": self.replica_hours,
            "boot_s": self.boot_s,
        }


def hindsight(job: Job, result: Result) -> Hindsight | None:
    """Bound the cost of a run from below; None when nothing came or no machine fits.

    The closed form of `bound.strict`: a request is served in the minute that it came in, and every start is billed for
    the shortest boot of the run. A law that lets requests be late may cost less than it.
    """
    requests = result.requests
    if not len(requests):
        return None
    prompt = sum(requests.prompt_tokens) / len(requests)
    output = sum(requests.output_tokens) / len(requests)
    prices = {
        offer.key.type: _usd_per_s(offer, job)
        for offer in job.market.offers
        if offer.price_per_hour is not None and not offer.unrentable
    }
    works = {
        name: _Work.of(job.physics[name], prompt, output, job.aim)
        for name in prices
        if name in job.physics
    }
    if not works:
        return None
    cheapest = min(
        works, key=lambda name: (prices[name] * works[name].busy_s(prompt, output), name)
    )
    work, usd_per_s = works[cheapest], prices[cheapest]
    boots = [r.ready_s - r.ordered_s for r in result.rentals if r.ready_s is not None]
    boot_s = min(boots, default=job.market.boots.median_s)
    each = zip(requests.arrival_s, requests.prompt_tokens, requests.output_tokens, strict=True)
    slots = demand(((at, work.busy_s(p, o)) for at, p, o in each), result.length_s)
    hours = strict(slots, Start.of_boot(boot_s))
    whole = strict(slots, Start.of_boot(boot_s), whole=True)
    return Hindsight(
        usd=hours * 3600 * usd_per_s,
        usd_whole=whole * 3600 * usd_per_s,
        type=cheapest,
        replica_hours=hours,
        boot_s=boot_s,
    )


def _usd_per_s(offer: Offer, job: Job) -> float:
    """What one replica on an offer costs."""
    assert offer.price_per_hour is not None
    replicas = max(1, offer.gpus // job.policy.hardware.tensor_parallel)
    return float(offer.price_per_hour.usd) / replicas / 3600


@dataclass(frozen=True, slots=True)
class _Work:
    """Replica-seconds per prompt token and per output token of one replica that is always full."""

    prompt_s: float
    output_s: float

    @classmethod
    def of(cls, physics: ServerPhysics, prompt: float, output: float, aim: Aim) -> _Work:
        """At the largest batch that the cache holds and whose steps meet the aim between tokens, prefills aside."""
        context = prompt + output / 2
        most = min(physics.max_num_seqs, max(1, int(physics.kv_tokens / max(1.0, context))))
        low, high = 1, most
        while low < high and aim.itl_s is not None:
            middle = (low + high + 1) // 2
            if physics.step_s(middle, middle * context) <= aim.itl_s:
                low = middle
            else:
                high = middle - 1
        batch = low if aim.itl_s is not None else most
        return cls(
            physics.prefill_s + physics.bus_s, physics.step_s(batch, batch * context) / batch
        )

    def busy_s(self, prompt_tokens: float, output_tokens: float) -> float:
        """Seconds that one request keeps a replica busy for; an answer's first token comes with its prompt."""
        return prompt_tokens * self.prompt_s + max(0.0, output_tokens - 1) * self.output_s
