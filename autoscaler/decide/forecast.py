"""What is coming within one boot: the recent peak times a margin learned from how peaks were outgrown.

A recent maximum with a learned margin is hard to beat; a seasonal profile alone costs 1.6 to 4 times as much
(measured on public traces of language models; docs/scaling.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil

from autoscaler.decide.memory import MARGIN_BUCKETS, MARGIN_STEP, LawMemory, Level, Probe, remember
from autoscaler.domain.offer import Market, OfferKey
from autoscaler.policy import Policy

BOOTS_KEPT = 20  # the latest boots of each offer
_LEAD_QUANTILE = 0.9
_PRIOR_WEIGHT = 50.0  # observations, one per lead, that the policy's margin is worth
_LEAST_PEAK = 0.2  # replicas: what grows out of nothing teaches no ratio


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed.

    Raises:
        ValueError: there are none.
    """
    ranked = sorted(values)
    if not ranked:
        raise ValueError("no values to take a quantile of")
    return ranked[max(0, ceil(share * len(ranked)) - 1)]


def lead_time(policy: Policy, market: Market, keys: Iterable[OfferKey]) -> timedelta:
    """How long from an order to a serving node: the 0.9-quantile of measured boots, or the policy's prior."""
    boots = [boot for key in keys for boot in market.boots_s.get(key, ())[-BOOTS_KEPT:]]
    if not boots:
        return policy.scaling.boot_prior
    return timedelta(seconds=quantile(boots, _LEAD_QUANTILE))


def margin(policy: Policy, memory: LawMemory, worth: float) -> float:
    """By how much to exceed the recent peak: the newsvendor's quantile of what was seen, 1 to 2.5.

    Args:
        worth: what a missed replica-second costs in units of what serving it costs; 9 gives the 0.9-quantile.
    """
    if not any(memory.growth):
        return policy.scaling.margin
    weights = list(memory.growth)
    prior = min(MARGIN_BUCKETS - 1, round((policy.scaling.margin - 1.0) / MARGIN_STEP))
    above = (
        2 * (1 - _share(worth)) * _PRIOR_WEIGHT
    )  # so that the prior's own quantile is the policy's margin
    weights[prior] += above
    weights[0] += _PRIOR_WEIGHT - above
    enough, so_far = _share(worth) * sum(weights), 0.0
    for bucket, weight in enumerate(weights):
        so_far += weight
        if so_far > enough - 1e-9:
            return 1.0 + bucket * MARGIN_STEP
    return 1.0 + (MARGIN_BUCKETS - 1) * MARGIN_STEP


def observe_demand(
    policy: Policy, memory: LawMemory, demand: float, lead: timedelta, now: datetime
) -> LawMemory:
    """Remember this demand, and learn from the peak set aside one lead ago how far it was outgrown."""
    scaling = policy.scaling
    length = scaling.peak_memory
    peaks = remember(memory.peaks, Level(now, demand), length, length / 120)
    memory = replace(memory, peaks=peaks)
    probe = memory.probe
    if probe is None:
        return replace(memory, probe=Probe(now, peaks[0].replicas, demand))
    probe = replace(probe, highest=max(probe.highest, demand))
    if now - probe.at < lead:
        return replace(memory, probe=probe)
    growth = memory.growth
    if probe.peak >= _LEAST_PEAK:
        fade = 0.5 ** ((now - probe.at) / (scaling.margin_memory / 2))
        growth = _faded(growth, fade, max(1.0, probe.highest / probe.peak))
    return replace(memory, growth=growth, probe=Probe(now, peaks[0].replicas, demand))


def _share(worth: float) -> float:
    return worth / (worth + 1)


def _faded(growth: tuple[float, ...], fade: float, ratio: float) -> tuple[float, ...]:
    bucket = min(MARGIN_BUCKETS - 1, ceil((ratio - 1.0) / MARGIN_STEP - 1e-9))
    old = growth or (0.0,) * MARGIN_BUCKETS
    return tuple(round(weight * fade + (index == bucket), 6) for index, weight in enumerate(old))
