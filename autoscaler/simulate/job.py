"""What a backtest is to run: a policy, requests, a market, and what is taken for in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from autoscaler.config import LimitSettings
from autoscaler.decide.capacity import excluded
from autoscaler.decide.decision import decide
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.offer import Offer
from autoscaler.errors import ConfigError
from autoscaler.policy import Mode, Policy
from autoscaler.simulate.market import Market
from autoscaler.simulate.physics import ServerPhysics, ServerTable, server_physics
from autoscaler.simulate.server import Replica
from autoscaler.think import Rules
from autoscaler.traces.request import TracedRequest

_MANY = 1_000_000
UNLIMITED = LimitSettings(nodes=_MANY, launches_per_window=_MANY, same_failure_limit=_MANY)


def _ours() -> Rules:
    """The daemon's own law, which need not say at what demand each of its answers would change."""
    return Rules(decide=partial(decide, explain=False))


@dataclass(frozen=True, slots=True)
class Aim:
    """When a request counts as in time. The law is not told of it: it has the policy's own goal.

    Attributes:
        goal: the share of requests that should be.
        ttft_s, ttft_per_prompt_token_s: the most to its first token.
        itl_s: the most between its tokens, on average; None sets no bound.
    """

    goal: float = 0.95
    ttft_s: float = 2.0
    ttft_per_prompt_token_s: float = 0.0
    itl_s: float | None = None

    @classmethod
    def of(cls, policy: Policy) -> Aim:
        """The policy's own goal."""
        slo = policy.slo
        itl_s = None if slo.itl is None else slo.itl.total_seconds()
        return cls(slo.goal, slo.ttft.total_seconds(), 0.0, itl_s)


@dataclass(frozen=True, slots=True)
class Job:
    """One backtest.

    Attributes:
        requests: in the order of their arrival.
        length_s: the backtest goes on for at least so long, whether or not requests come.
        limits: over all models; the default sets none but the policy's own.
        physics: what a replica does, by VM type. `physics_of` makes it.
        reconcile_s: a pass is made so often, and out of turn as the daemon makes them.
        rules: what a pass thinks with; another law stands in here for comparison.
        replica: makes a model server.
    """

    policy: Policy
    requests: Iterable[TracedRequest]
    market: Market
    physics: Mapping[str, ServerPhysics]
    length_s: float = 0.0
    aim: Aim = field(default_factory=Aim)
    limits: LimitSettings = UNLIMITED
    reconcile_s: float = 15.0
    rules: Rules = field(default_factory=_ours)
    replica: Callable[[ServerPhysics], Replica] = Replica


def job_of(
    policy: Policy,
    requests: Iterable[TracedRequest],
    market: Market,
    *,
    length_s: float = 0.0,
    aim: Aim | None = None,
    limits: LimitSettings | None = None,
    reconcile_s: float = 15.0,
) -> Job:
    """A backtest of the daemon's own law, by the server model that ships with the package.

    Raises:
        ConfigError: the server model knows no machine that the policy allows.
    """
    physics, offers = physics_of(policy, market.offers)
    job = Job(
        policy=policy.model_copy(update={"mode": Mode.ACTIVE}),
        requests=requests,
        market=replace(market, offers=offers),
        physics=physics,
        length_s=length_s,
        aim=aim or Aim.of(policy),
        reconcile_s=reconcile_s,
    )
    return job if limits is None else replace(job, limits=limits)


def physics_of(
    policy: Policy, offers: Iterable[Offer], table: ServerTable | None = None
) -> tuple[dict[str, ServerPhysics], tuple[Offer, ...]]:
    """What a replica of this model does on each VM type, and the offers, those without an answer marked unrentable.

    Raises:
        ConfigError: there is no answer for any that the policy allows.
    """
    facts = Profiles.load().facts(policy)
    if facts is None:
        raise ConfigError(
            f"nothing is known of the size of {policy.server.weights or policy.model}: add [facts] with params_b, "
            "layers, hidden, kv_heads and head_dim to the policy"
        )
    found: dict[str, ServerPhysics] = {}
    kept, reasons = [], {}
    for offer in offers:
        if excluded(policy, offer) is not None or offer.gpus < policy.hardware.tensor_parallel:
            kept.append(offer)
            continue
        try:
            if offer.gpu is None:
                raise ConfigError("there is no server model of a machine without a GPU")
            found[offer.key.type] = server_physics(
                facts,
                offer.gpu,
                policy.hardware.tensor_parallel,
                max_num_seqs=policy.server.max_num_seqs,
                max_model_len=policy.server.max_model_len,
                table=table or ServerTable.load(),
            )
            kept.append(offer)
        except ConfigError as exc:
            reasons[offer.key.type] = str(exc)
            kept.append(replace(offer, unrentable=offer.unrentable or f"backtest: {exc}"))
    if not found:
        whys = "; ".join(f"{name}: {why}" for name, why in sorted(reasons.items())[:3])
        why = whys or "the policy allows none of the offers (hardware.types, tensor_parallel)"
        raise ConfigError(f"no machine to run {policy.model} on: {why}")
    return found, tuple(kept)
