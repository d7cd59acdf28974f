"""A decision and its plan in words that a person reads at night, and as plain values for programs."""

from __future__ import annotations

from autoscaler.domain.decision import Decision
from autoscaler.domain.plan import Plan


def explain_lines(decision: Decision, plan: Plan | None = None) -> list[str]:
    """Lines of text, the answer first, then every rule, then what would change it, then the plan."""
    demand = "unknown" if decision.demand is None else f"{decision.demand:.2f}"
    lines = [
        f"{decision.model} at {decision.at:%Y-%m-%d %H:%M:%S %Z}: {decision.verdict}",
        f"  {decision.reason}",
        f"  demand {demand}, ready {decision.ready:.2f}, all that bills {decision.have:.2f} "
        f"(in replicas of {decision.reference or 'no known offer'})",
        "rules:",
    ]
    for rule in decision.recommendations:
        mark = "→" if rule.rule == decision.binding else " "
        lines.append(f"  {mark} {rule.rule:<10} {rule.replicas:7.2f}  {rule.reason}")
    if decision.counterfactuals:
        lines.append("otherwise:")
        lines += [f"    {text}" for text in decision.counterfactuals]
    return lines if plan is None else lines + _plan_lines(plan)


def _plan_lines(plan: Plan) -> list[str]:
    price = "" if plan.price_per_hour is None else f", {plan.price_per_hour} per hour in all"
    lines = [f"plan: {'nothing to do' if plan.changes_nothing else 'changes'}{price}"]
    lines += [
        f"  + rent {one.offer} at {one.price_per_hour} per hour: {one.reason}"
        for one in plan.launches
    ]
    lines += [f"  ↺ take back {name} from its drain" for name in plan.undrain]
    lines += [f"  - give back {one.node}: {one.reason}" for one in plan.releases]
    lines += [f"    keep {name}" for name in plan.keeps]
    if plan.shortfall:
        lines.append(f"  ! {plan.shortfall:.2f} replicas short")
    lines += [f"  ! {note}" for note in plan.notes]
    if plan.passed_over:
        lines.append("passed over:")
        lines += [f"    {one.offer}: {one.reason}" for one in plan.passed_over]
    return lines


def explain_json(decision: Decision, plan: Plan | None = None) -> dict[str, object]:
    """The same as values that JSON can carry; money is text, since it is exact."""
    explained: dict[str, object] = {
        "id": decision.id,
        "model": decision.model,
        "at": decision.at.isoformat(),
        "verdict": str(decision.verdict),
        "want": decision.want,
        "need": decision.need,
        "have": decision.have,
        "ready": decision.ready,
        "demand": decision.demand,
        "raw": decision.raw,
        "binding": decision.binding,
        "reason": decision.reason,
        "release_allowed": decision.release_allowed,
        "surge": decision.surge,
        "reference": decision.reference,
        "rules": [
            {
                "rule": rule.rule,
                "replicas": rule.replicas,
                "reason": rule.reason,
                "inputs": dict(rule.inputs),
            }
            for rule in decision.recommendations
        ],
        "counterfactuals": list(decision.counterfactuals),
    }
    if plan is not None:
        explained["plan"] = _plan_json(plan)
    return explained


def _plan_json(plan: Plan) -> dict[str, object]:
    return {
        "launches": [
            {
                "offer": str(one.offer),
                "price_usd_per_hour": str(one.price_per_hour.usd),
                "units": one.units,
                "replicas": one.replicas,
                "tensor_parallel": one.tensor_parallel,
                "concurrency": one.concurrency,
                "reason": one.reason,
            }
            for one in plan.launches
        ],
        "releases": [{"node": one.node, "reason": one.reason} for one in plan.releases],
        "keeps": list(plan.keeps),
        "undrain": list(plan.undrain),
        "passed_over": [
            {"offer": str(one.offer), "reason": one.reason} for one in plan.passed_over
        ],
        "shortfall": plan.shortfall,
        "price_usd_per_hour": None if plan.price_per_hour is None else str(plan.price_per_hour.usd),
        "notes": list(plan.notes),
    }
