"""What a person sees of a model at a glance: one word for its state, what is coming and when, what the month will cost.

From what a pass thought; nothing here decides or guesses. Times are measured boots, the forecast says its own basis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from autoscaler.act import hourly
from autoscaler.decide.forecast import BOOTS_KEPT, quantile
from autoscaler.decide.hold import HOLD
from autoscaler.decide.limits import BOUNDS
from autoscaler.decide.readiness import Readiness, readiness
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import ZERO, Money, total
from autoscaler.domain.node import COMING, Node, State
from autoscaler.domain.offer import OfferKey
from autoscaler.domain.signals import FigureName
from autoscaler.period import left_of_month
from autoscaler.policy import Policy
from autoscaler.store.protocol import Ledger
from autoscaler.think import Inputs, Thought, on_paper

Json = dict[str, object]

OK, ZERO_NODES, BOOTING = "ok", "zero", "booting"
HELD, LIMIT, FAILING = "hold", "limit", "failing"
_MODES = {"no policy": "no policy", "retired": "retired", "paused": "paused", "shadow": "shadow"}
_DAY = timedelta(days=1)
_LIKELY = 0.9


def resting_state(mode: str, nodes: Sequence[Node]) -> str:
    """A model's word as the store alone tells it."""
    if mode in _MODES:
        return _MODES[mode]
    if any(node.state is State.READY for node in nodes):
        return OK
    return BOOTING if any(node.state in COMING for node in nodes) else ZERO_NODES


def state(mode: str, thought: Thought) -> tuple[str, str | None]:
    """A model's word, and why where that needs saying."""
    if mode in _MODES:
        return _MODES[mode], None
    decision, plan = thought.decision, thought.plan
    if thought.why_no_launch is not None:
        return FAILING, thought.why_no_launch
    if thought.refused:
        return LIMIT, thought.refused[0][1]
    binding = [note for note in plan.notes if " binds" in note]
    if plan.shortfall:
        return (LIMIT, binding[0]) if binding else (FAILING, "; ".join(plan.notes))
    if decision.binding == BOUNDS and decision.want > 0:
        return LIMIT, _bound_words(thought)
    if decision.binding == HOLD:
        return HELD, decision.reason
    return resting_state(mode, thought.fleet.nodes), None


def _bound_words(thought: Thought) -> str:
    rules = thought.decision.recommendations
    return next((rule.reason for rule in rules if rule.rule == BOUNDS), thought.decision.reason)


def glance(mode: str, thought: Thought, policy: Policy, now: datetime) -> Json:
    """The rest of a model's line."""
    word, why = state(mode, thought)
    boots = thought.market.boots_s
    coming = sorted(
        ((readiness(policy, boots, (node,), now), node) for node in thought.fleet.coming),
        key=lambda one: (one[0].usual, one[1].name),
    )
    memory = thought.memory
    attained = thought.history[-1].value(FigureName.TTFT_ATTAINED) if thought.history else None
    stands = thought.fleet.ready or thought.fleet.coming
    return {
        "state": word,
        "state_why": why,
        "attained": attained,
        "goal": policy.slo.goal,
        "coming": [_coming(node, left) for left, node in coming],
        "idle_since": memory.idle_since.isoformat() if memory.idle_since else None,
        "wakes": None if stands or policy.nodes.max == 0 else _wakes(thought, policy, now),
    }


def _coming(node: Node, left: Readiness) -> Json:
    return {
        "node": node.name,
        "type": node.offer.type,
        "location": node.offer.location,
        "state": node.state.value,
        **_seconds(left),
    }


def _wakes(thought: Thought, policy: Policy, now: datetime) -> Json:
    boots = thought.market.boots_s
    return {
        **_seconds(readiness(policy, boots, (), now)),
        "boots": sum(len(each) for each in boots.values()),
    }


def _seconds(left: Readiness) -> Json:
    return {
        "usual_s": round(left.usual.total_seconds(), 1),
        "likely_s": round(left.likely.total_seconds(), 1),
    }


# money


