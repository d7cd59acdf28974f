"""One decision: run the rules in order, keep every reason, and remember what the next pass needs.

The order is the story: what is believed → what each rule asks for → what the window holds → how fast it may grow →
the bounds → zero and waking → whether anything may be given back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from autoscaler.decide import law, limits, stabilize
from autoscaler.decide.capacity import Yardstick, replica_capacity
from autoscaler.decide.counterfactual import counterfactuals
from autoscaler.decide.eligible import why_never
from autoscaler.decide.evidence import judge
from autoscaler.decide.forecast import lead_time, margin, observe_demand
from autoscaler.decide.hold import SLACK, Pass, hold, none_allowed
from autoscaler.decide.memory import LawMemory, Level, remember
from autoscaler.decide.override import ordered
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import Work, observed_work
from autoscaler.domain.decision import Decision, Recommendation, Rise, Verdict
from autoscaler.domain.ids import DecisionId
from autoscaler.domain.node import Fleet
from autoscaler.domain.offer import Market
from autoscaler.domain.override import Override
from autoscaler.domain.signals import Signals
from autoscaler.policy import Policy
from autoscaler.quantity import counted

ZERO, KEEP_ONE = "zero", "keep-one"
_WORTH_LEAST, _WORTH_MOST = 9.0, 33.0


def decide(
    policy: Policy,
    history: Sequence[Signals],
    fleet: Fleet,
    market: Market,
    now: datetime,
    *,
    decision_id: DecisionId,
    memory: LawMemory,
    profiles: Profiles | None = None,
    override: Override | None = None,
    explain: bool = True,
) -> tuple[Decision, LawMemory]:
    """Settle the capacity that a model should have now, with every reason. Pure.

    Args:
        history: signals, oldest first; the last is this pass's. `scaling.work_window` of them is enough: what must be
            remembered for longer is in `memory`.
        market: offers of the cloud; stock and back-off do not matter here, only prices and boot times.
        memory: what the last call returned; `LawMemory()` for a model never seen.
        profiles: tables of GPUs and models, the shipped ones when left out.
        override: a person's word that holds now. The law goes on beneath it and remembers its own wishes, so that it
            takes over without a jump when the override ends.
        explain: whether to say at what demand the answer changes; half of the time goes into that.
    """
    table = profiles or Profiles.load()
    decision, memory = _by_law(
        policy, history, fleet, market, now, decision_id, memory, table, explain
    )
    return (decision if override is None else ordered(decision, override, fleet)), memory


def _by_law(
    policy: Policy,
    history: Sequence[Signals],
    fleet: Fleet,
    market: Market,
    now: datetime,
    decision_id: DecisionId,
    memory: LawMemory,
    table: Profiles,
    explain: bool,
) -> tuple[Decision, LawMemory]:
    """What the rules want."""
    work = observed_work(policy, history)
    evidence = judge(policy, history, fleet, now)
    yardstick = Yardstick.of(policy, market, work, table, memory.reference)
    lead = _lead(policy, market, fleet, yardstick)
    memory = stabilize.begin_pass(policy, memory, evidence, fleet, lead, now)
    this = Pass(policy, evidence, fleet, yardstick, lead, now, decision_id)
    if policy.nodes.max == 0:
        return none_allowed(this, memory)
    if yardstick is None:
        return hold(this, memory, _why_nothing_fits(policy, market, work, table))
    memory = _in_units_of(yardstick, memory)
    if not evidence.has_demand:
        return hold(this, memory, "; ".join(evidence.missing))
    return _settle(this, memory, explain)


def _settle(this: Pass, memory: LawMemory, explain: bool) -> tuple[Decision, LawMemory]:
    """Decide on measured demand."""
    assert this.yardstick is not None
    here, memory = _situation(this, this.yardstick, memory)
    demand = here.demand or 0.0
    memory = limits.watch_surge(here, memory)
    memory = law.watch_goal(here, memory)
    surge = memory.surge_until is not None and this.now < memory.surge_until

    wishes = law.recommend(here, memory, demand)
    top = max(wishes, key=lambda wish: wish.replicas)
    length = stabilize.window(this.policy, this.lead)
    held = stabilize.stabilize(top, memory.asked, length, this.now)
    level = Level(this.now, top.replicas)
    memory = replace(memory, asked=remember(memory.asked, level, length, stabilize.grain(length)))

    bound = held or top
    stepped, memory = limits.step_limit(here, memory, bound, surge)
    bound = stepped or bound
    capped = limits.upper_bound(here, bound, this.yardstick.reference.replicas)
    bound = capped or bound
    last = _last_node(this, memory)
    bound = _apply_last_node(bound, last)
    least = law.minimum(here)
    if least is not None and bound.replicas + SLACK < least.replicas:
        bound = replace(least, replicas=bound.replicas)

    blockers = stabilize.why_no_release(this.policy, memory, this.evidence, this.lead, this.now)
    want = _whole(bound, last, memory, here, bool(blockers))
    otherwise: tuple[str, ...] = ()
    rise: Rise | None = None
    if explain:
        otherwise, rise = counterfactuals(
            here, memory, want, bound, blockers, this.yardstick, length
        )
    rules = [*wishes, *(rule for rule in (held, stepped, capped, last, least) if rule is not None)]
    verdict = _verdict(this, bound.replicas, want, not blockers)
    decision = Decision(
        id=this.id,
        model=this.policy.name,
        at=this.now,
        verdict=verdict,
        demand=round(demand, 4),
        raw=round(top.replicas, 4),
        want=want,
        have=round(here.have, 4),
        ready=round(here.ready, 4),
        binding=bound.rule,
        reason=_reason(here, want, bound, verdict, blockers),
        recommendations=tuple(rules),
        counterfactuals=otherwise,
        release_allowed=not blockers,
        surge=surge,
        reference=this.yardstick.reference_type,
        need=round(bound.replicas, 6),
        rise=rise,
    )
    return decision, replace(memory, need=decision.need, want=want)


def _situation(
    this: Pass, yardstick: Yardstick, memory: LawMemory
) -> tuple[law.Situation, LawMemory]:
    reference = yardstick.reference
    demand = law.measured_demand(this.evidence, reference.requests_per_s, reference.concurrency)
    demand = 0.0 if demand is None else demand
    memory = observe_demand(this.policy, memory, demand, this.lead, this.now)
    goal = this.policy.slo.goal
    worth = min(_WORTH_MOST, max(_WORTH_LEAST, goal / (1 - goal) / 2))
    coming = this.fleet.coming
    here = law.Situation(
        policy=this.policy,
        evidence=this.evidence,
        now=this.now,
        demand=demand,
        rate=reference.requests_per_s,
        ready=this.ready,
        coming=this.coming,
        have=this.have,
        coming_for=max((this.now - node.created_at for node in coming), default=timedelta(0)),
        lead=this.lead,
        margin=margin(this.policy, memory, worth),
    )
    return here, memory


def _last_node(this: Pass, memory: LawMemory) -> Recommendation | None:
    """The rules between 0 and 1: wake at once, keep the last node until it has been idle for long enough."""
    policy, evidence, now = this.policy, this.evidence, this.now
    if not evidence.missing and stabilize.may_go_to_zero(
        policy, memory, this.fleet, this.lead, now
    ):
        idle_s = (now - (memory.idle_since or now)).total_seconds()
        return Recommendation(ZERO, 0.0, f"nothing came and nothing ran for {idle_s:.0f} s", now)
    if not this.fleet.ready and not this.fleet.coming:
        if evidence.something_came and policy.nodes.min == 0:
            held = evidence.held
            came = f"{counted(held, 'request')} held" if held else "requests arrive"
            return Recommendation(law.WAKE, 1.0, f"{came} and no node serves", now)
        return None
    if policy.nodes.min == 0:
        due = stabilize.zero_at(policy, memory, this.lead)
        rest = "requests still come" if due is None else f"it may go at {due:%H:%M:%S}"
        return Recommendation(KEEP_ONE, 1.0, f"the last node stays until it is idle: {rest}", now)
    return None


def _apply_last_node(bound: Recommendation, last: Recommendation | None) -> Recommendation:
    """Zero beats every other rule; the others only say that one node is the least."""
    if last is None:
        return bound
    if last.rule == ZERO:
        return last
    return replace(last, replicas=bound.replicas) if bound.replicas <= SLACK else bound


def _whole(
    bound: Recommendation,
    last: Recommendation | None,
    memory: LawMemory,
    here: law.Situation,
    is_blocked: bool,
) -> int:
    """Round the need to whole replicas, with the slack that keeps it from flapping about a whole number."""
    least = max(0, math.ceil(bound.replicas - SLACK))
    most = max(least, math.ceil(bound.replicas + SLACK))
    if last is not None and last.rule == ZERO:
        least = most = 0
    elif last is not None:
        least, most = max(1, least), max(1, most)
    least = max(least, min(here.policy.nodes.min, here.policy.nodes.max))
    before = memory.want if memory.want is not None else least
    stands = math.ceil(here.ready + here.coming - SLACK)
    if is_blocked:
        return max(least, min(before, stands))
    return max(least, min(before, most))


def _verdict(this: Pass, need: float, want: int, may_release: bool) -> Verdict:
    stands = this.ready + this.coming
    nodes = len(this.fleet.ready) + len(this.fleet.coming)
    if stands < need - SLACK or (want > 0 and nodes == 0) or nodes < this.policy.nodes.min:
        return Verdict.OUT
    least = min(
        (this.units([node]) for node in (*this.fleet.ready, *this.fleet.coming)), default=math.inf
    )
    spare = stands - least >= need + SLACK or want == 0
    if not (spare and nodes > max(this.policy.nodes.min, min(want, 1))):
        return Verdict.KEEP
    return Verdict.IN if may_release else Verdict.HOLD


def _reason(
    here: law.Situation,
    want: int,
    bound: Recommendation,
    verdict: Verdict,
    blockers: Sequence[tuple[str, datetime | None]],
) -> str:
    text = f"{want} wanted ({bound.rule}): {bound.reason}. {here.ready:.2f} serve, {here.coming:.2f} on their way"
    if verdict is Verdict.HOLD:
        text += f". Nothing is given back: {'; '.join(reason for reason, _ in blockers)}"
    return text


def _lead(policy: Policy, market: Market, fleet: Fleet, yardstick: Yardstick | None) -> timedelta:
    """The boot time to plan with: measured on offers that can serve this model."""
    if yardstick is None:
        return policy.scaling.boot_prior
    fit = [key for key, capacity in yardstick.capacities.items() if capacity.fits]
    return lead_time(policy, market, fit)


def _in_units_of(yardstick: Yardstick, memory: LawMemory) -> LawMemory:
    """Count the memory in today's reference offer, should it be another than before."""
    if memory.reference == yardstick.reference_type:
        return memory
    old = next(
        (
            capacity
            for key, capacity in sorted(yardstick.capacities.items())
            if key.type == memory.reference and capacity.fits
        ),
        None,
    )
    factor = 1.0 if old is None else old.requests_per_s / yardstick.reference.requests_per_s
    return memory.rescaled(factor, yardstick.reference_type)


def _why_nothing_fits(policy: Policy, market: Market, work: Work, profiles: Profiles) -> str:
    if not market.offers:
        return "the cloud lists no offers"
    reasons = sorted(
        {
            why_never(policy, offer, replica_capacity(policy, offer, work, profiles)) or ""
            for offer in market.offers
        }
    )
    return f"no offer can serve this model: {'; '.join(reasons[:3])}"
