"""What would become of a rise in demand: the machines that placement would choose, their price, and what limits say.

The threshold is the law's own (`decide/counterfactual.py`); placement and limits are asked as a pass asks them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoscaler.act import drafts, hourly
from autoscaler.decide.placement import PlacementLimits, place
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import observed_work
from autoscaler.domain.decision import Decision, Rise, Verdict
from autoscaler.domain.money import Money
from autoscaler.domain.node import COMING, SERVING, Node
from autoscaler.policy import Mode, Policy
from autoscaler.think import Inputs, on_paper


@dataclass(frozen=True, slots=True)
class Risen:
    """How things would stand above the threshold.

    Attributes:
        nodes, price_per_hour: all that would serve or boot then, limits left aside.
        why_not: why it would not be carried out, or not all of it; None when it would.
    """

    rise: Rise
    nodes: int
    price_per_hour: Money
    why_not: str | None

    def __str__(self) -> str:
        if self.why_not is None:
            count = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
            return f"{self.rise.text}: {count}, {self.price_per_hour}/h"
        return f"{self.rise.text}, but {self.why_not}"


def risen(inputs: Inputs, decision: Decision, profiles: Profiles) -> Risen | None:
    """Say what would follow if demand rose above the decision's threshold now; None when no demand asks for more."""
    rise = decision.rise
    if rise is None:
        return None
    if inputs.in_shadow:
        inputs = on_paper(inputs)
    more = replace(
        decision, want=rise.to, need=rise.need, verdict=Verdict.OUT, release_allowed=False
    )
    plan = place(
        _without_limit(inputs.policy),
        more,
        inputs.fleet,
        inputs.market,
        PlacementLimits(),
        inputs.now,
        profiles,
        observed_work(inputs.policy, inputs.history),
    )
    new = drafts(plan, inputs.policy, inputs.now)
    stand = _standing(inputs, plan.undrain)
    refused = inputs.limits.admit(inputs.ledger, new).refused
    why = inputs.why_no_launch if new else None
    if why is not None:
        why = f"nothing may be rented: {why}"
    elif refused:
        why = f"a limit then says no: {refused[0][1]}"
    elif plan.shortfall:
        why = f"what can be rented now does not reach that: {'; '.join(plan.notes)}"
    elif _is_stopped(inputs):
        why = "nothing is rented while it is paused or retired"
    return Risen(rise, len(stand) + len(new), hourly((*stand, *new)), why)


def _without_limit(policy: Policy) -> Policy:
    """The policy with no bound on money: limits are asked afterwards, so that they say no in their own words."""
    limits = policy.limits.model_copy(update={"usd_per_hour": None})
    return policy.model_copy(update={"limit": None, "limits": limits})


def _standing(inputs: Inputs, taken_back: tuple[str, ...]) -> list[Node]:
    return [
        node
        for node in inputs.fleet.nodes
        if node.state in SERVING | COMING or node.name in taken_back
    ]


def _is_stopped(inputs: Inputs) -> bool:
    paused = inputs.record.paused_by is not None or inputs.policy.mode is Mode.PAUSED
    return paused or inputs.is_retired


def with_rise(decision: Decision, found: Risen | None) -> Decision:
    """The decision with what would become of a rise in its own words."""
    if found is None:
        return decision
    said = tuple(
        str(found) if text == found.rise.text else text for text in decision.counterfactuals
    )
    return replace(decision, counterfactuals=said)
