"""What one replica carries on each offer, and what that is worth in units of the reference offer.

The unit of demand and capacity is the *reference replica*: one model server on the policy's reference offer, working
without pause within the latency goal. The reference is the offer with the cheapest work of all that the policy allows
and that the model fits, in stock or not, so that the unit does not change whenever something sells out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from autoscaler.decide.profiles import GpuProfile, Profiles
from autoscaler.decide.roofline import Goal, Roofline, roofline
from autoscaler.decide.work import Work, typical_work
from autoscaler.domain.node import Node
from autoscaler.domain.offer import Market, Offer, OfferKey
from autoscaler.policy import Facts, Policy, TypeCapacity

__all__ = [
    "Capacity",
    "CapacitySource",
    "Profiles",
    "Work",
    "Yardstick",
    "excluded",
    "reference_offer",
    "replica_capacity",
    "units",
]

_PCIE_LIMIT = (
    4  # tensor parallelism from here on is refused without NVLink: 3 to 12 times dearer per request
)
_PREFILL_DISCOUNT = (
    0.1  # a prompt token costs about a tenth of an output token; for operators' own figures only
)
_CPU_TOKENS_PER_S = (
    30.0  # of a small model on a CPU-only VM, all requests together: a guess on the low side
)
_CPU_CONCURRENCY = 2
_GB = 1e9


class CapacitySource(StrEnum):
    """Where a capacity comes from."""

    POLICY = "policy"  # the operator's own figure, hardware.capacity
    ROOFLINE = "roofline"
    DEFAULT = "default"  # a CPU-only VM without a figure: a stated, low guess


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica on an offer carries within the latency goal.

    Attributes:
        concurrency: requests in flight at which it works best (B*).
        requests_per_s: throughput there, of the mix of requests it was asked for.
        replicas: model servers that one VM of this offer runs.
        why_not: why it cannot serve this model, and what to change; empty when `fits`.
    """

    fits: bool
    concurrency: int
    requests_per_s: float
    replicas: int
    tensor_parallel: int
    source: CapacitySource
    why_not: str = ""

    @property
    def vm_requests_per_s(self) -> float:
        """What the whole VM carries."""
        return self.replicas * self.requests_per_s


