"""A person's override laid over what the law decided: so many nodes for a while, with what it would be without it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from autoscaler.domain.decision import Decision, Recommendation, Verdict
from autoscaler.domain.node import Fleet
from autoscaler.domain.override import Override
from autoscaler.policy import NodeBounds, Policy
from autoscaler.quantity import counted

OVERRIDE = "override"


def ordered(decision: Decision, override: Override, fleet: Fleet) -> Decision:
    """Want the override's nodes. They are counted, whatever each of them carries.

    A person who says fewer has seen that figures are missing, so that does not hold their word up.
    """
    count, stand = override.nodes, len(fleet.ready) + len(fleet.coming)
    word = f"override by {override.by} until {clock(override.until, decision.at)}: {counted(count, 'node')}"
    without = f"without it {decision.want} wanted ({decision.binding}: {decision.reason})"
    rule = Recommendation(OVERRIDE, float(count), word, decision.at, (("nodes", float(count)),))
    return replace(
        decision,
        verdict=Verdict.OUT if stand < count else Verdict.IN if stand > count else Verdict.KEEP,
        want=count,
        need=0.0,
        binding=OVERRIDE,
        reason=f"{word}; {without}",
        recommendations=(*decision.recommendations, rule),
        counterfactuals=(f"the law takes over at {clock(override.until, decision.at)}",),
        rise=None,
        release_allowed=True,
        surge=False,
    )


def bounded(policy: Policy, override: Override) -> Policy:
    """The policy with the override's nodes as its least and its most."""
    return policy.model_copy(update={"nodes": NodeBounds(min=override.nodes, max=override.nodes)})


def clock(at: datetime, now: datetime) -> str:
    """An instant as a person says it: with its day where that is another one."""
    return f"{at:%H:%M %Z}" if at.date() == now.date() else f"{at:%d %b %H:%M %Z}"