def forecast(ledger: Ledger, recent: Sequence[Node]) -> Json:
    """What the month will have cost at its end: what is spent, and the rest of it at the mean rate of the last day.

    Before there is a day to look back on, the rate is what runs now.

    Args:
        recent: every node that billed in the last two days, open ones included.
    """
    rate, basis = mean_rate(ledger, recent)
    left = left_of_month(ledger.at)
    return {
        "forecast_month_usd": f"{(ledger.spent_month() + rate.for_time(left)).usd:.4f}",
        "forecast_usd_per_hour": f"{rate.usd:.4f}",
        "forecast_basis": basis,
    }


def mean_rate(
    ledger: Ledger, recent: Sequence[Node], model: ModelName | None = None
) -> tuple[Money, str]:
    """USD per hour over the last day, of one model or of all; before there is such a day, what runs now."""
    now = ledger.at
    ours = [node for node in recent if model in (None, node.model)]
    began = min((node.sent_at for node in recent if node.sent_at), default=now)
    if now - began < _DAY:
        running = [n for n in ledger.nodes if n.may_bill and model in (None, n.model)]
        return hourly(running), "now"
    spent = total([_cost_since(node, now - _DAY, now) for node in ours])
    return spent * (Decimal(1) / 24), "day"


def _cost_since(node: Node, since: datetime, now: datetime) -> Money:
    if node.sent_at is None:
        return ZERO
    length = (node.gone_at or now) - max(node.sent_at, since)
    return node.price_per_hour.for_time(max(length, timedelta(0)))


# a plan


def plan_figures(inputs: Inputs, thought: Thought) -> Json:
    """A plan's figures: what stands, what will, and how long each launch's boot was measured to take."""
    paper = inputs.in_shadow
    before = on_paper(inputs).fleet if paper else inputs.fleet
    plan = thought.on_paper if paper and thought.on_paper is not None else thought.plan
    refused = {number for number, _ in thought.refused}
    launches = [one for number, one in enumerate(plan.launches) if number not in refused]
    leaving = {release.node for release in plan.releases}
    stands = [*before.ready, *before.coming]
    stay = [node for node in stands if node.name not in leaving]
    back = [node for node in before.nodes if node.name in plan.undrain]
    limit = inputs.policy.hourly_limit
    return {
        "on_paper": paper,
        "nodes_before": len(stands),
        "usd_per_hour_before": _usd(hourly(stands)),
        "nodes_after": len(stay) + len(back) + len(launches),
        "usd_per_hour_after": _usd(
            hourly([*stay, *back]) + total([one.price_per_hour for one in launches])
        ),
        "limit_usd_per_hour": None if limit is None else _usd(limit),
        "rents": [
            {
                "type": one.offer.type,
                "location": one.offer.location,
                "usd_per_hour": _usd(one.price_per_hour),
                "reason": one.reason,
                **_measured(thought.market.boots_s, one.offer, inputs.policy),
            }
            for one in launches
        ],
        "gives_back": [
            {
                "node": node.name,
                "type": node.offer.type,
                "location": node.offer.location,
                "usd_per_hour": _usd(node.price_per_hour),
                "reason": next(r.reason for r in plan.releases if r.node == node.name),
            }
            for node in before.nodes
            if node.name in leaving
        ],
        "takes_back": list(plan.undrain),
        "passes_over": [
            {
                "type": one.offer.type,
                "location": one.offer.location,
                "reason": one.reason,
                "possible": one.possible,
            }
            for one in plan.passed_over
        ],
        "notes": list(thought.plan.notes),
    }


def _measured(boots_s: Mapping[OfferKey, Sequence[float]], key: OfferKey, policy: Policy) -> Json:
    boots = list(boots_s.get(key, ()))[-BOOTS_KEPT:]
    prior = policy.scaling.boot_prior.total_seconds()
    return {"boots": len(boots), "boot_p90_s": quantile(boots, _LIKELY) if boots else prior}


def _usd(amount: Money) -> str:
    return f"{amount.usd:.4f}"
