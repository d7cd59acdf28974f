"""The passes of each model, in a task of its own: woken, isolated from the others, and wary of the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from autoscaler.balance.group import BalancerGroup
from autoscaler.balance.protocol import Affinity, Pool
from autoscaler.clock import Clock
from autoscaler.decide.readiness import readiness
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import SERVING
from autoscaler.errors import (
    AutoscalerError,
    BalancerUnavailable,
    CloudUnavailable,
    LeaseLost,
    StoreUnavailable,
)
from autoscaler.health import Health
from autoscaler.nodes.runner import NodeRunner
from autoscaler.policies import PolicyBook
from autoscaler.policy import Policy, Route
from autoscaler.reconcile import Reconciler
from autoscaler.serve.metrics import Metrics
from autoscaler.store.protocol import Store
from autoscaler.wakes import Wakes

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Passes:
    """Runs passes, and hands what they decided to the nodes.

    Attributes:
        clock_jump: how far the wall clock may move against the time since boot between two passes.
        ended: told after each pass, whatever became of it: a watchdog is fed by work, not by a timer.
    """

    store: Store
    balancers: BalancerGroup
    clock: Clock
    clock_jump: timedelta
    book: PolicyBook
    wakes: Wakes
    reconciler: Reconciler
    runner: NodeRunner
    metrics: Metrics
    health: Health
    ended: Callable[[], None]

    async def serve(self, model: ModelName, tasks: asyncio.TaskGroup) -> None:
        """One model's passes, for ever. A failure is logged when it changes; the other models go on."""
        trouble = ""
        wall, boot = self.clock.now(), self.clock.boot_s()
        while True:
            await self.wakes.wait(f"model {model}")
            started = self.clock.boot_s()
            wall, boot = self._watch_clock(model, wall, boot)
            try:
                await self._pass(model, tasks)
                trouble = ""
            except (CloudUnavailable, BalancerUnavailable, StoreUnavailable, LeaseLost) as exc:
                trouble = self._note_trouble(model, trouble, exc)
            except Exception as exc:
                # One model that throws for ever is isolated and visible.
                if str(exc) != trouble:
                    log.exception("pass_broken", model=model)
                trouble = str(exc)
                self.metrics.pass_failed(model, type(exc).__name__)
            if (left := self.balancers.patience_left(model)) is not None:
                self.wakes.once(f"model {model}", left)
            self.health.last_pass_s = self.clock.boot_s()
            self.metrics.pass_done(model, self.clock.boot_s() - started)
            self.ended()

    async def _pass(self, model: ModelName, tasks: asyncio.TaskGroup) -> None:
        policy = self.book.policies[model]
        try:
            await self._tell_balancers(policy)
        except BalancerUnavailable as exc:
            # Nothing can be registered now, but what should be rented can still be known.
            log.warning("pool_not_ensured", model=model, why=str(exc))
        outcome = await self.reconciler.reconcile(policy, self.clock.now())
        self.metrics.decided(policy, outcome.decision, outcome.plan)
        if outcome.launched:
            await self.runner.start_new(tasks)
        for release in outcome.plan.releases:
            self.runner.wake(release.node)

    def _watch_clock(self, model: ModelName, wall: datetime, boot: float) -> tuple[datetime, float]:
        now, boot_now = self.clock.now(), self.clock.boot_s()
        jump = (now - wall) - timedelta(seconds=boot_now - boot)
        if abs(jump) > self.clock_jump:
            log.error("clock_jumped", model=model, by_s=jump.total_seconds())
            self.reconciler.be_cautious(self.book.policies[model], now)
        return now, boot_now

    async def _tell_balancers(self, policy: Policy) -> None:
        boots_s = await self.store.boots(policy.name)
        fleet = await self.store.fleet(policy.name)
        ahead = readiness(policy, boots_s, fleet.nodes, self.clock.now())
        is_cold = not any(node.state in SERVING for node in fleet.nodes)
        pool = Pool(
            model=policy.name,
            aliases=policy.aliases,
            hold_requests=policy.hold.requests,
            hold_bytes=policy.hold.bytes,
            hold_time=policy.hold.time,
            retry_after=readiness(policy, boots_s, (), self.clock.now()).likely,
            ready_in=ahead.likely if is_cold else None,
            ready_soonest=ahead.soonest,
            sse_comments=policy.hold.sse_comments,
            affinity=_affinity(policy),
            max_model_len=policy.server.max_model_len,
            queue_in_engine=policy.hold.queue_in == "engine",
        )
        await self.balancers.ensure_pool(pool)

    def _note_trouble(self, model: ModelName, before: str, exc: AutoscalerError) -> str:
        text = f"{type(exc).__name__}: {exc}"
        if text != before:
            log.warning("pass_failed", model=model, why=text)
        self.metrics.pass_failed(model, type(exc).__name__)
        return text


def _affinity(policy: Policy) -> Affinity | None:
    if policy.route is not Route.AFFINITY:
        return None
    wanted = policy.affinity
    return Affinity(wanted.header, wanted.prompt_chars, wanted.bound)
