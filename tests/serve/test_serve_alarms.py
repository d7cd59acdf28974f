"""The figures behind the alerts: what is counted, what is forgotten, and what is told while the store is away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from autoscaler.act import Limits
from autoscaler.clock import SystemClock
from autoscaler.cloud.protocol import Cloud
from autoscaler.cloud.watched import Outcome, WatchedCloud, outcome_of
from autoscaler.config import LimitSettings
from autoscaler.daemon import Daemon
from autoscaler.domain.ids import MachineId, ModelName
from autoscaler.domain.node import State
from autoscaler.errors import (
    AuthFailed,
    CloudUnavailable,
    EndpointMissing,
    Forbidden,
    HeldBack,
    NotFound,
    OutcomeUnknown,
    OutOfStock,
    PaymentRequired,
    QuotaExceeded,
    Rejected,
    SchemaError,
    StoreUnavailable,
)
from autoscaler.gauges import as_it_runs, gauges
from autoscaler.health import Health
from autoscaler.lag import LoopLag
from autoscaler.lease_keeping import keep
from autoscaler.market import MarketFeed
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.pki import AUTHORITY_LIFE, make_authority
from autoscaler.nodes.reach import PlainReach
from autoscaler.nodes.tls_reach import TlsReach
from autoscaler.policy import Policy
from autoscaler.serve.metrics import Metrics
from autoscaler.serve.scrape import scrape
from autoscaler.store.protocol import Ledger, ModelRecord
from autoscaler.wakes import Wakes
from tests.deploy.test_deploy_prometheus import MODEL, NOON, node, used

POLICY = Policy.model_validate({"schema": 1, "model": MODEL, "engine": "vllm", "mode": "active"})


class Shelf:
    """As much of a store as a scrape reads; it may be away."""

    def __init__(
        self, record: ModelRecord, nodes: Sequence[Any] = (), ledger: Ledger | None = None
    ) -> None:
        self.record_, self.nodes, self.is_away = record, tuple(nodes), False
        self.ledger_ = ledger

    async def ledger(self, now: datetime) -> Ledger:
        if self.is_away:
            raise StoreUnavailable("the disk is full")
        return self.ledger_ or Ledger(now, self.nodes)

    async def record(self, model: ModelName) -> ModelRecord:
        return self.record_


class At(SystemClock):
    """A clock that stands."""

    def now(self) -> datetime:
        return NOON


def daemon(shelf: Shelf, **parts: Any) -> SimpleNamespace:
    clock = At()
    return SimpleNamespace(**{
        "config": SimpleNamespace(timings=SimpleNamespace(reconcile=timedelta(seconds=15))),
        "clock": clock,
        "store": shelf,
        "metrics": used(),
        "market": MarketFeed(cast(Cloud, None), cast(Any, shelf), clock),
        "health": Health(project_checked=True, swept=True),
        "lag": LoopLag(clock),
        "usage": SimpleNamespace(last=None),
        "leases": SimpleNamespace(models={MODEL}),
        "reconciler": SimpleNamespace(
            last={}, limits=lambda: Limits(LimitSettings.model_validate({"usd_per_hour": 10}), {MODEL: POLICY})
        ),
        "book": SimpleNamespace(policies={MODEL: POLICY}),
        "runner": SimpleNamespace(overdue_drains=0, held=None),
        "balancers": SimpleNamespace(troubles=()),
        "reach": PlainReach(),
        **parts,
    })  # fmt: skip


async def figures(of: SimpleNamespace) -> dict[tuple[str, ...], float]:
    page = (await scrape(cast(Daemon, of))).decode()
    return {
        (sample.name.removeprefix("autoscaler_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_the_page_is_served_while_the_store_is_away_and_says_so() -> None:
    shelf = Shelf(
        ModelRecord(MODEL),
        [node(State.READY, "as1-0example-aaaaaaaaaaaaa-1-m", "http://127.0.0.1:1")],
    )
    there = daemon(shelf)
    before = await figures(there)

    shelf.is_away = True
    during = await figures(there)

    assert (before["store_failing",], during["store_failing",]) == (0, 1)
    assert during["hourly_cost_usd", MODEL] == before["hourly_cost_usd", MODEL] == 1.25
    assert during["mode", "active", MODEL] == 1
    assert during["limit_used_ratio", "(all)", "usd_per_hour"] == 0.125


async def test_the_end_of_the_authority_is_told_where_there_is_one() -> None:
    plain, tls = daemon(Shelf(ModelRecord(MODEL))), daemon(Shelf(ModelRecord(MODEL)))
    tls.reach = TlsReach(make_authority(NOON), At())

    none, told = await figures(plain), await figures(tls)

    assert math.isnan(none["node_authority_expiry_timestamp_seconds",])
    assert told["node_authority_expiry_timestamp_seconds",] == (NOON + AUTHORITY_LIFE).timestamp()


async def test_a_model_whose_policy_is_gone_is_told_of_no_more() -> None:
    there = daemon(Shelf(ModelRecord(MODEL)))
    assert ("last_pass_timestamp_seconds", MODEL) in await figures(there)

    there.book.policies = {}
    after = await figures(there)

    assert ("last_pass_timestamp_seconds", MODEL) not in after
    assert ("mode", "active", MODEL) not in after
    assert ("passes_total", MODEL) in after  # a counter stays: it did happen


async def test_a_pause_and_a_drain_are_told_with_their_ages() -> None:
    old = NOON - timedelta(hours=30)
    draining = node(State.DRAINING, "as1-0example-aaaaaaaaaaaaa-1-m", "http://127.0.0.1:1")
    shelf = Shelf(ModelRecord(MODEL, paused_by="anna", paused_at=old), [draining])

    found = await figures(daemon(shelf))

    assert found["paused_seconds", MODEL] == 30 * 3600
    assert found["mode", MODEL, "paused"] == 1
    assert found["oldest_draining_seconds",] == 0  # since NOON


async def test_launches_that_stop_one_model_are_told_apart_from_what_stops_all() -> None:
    thought = SimpleNamespace(why_no_launch="3 launches in a row failed alike")
    there = daemon(Shelf(ModelRecord(MODEL)))
    there.reconciler.last = {MODEL: thought}
    alone = await figures(there)

    there.health.want_payment("402", 0)
    together = await figures(there)

    told = ("launches_stopped", MODEL), ("launches_forbidden",), ("payment_required",)
    assert [alone[one] for one in told] == [1, 0, 0]
    assert [together[one] for one in told] == [0, 1, 1]


async def test_what_an_alert_counts_begins_at_zero() -> None:
    there = daemon(Shelf(ModelRecord(MODEL)), metrics=Metrics())

    found = await figures(there)

    for counted in (
        ("requests_cut_total", MODEL),
        ("balancer_disagreements_total", MODEL),
        ("host_key_mismatches_total",),
    ):
        assert found[counted] == 0


async def test_leases_that_are_not_held_and_a_fleet_that_is_are_told() -> None:
    there = daemon(Shelf(ModelRecord(MODEL)))
    there.leases.models, there.runner.held = set(), "5 of 8 nodes fail at once"
    there.usage.last = SimpleNamespace(differs=True, difference=0.07)

    found = await figures(there)

    assert found["leases_missing",] == found["condemnations_held",] == found["meters_differ",] == 1
    assert found["meters_difference_ratio",] == 0.07


async def test_each_limit_in_money_is_told_once_with_what_a_day_will_use_of_it() -> None:
    ready = node(State.READY, "as1-0example-aaaaaaaaaaaaa-1-m", "http://127.0.0.1:1")
    other = POLICY.model_copy(update={"model": "org/other"})
    own = Policy.model_validate(
        {"schema": 1, "model": MODEL, "engine": "vllm", "limits": {"usd_per_day": 20}}
    )
    limits = Limits(
        LimitSettings.model_validate({"usd_per_hour": 5, "usd_per_month": 100}),
        {MODEL: own, ModelName("org/other"): other},
    )
    at = datetime(2026, 11, 10, 6, tzinfo=UTC)
    later = Ledger(at, (ready,), closed_month={MODEL: ready.price_per_hour * 40})

    shelf = Shelf(ModelRecord(MODEL), ledger=later)

    found = await figures(daemon(shelf, reconciler=SimpleNamespace(last={}, limits=lambda: limits)))

    told = {key[1:] for key in found if key[0] == "limit_ahead_ratio"}
    assert told == {("(all)", "usd_per_hour"), ("(all)", "usd_per_month"), (MODEL, "usd_per_day")}
    assert len([g for g in gauges(limits, later, as_it_runs(limits, later)) if g.is_money]) == 3
    assert found["limit_used_ratio", "(all)", "usd_per_hour"] == pytest.approx(1.25 / 5)
    month = found["limit_ahead_ratio", "(all)", "usd_per_month"]
    assert month == pytest.approx(month_spent(later) + 1.25 * 24 / 100)
    day = found["limit_ahead_ratio", MODEL, "usd_per_day"]
    assert found["limit_used_ratio", MODEL, "usd_per_day"] < day
    assert day == pytest.approx(float(later.spent_today(MODEL).usd) / 20 + 1.25 * 18 / 20)


def month_spent(ledger: Ledger) -> float:
    return float(ledger.spent_month().usd) / 100


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - there is nothing to wait on but the state itself
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("exc", "outcome"),
    [
        (AuthFailed("401"), Outcome.KEY_REFUSED),
        (Forbidden("403"), Outcome.KEY_REFUSED),
        (HeldBack("pace"), Outcome.HELD_BACK),
        (CloudUnavailable("502"), Outcome.UNAVAILABLE),
        (OutcomeUnknown("lost"), Outcome.UNKNOWN),
        (OutOfStock("none"), Outcome.OUT_OF_STOCK),
        (QuotaExceeded("quota"), Outcome.OUT_OF_STOCK),
        (PaymentRequired("402"), Outcome.PAYMENT),
        (NotFound("404"), Outcome.NOT_FOUND),
        (EndpointMissing("501"), Outcome.REJECTED),
        (Rejected("400"), Outcome.REJECTED),
        (SchemaError("field"), Outcome.NOT_UNDERSTOOD),
        (ValueError("a bug"), Outcome.BROKEN),
    ],
)
def test_a_call_is_counted_by_what_came_of_it(exc: Exception, outcome: Outcome) -> None:
    assert outcome_of(exc) is outcome


async def test_a_watched_cloud_answers_and_fails_as_the_cloud_does() -> None:
    class Refusing:
        async def delete(self, machine_id: MachineId) -> None:
            raise AuthFailed("401")

        async def project_id(self) -> str:
            return "p"

    told: list[tuple[str, Outcome]] = []
    cloud = WatchedCloud(
        cast(Cloud, Refusing()), lambda call, outcome: told.append((call, outcome))
    )

    assert await cloud.project_id() == "p"
    with pytest.raises(AuthFailed):
        await cloud.delete(MachineId("m"))

    assert told == [("project_id", Outcome.OK), ("delete", Outcome.KEY_REFUSED)]


class Leaping(SystemClock):
    """A clock on which a wait is as long as the next number says."""

    def __init__(self, *waits: float) -> None:
        self.waits, self.at = list(waits), 0.0

    def boot_s(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        if not self.waits:
            await asyncio.Event().wait()
        self.at += self.waits.pop(0)


async def test_a_loop_that_was_blocked_is_told_for_a_minute() -> None:
    clock = Leaping(5.0, 12.5, *[5.01] * 10)
    lag = LoopLag(clock)
    async with running(lag.watch()):
        await until(lambda: not clock.waits)
        blocked = lag.longest_s
        clock.waits = [5.0] * 12
    async with running(lag.watch()):
        await until(lambda: not clock.waits)

    assert blocked == pytest.approx(7.5)
    assert lag.longest_s < 0.1


async def test_a_lease_that_cannot_be_written_is_the_stores_trouble_until_it_can() -> None:
    class Renewing:
        fails = True

        async def renew_all(self) -> list[ModelName]:
            if self.fails:
                raise StoreUnavailable("the disk is full")
            return []

    leases, health, wakes = Renewing(), Health(), Wakes()
    async with running(keep(cast(Leases, leases), wakes, timedelta(days=1), health)):
        wakes.now("leases")
        await until(lambda: health.store_trouble is not None)
        leases.fails = False
        wakes.now("leases")
        await until(lambda: health.store_trouble is None)