def replica_capacity(
    policy: Policy,
    offer: Offer,
    typical: Work,
    profiles: Profiles,
    rooflines: dict[str, Capacity] | None = None,
) -> Capacity:
    """Say what one replica carries on this offer, or why it cannot run there.

    Order of sources: the policy's own figure for this type or GPU, then the roofline; a CPU-only VM without a figure
    takes a stated low guess. Price, stock and permission are not looked at here.

    Args:
        rooflines: what was found by GPU for the same policy and work: a replica does the same on each VM that has it.
    """
    tensor_parallel = policy.hardware.tensor_parallel
    if offer.gpu is None or offer.gpus == 0:
        return _cpu_capacity(policy, offer, typical)
    if not policy.hardware.gpus:
        return _unfit("the policy rents CPU-only types (hardware.gpus = false)", tensor_parallel)
    if offer.gpus < tensor_parallel:
        return _unfit(
            f"tensor parallelism {tensor_parallel} needs {tensor_parallel} GPUs, it has {offer.gpus}",
            tensor_parallel,
        )
    own = _own_figure(policy, offer)
    if own is not None:
        return _from_policy(own, policy, typical, offer.gpus // tensor_parallel)
    if (
        tensor_parallel >= _PCIE_LIMIT
        and offer.nvlink_domain < tensor_parallel
        and not policy.hardware.allow_tensor_parallel_over_pcie
    ):
        return _unfit(
            f"tensor parallelism {tensor_parallel} over PCIe is refused: it costs 3 to 12 times as much per request as "
            "over NVLink (hardware.allow_tensor_parallel_over_pcie = true allows it)",
            tensor_parallel,
        )
    known = None if rooflines is None else rooflines.get(offer.gpu)
    if known is not None:
        return replace(known, replicas=offer.gpus // tensor_parallel)
    found = _from_roofline(policy, offer, offer.gpu, typical, profiles)
    if rooflines is not None and found.fits:  # why one does not fit names its type
        rooflines[offer.gpu] = found
    return found


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Every offer's capacity for one model and one mix of requests, and the unit they are measured in.

    Attributes:
        reference: the capacity of one replica on the reference offer: one unit.
        reference_type: the reference offer's VM type.
        capacities: by offer, those that do not fit included.
    """

    reference: Capacity
    reference_type: str
    capacities: Mapping[OfferKey, Capacity]

    @classmethod
    def of(
        cls, policy: Policy, market: Market, work: Work, profiles: Profiles, keep: str = ""
    ) -> Yardstick | None:
        """Measure all offers of the market; None when no priced and permitted one can serve the model."""
        capacities = _capacities(policy, market.offers, work, profiles)
        found = _cheapest_work(policy, market.offers, capacities, keep)
        if found is None:
            return None
        return cls(capacities[found.key], found.key.type, capacities)

    def offer_units(self, key: OfferKey) -> float:
        """What one VM of an offer is worth; 0 when it is not listed or cannot serve the model."""
        capacity = self.capacities.get(key)
        return 0.0 if capacity is None else units(capacity, self.reference)

    def node_units(self, node: Node) -> float:
        """What a rented node is worth: by today's figures, or as it was planned when its offer is not listed now."""
        capacity = self.capacities.get(node.offer)
        if capacity is None or not capacity.fits:
            return node.units
        return node.replicas * capacity.requests_per_s / self.reference.requests_per_s

    def total(self, nodes: Iterable[Node]) -> float:
        """What several nodes are worth together."""
        return sum(self.node_units(node) for node in nodes)


def units(capacity: Capacity, reference: Capacity) -> float:
    """What a whole VM is worth in reference replicas; 0 when it cannot serve the model."""
    if not capacity.fits or reference.requests_per_s <= 0:
        return 0.0
    return capacity.replicas * capacity.requests_per_s / reference.requests_per_s


def reference_offer(
    policy: Policy, offers: Iterable[Offer], work: Work, profiles: Profiles, keep: str = ""
) -> tuple[Offer, Capacity] | None:
    """The offer whose work is cheapest, stock and back-off left aside, or None when none can serve the model.

    Args:
        keep: the type that was the reference so far; it stays unless another is 10 % cheaper, so that a small change
            of the mix does not change the unit.
    """
    listed = tuple(offers)
    capacities = _capacities(policy, listed, work, profiles)
    found = _cheapest_work(policy, listed, capacities, keep)
    return None if found is None else (found, capacities[found.key])


@dataclass(slots=True)
class _Asked:
    """The last question and its answer: a pass asks the same for its decision and for its placement."""

    policy: Policy | None = None
    offers: tuple[Offer, ...] = ()
    work: Work | None = None
    profiles: Profiles | None = None
    found: dict[OfferKey, Capacity] = field(default_factory=dict)


_asked = _Asked()


def _capacities(
    policy: Policy, offers: tuple[Offer, ...], work: Work, profiles: Profiles
) -> dict[OfferKey, Capacity]:
    last = _asked
    is_same = last.policy is policy and last.offers is offers and last.profiles is profiles
    if is_same and last.work == work:
        return last.found
    by_type: dict[tuple[str, str | None, int, int], Capacity] = {}
    rooflines: dict[str, Capacity] = {}
    found = {}
    for offer in offers:
        alike = (offer.key.type, offer.gpu, offer.gpus, offer.nvlink_domain)
        if alike not in by_type:
            by_type[alike] = replica_capacity(policy, offer, work, profiles, rooflines)
        found[offer.key] = by_type[alike]
    last.policy, last.offers, last.work, last.profiles = policy, offers, work, profiles
    last.found = found
    return found


def _cheapest_work(
    policy: Policy, offers: Iterable[Offer], capacities: Mapping[OfferKey, Capacity], keep: str
) -> Offer | None:
    found = []
    for offer in offers:
        capacity = capacities[offer.key]
        if offer.price_per_hour is None or offer.unrentable or not capacity.fits:
            continue
        if excluded(policy, offer) is None:
            cost = float(offer.price_per_hour.usd) / capacity.vm_requests_per_s
            found.append((round(cost, 9), offer.gpus, offer.vcpu, offer.key, offer))
    if not found:
        return None
    best = min(found, key=lambda row: row[:4])
    kept = min((row for row in found if row[3].type == keep), key=lambda row: row[3], default=best)
    return kept[4] if kept[0] <= best[0] * 1.1 else best[4]


def excluded(policy: Policy, offer: Offer) -> str | None:
    """Why the policy does not allow this offer, None when it does."""
    hardware = policy.hardware
    if hardware.gpus and not offer.gpus:
        return "excluded by the policy: no GPU (hardware.gpus = true)"
    if not hardware.gpus and offer.gpus:
        return "excluded by the policy: has GPUs (hardware.gpus = false)"
    if hardware.types and not _matches(offer.key.type, hardware.types):
        return "excluded by the policy: not in hardware.types"
    if _matches(offer.key.type, hardware.exclude_types):
        return "excluded by the policy: in hardware.exclude_types"
    if hardware.locations and not _matches(offer.key.location, hardware.locations):
        return "excluded by the policy: not in hardware.locations"
    if offer.disk_gb * _GB < hardware.min_disk:
        return f"disk of {offer.disk_gb} GB, hardware.min_disk is {hardware.min_disk / _GB:.0f} GB"
    return None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _own_figure(policy: Policy, offer: Offer) -> TypeCapacity | None:
    figures = policy.hardware.capacity
    return figures.get(offer.key.type) or (figures.get(offer.gpu) if offer.gpu else None)


def _from_policy(own: TypeCapacity, policy: Policy, work: Work, replicas: int) -> Capacity:
    """The operator's figure holds for the policy's typical request; longer requests make it smaller."""
    typical = typical_work(policy)
    longer = _cost(work) / _cost(typical)
    return Capacity(
        fits=True,
        concurrency=own.concurrency,
        requests_per_s=own.requests_per_s / min(4.0, max(0.25, longer)),
        replicas=replicas,
        tensor_parallel=policy.hardware.tensor_parallel,
        source=CapacitySource.POLICY,
    )


def _cost(work: Work) -> float:
    return _PREFILL_DISCOUNT * work.prompt_tokens + work.output_tokens


def _cpu_capacity(policy: Policy, offer: Offer, work: Work) -> Capacity:
    if policy.hardware.gpus:
        return _unfit("it has no GPU (hardware.gpus = true)", policy.hardware.tensor_parallel)
    own = _own_figure(policy, offer)
    if own is not None:
        return _from_policy(own, policy, work, 1)
    return Capacity(
        fits=True,
        concurrency=_CPU_CONCURRENCY,
        requests_per_s=_CPU_TOKENS_PER_S / _cost(work),
        replicas=1,
        tensor_parallel=1,
        source=CapacitySource.DEFAULT,
    )


def _from_roofline(
    policy: Policy, offer: Offer, gpu: str, work: Work, profiles: Profiles
) -> Capacity:
    tensor_parallel = policy.hardware.tensor_parallel
    facts, profile = profiles.facts(policy), profiles.gpus.get(gpu)
    if facts is None:
        return _unfit(
            f"nothing is known of the size of {policy.server.weights or policy.model}: add [facts] with params_b, "
            f"layers, hidden, kv_heads and head_dim to the policy, or [hardware.capacity.{offer.key.type!r}]",
            tensor_parallel,
        )
    if profile is None:
        return _unfit(
            f"no profile of the GPU {gpu!r}: state [hardware.capacity.{gpu!r}] in the policy",
            tensor_parallel,
        )
    if tensor_parallel > max(profile.bus):
        return _unfit(
            f"tensor parallelism {tensor_parallel} is beyond what the profile of {gpu!r} knows: "
            f"state [hardware.capacity.{gpu!r}] in the policy",
            tensor_parallel,
        )
    line = roofline(facts, profile, tensor_parallel, work, profiles.defaults)
    return _at_goal(policy, offer, line, facts, profile)


def _at_goal(
    policy: Policy, offer: Offer, line: Roofline, facts: Facts, profile: GpuProfile
) -> Capacity:
    tensor_parallel = policy.hardware.tensor_parallel
    why_not = _memory(line, tensor_parallel, profile)
    if why_not:
        return _unfit(why_not, tensor_parallel)
    slo = policy.slo
    goal = Goal(slo.goal, slo.ttft.total_seconds(), slo.itl.total_seconds() if slo.itl else None)
    if line.work.output_tokens < 1:
        rate = line.embedding_rate(goal)
        batch = min(policy.server.max_num_seqs, max(1, round(rate * goal.ttft_s / 2)))
    else:
        batch = line.largest_batch(policy.server.max_num_seqs, goal)
        rate = line.rate(batch) if batch else 0.0
    if rate <= 0:
        prefill_s = line.work.prompt_tokens * line.prefill_s
        return _unfit(
            f"too slow for the goal: a prompt of {line.work.prompt_tokens:.0f} tokens takes {prefill_s:.2f} s alone "
            f"and a step {line.step_s(1) * 1e3:.0f} ms ({facts.params_b:g}B on {tensor_parallel}× {profile.title})",
            tensor_parallel,
        )
    return Capacity(
        fits=True,
        concurrency=batch,
        requests_per_s=rate,
        replicas=offer.gpus // tensor_parallel,
        tensor_parallel=tensor_parallel,
        source=CapacitySource.ROOFLINE,
    )


def _memory(line: Roofline, tensor_parallel: int, profile: GpuProfile) -> str:
    usable = (line.free_bytes + line.weight_bytes) / _GB
    if line.free_bytes <= 0:
        return (
            f"does not fit: the weights need {line.weight_bytes / _GB:.0f} GB of {max(0.0, usable):.0f} GB usable on "
            f"{tensor_parallel}× {profile.title}"
        )
    if line.work.output_tokens >= 1 and line.sequences < 1:
        return (
            f"does not fit: {line.free_bytes / _GB:.1f} GB beside the weights hold not one request of "
            f"{line.work.prompt_tokens + line.work.output_tokens:.0f} tokens"
        )
    return ""


def _unfit(why_not: str, tensor_parallel: int) -> Capacity:
    return Capacity(False, 0, 0.0, 0, tensor_parallel, CapacitySource.ROOFLINE, why_not)
