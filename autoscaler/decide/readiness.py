"""When a model that has no node will have one: what a client is told to wait, and whether waiting is any use.

From what this daemon has measured: order to serving node, per offer. A boot that is under way has used up a part of its
time; one that outlasts every boot measured so far is expected to take a quarter longer than it already has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoscaler.decide.forecast import quantile
from autoscaler.domain.node import COMING, Node
from autoscaler.domain.offer import OfferKey
from autoscaler.policy import Policy

_LIKELY = 0.9
_SOONEST = 0.1
_USUAL = 0.5
# Without a measured boot the policy's prior stands in for the usual one; the fastest may take half of it.
_SOONEST_OF_PRIOR = 0.5
_OVERDUE = 0.25


@dataclass(frozen=True, slots=True)
class Readiness:
    """From now until the first node serves.

    Attributes:
        likely: nine of ten boots take no longer.
        soonest: one of ten is faster; a request that cannot wait this long waits in vain.
        usual: half of them are faster: what a person is told.
    """

    likely: timedelta
    soonest: timedelta
    usual: timedelta


def readiness(
    policy: Policy,
    boots_s: Mapping[OfferKey, Sequence[float]],
    nodes: Sequence[Node],
    now: datetime,
) -> Readiness:
    """Estimate for a model without a node: the earliest of those that boot, else of one ordered now.

    Args:
        boots_s: measured boots of this model, in seconds, by offer.
        nodes: the model's nodes, in any state.
    """
    everywhere = [boot for boots in boots_s.values() for boot in boots]
    coming = [node for node in nodes if node.state in COMING]
    if not coming:
        return _left(policy, everywhere, timedelta(0))
    each = [
        _left(
            policy, boots_s.get(node.offer) or everywhere, max(timedelta(0), now - node.created_at)
        )
        for node in coming
    ]
    return Readiness(
        min(one.likely for one in each),
        min(one.soonest for one in each),
        min(one.usual for one in each),
    )


def _left(policy: Policy, boots_s: Sequence[float], age: timedelta) -> Readiness:
    """What is left of a boot of this age, given how long those took that were not over by then."""
    age_s = age.total_seconds()
    if not boots_s:
        prior_s = policy.scaling.boot_prior.total_seconds()
        likely_s, soonest_s = prior_s - age_s, prior_s * _SOONEST_OF_PRIOR - age_s
        usual_s = likely_s
    else:
        longer = [boot for boot in boots_s if boot > age_s] or [age_s]
        likely_s, soonest_s, usual_s = (
            quantile(longer, share) - age_s for share in (_LIKELY, _SOONEST, _USUAL)
        )
    if likely_s <= 0:
        overdue = timedelta(seconds=max(1.0, age_s * _OVERDUE))
        return Readiness(overdue, timedelta(0), overdue)
    return Readiness(
        timedelta(seconds=likely_s),
        timedelta(seconds=max(0.0, soonest_s)),
        timedelta(seconds=max(0.0, usual_s)),
    )
