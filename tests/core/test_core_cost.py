"""What everything costs: forecasts of when each limit bites, the screen, and our meter against the cloud's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.act import Limits, hourly
from autoscaler.cli.connection import screen_lines
from autoscaler.cli.cost import cost_tables
from autoscaler.cli.screen import Screen
from autoscaler.cloud.protocol import UsageLine
from autoscaler.config import LimitSettings
from autoscaler.domain.ids import ModelName
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.errors import EndpointMissing
from autoscaler.gauges import Gauge, Outlook, gauges
from autoscaler.serve.cost import cost_view
from autoscaler.store.protocol import Ledger
from autoscaler.store.sqlite import SqliteStore
from autoscaler.usage_check import USAGE, UsageCheck, reconcile_day
from tests.nodes.life_parts import (
    MODEL,
    NOON,
    AirCloud,
    HandClock,
    intent_id,
    node,
    offer,
    open_store,
    policy,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
YESTERDAY = (NOON - DAY).date()
OTHER = ModelName("mistral")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = open_store(tmp_path)
    yield made
    await made.close()


def limits(overall: dict[str, object] | None = None, **own: object) -> Limits:
    settings = LimitSettings.model_validate({"nodes": 50} | (overall or {}))
    policies = {MODEL: policy(**{"nodes": {"max": 20}, **own}), OTHER: policy(model=OTHER)}
    return Limits(settings, policies)


def running(count: int, usd: str = "2", **changes: object) -> tuple[Node, ...]:
    return tuple(
        node(
            State.READY,
            intent=intent_id(n),
            price_per_hour=Money.of(usd),
            **{"sent_at": NOON, **changes},
        )
        for n in range(count)
    )


def gauged(
    judged: Limits, books: Ledger, cheapest: str = "0", model: ModelName | None = None
) -> dict[str, Gauge]:
    def rate(whose: ModelName | None) -> Money:
        return hourly([n for n in books.nodes if whose in (None, n.model)])

    found = gauges(judged, books, Outlook(rate, Money.of(cheapest)))
    return {each.key: each for each in found if each.model == model}


def test_a_days_limit_bites_when_spending_as_now_meets_what_is_spoken_for() -> None:
    """Two at 2/h: 2 for their drain, 1 for a new one's hour; 4/h from noon on leave 20 − 3 after 4.25 h."""
    books = Ledger(NOON, running(2))

    found = gauged(limits({"usd_per_day": 20}), books, cheapest="1")["usd_per_day"]

    assert found.bites_at == NOON + 4.25 * HOUR
    assert found.reached_at == NOON + 5 * HOUR
    assert gauged(limits({"usd_per_day": 60}), books)["usd_per_day"].bites_at is None


def test_a_months_limit_of_a_model_goes_by_that_model_alone() -> None:
    theirs = running(9, model=OTHER)
    books = Ledger(NOON, (*running(1, "1"), *theirs), closed_month={OTHER: Money.of(900)})

    found = gauged(limits(limits={"usd_per_month": 101}), books, model=MODEL)["usd_per_month"]

    assert (found.used, found.most) == (ZERO.usd, Money.of(101).usd)
    assert found.bites_at == NOON + 100.5 * HOUR


def test_what_is_full_bites_now_and_says_why() -> None:
    judged = replace(
        limits(
            {"usd_per_hour": 5, "nodes": 2, "gpus": 2, "launches_per_window": 2},
            limits={"on_nodes": "drain-to-min"},
            nodes={"max": 2},
        ),
        gpus={"l40s-48gb.1x": 1},
    )
    launches = ((MODEL, NOON), (MODEL, NOON))
    failed = tuple(
        replace(n, state=State.GONE, failure="script: no", ready_at=None) for n in running(3)
    )
    books = Ledger(NOON, running(2), launches=launches, ended=failed)

    every, own = gauged(judged, books, cheapest="2"), gauged(judged, books, model=MODEL)

    assert every["usd_per_hour"].why == "$4.00/h of $5.00/h leave no room for another VM"
    for key in ("usd_per_hour", "nodes", "gpus", "launches"):
        assert every[key].bites_at == NOON, key
    assert every["failures"].used == 0  # what serves since was launched later
    assert (own["nodes"].bites_at, own["nodes"].action) == (NOON, "drain-to-min")
    assert own["launches"].bites_at is None


amounts = st.decimals("0.1", "30", places=1).map(Money)


@given(
    prices=st.lists(amounts, max_size=4),
    spent=st.integers(0, 40),
    most=st.integers(1, 90),
    cheapest=amounts,
    at_h=st.floats(0, 22),
)
def test_a_forecast_is_what_the_last_look_will_say(
    prices: Sequence[Money], spent: int, most: int, cheapest: Money, at_h: float
) -> None:
    """Before the moment that is forecast a VM of the cheapest kind is admitted, after it none is."""
    at = NOON.replace(hour=0) + at_h * HOUR
    rows = tuple(
        replace(n, price_per_hour=price) for n, price in zip(running(4), prices, strict=False)
    )
    judged = limits({"usd_per_day": most})
    books = Ledger(at, tuple(replace(n, sent_at=at) for n in rows), {MODEL: Money.of(spent)})
    found = gauged(judged, books, cheapest=str(cheapest.usd))["usd_per_day"]
    wanted = node(intent=intent_id(99), price_per_hour=cheapest)

    def is_admitted(when: datetime) -> bool:
        return judged.why_not(replace(books, at=when), (), wanted) is None

    midnight = (at + DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    second = timedelta(seconds=1)
    if found.bites_at is None:
        assert all(is_admitted(at + (midnight - at) * part) for part in (0, 0.3, 0.6, 0.9))
        return
    assert not is_admitted(min(found.bites_at + second, midnight - second))
    assert found.bites_at == at or is_admitted(found.bites_at - second)


# the view and the screen


async def filled(store: SqliteStore) -> dict[str, Any]:
    """One that runs, one that ended today, one yesterday."""
    lease = await store.acquire(MODEL, "daemon-1", 0.0)
    assert lease is not None
    gone = node(
        State.GONE,
        intent=intent_id(7),
        sent_at=NOON - 3 * HOUR,
        ready_at=NOON - 2 * HOUR,
        unregistered_at=NOON - HOUR,
        gone_at=NOON - HOUR,
        reason="proven absent",
    )
    early = node(
        State.GONE, intent=intent_id(8), sent_at=NOON - 30 * HOUR, gone_at=NOON - 26 * HOUR
    )
    for row in (*running(1, "1.25", sent_at=NOON - HOUR), gone, early):
        event = NodeEvent(NOON, "made", MODEL, row.name, row.state, "test", "test")
        open_row = replace(row, state=State.TERMINATING)
        await store.insert(lease, open_row, event)
        await store.advance(lease, open_row, row, event)
    judged = limits({"usd_per_hour": 12, "usd_per_month": 900}, limit="$4/h")
    return await cost_view(store, judged, (offer(),), NOON)


async def test_the_view_adds_up_and_gives_receipts(store: SqliteStore) -> None:
    view = await filled(store)

    every = view["all"]
    assert every["usd_per_hour"] == "1.2500"
    assert every["spent_today_usd"] == "3.7500"  # two hours of one, one of the other
    assert every["spent_month_usd"] == "8.7500"
    assert every["forecast_basis"] == "day"  # what was spent within 24 h: 3.75
    assert every["forecast_today_usd"] == "5.6250"
    newest = view["receipts"][0]
    assert (newest["hours"], newest["cost_usd"], newest["served_s"]) == (2.0, "2.5000", 3600.0)
    assert [r["until"] for r in view["receipts"]] == sorted(
        (r["until"] for r in view["receipts"]), reverse=True
    )
    assert {(g["model"], g["limit"]) for g in view["limits"]} >= {
        (None, "usd_per_hour"),
        (None, "usd_per_month"),
        (MODEL, "usd_per_hour"),
        (MODEL, "nodes"),
    }


async def test_the_screen_fits_80_columns_and_says_when_a_limit_bites(store: SqliteStore) -> None:
    view = await filled(store)
    view["models"][0]["model"] = "an-owner-with-a-long-name/" + "model-" * 9
    view["limits"][1] |= {
        "bites_at": (NOON + 50 * HOUR).isoformat(),
        "reached_at": (NOON + 60 * HOUR).isoformat(),
    }
    view["usage"] = {"differs": True, "words": "on 2026-03-01 the cloud metered $9.00 " * 3}

    lines = [
        line.plain
        for table in cost_tables(view, 5, NOON)
        for line in screen_lines(table, Screen(80))
    ]

    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "today $3.75, $5.62 by midnight UTC" in text
    assert "in 2d (04 Mar 14:00); used up in 2d" in text
    assert "! on 2026-03-01 the cloud metered $9.00" in text
    assert any(line.startswith("03-02 11:00") for line in lines)


# our meter and the cloud's


def line(usd: str | None, day: date = YESTERDAY, kind: str = "l40s-48gb.1x") -> UsageLine:
    cost = None if usd is None else Money.of(usd)
    return UsageLine(day.isoformat(), kind, "gpu-hours", 1.0, cost)


def yesterdays(hours: float, usd: str = "2") -> Node:
    began = NOON.replace(hour=0) - DAY
    return node(
        State.GONE,
        intent=intent_id(3),
        price_per_hour=Money.of(usd),
        sent_at=began,
        gone_at=began + hours * HOUR,
    )


@pytest.mark.parametrize(
    ("lines", "differs"),
    [
        ([line("20")], False),
        ([line("19"), line("0.34", kind="persistent-ssd")], False),
        ([line("21.1")], True),
        ([line("18.9")], True),
        ([line("20"), line("99", day=NOON.date())], False),  # another day
        ([line("20"), line(None, kind="h100.1x")], True),  # it has no price
        ([], True),
    ],
)
def test_a_difference_of_more_than_a_twentieth_is_an_alarm(
    lines: list[UsageLine], differs: bool
) -> None:
    found = reconcile_day(YESTERDAY, [yesterdays(10)], lines, 0.05, NOON)

    assert found.ours == Money.of(20)
    assert found.differs is differs


def test_our_meters_own_slack_is_no_alarm() -> None:
    """Half an hour of one VM: two minutes more are 7 %."""
    found = reconcile_day(YESTERDAY, [yesterdays(0.5)], [line("0.94")], 0.05, NOON)

    assert not found.differs


class Metered(AirCloud):
    """A cloud that tells what it is given."""

    told: list[UsageLine] | None = None

    async def usage(self, since: datetime, until: datetime) -> Sequence[UsageLine]:
        self.calls.append(("usage", since.date().isoformat()))
        if self.told is None:
            raise EndpointMissing("usage")
        return self.told


async def check(store: SqliteStore) -> tuple[UsageCheck, Metered, HandClock]:
    clock = HandClock()
    cloud = Metered(clock)
    lease = await store.acquire(MODEL, "daemon-1", 0.0)
    assert lease is not None
    row = yesterdays(10)
    event = NodeEvent(NOON, "made", MODEL, row.name, row.state, "test", "test")
    await store.insert(lease, row, event)
    return UsageCheck(store, cloud, clock, 0.05), cloud, clock


async def test_each_day_is_compared_once_and_a_difference_is_an_event(store: SqliteStore) -> None:
    part, cloud, _ = await check(store)
    cloud.told = [line("30")]

    await part.look()
    await part.look()

    assert cloud.sent("usage") == ["2026-03-01"]
    assert part.last is not None
    assert part.last.difference == pytest.approx(0.5)
    (event,) = [e for e in await store.events() if e.kind == "usage_differs"]
    assert event.cause == (
        "on 2026-03-01 the cloud metered $30.00 at our prices, our meter says $20.00 (+50.0%)"
    )
    assert json.loads(await store.meta(USAGE) or "")["differs"] is True


async def test_a_day_that_is_not_told_yet_is_asked_for_again_until_noon(
    store: SqliteStore,
) -> None:
    part, cloud, clock = await check(store)
    cloud.told = []
    clock.jump(-3 * HOUR)

    await part.look()
    early = await store.meta(USAGE)
    clock.jump(4 * HOUR)
    await part.look()

    assert early is None
    assert part.last is not None
    assert part.last.differs


async def test_a_cloud_without_usage_and_a_day_without_machines_are_no_alarm(
    store: SqliteStore,
) -> None:
    part, cloud, clock = await check(store)

    with pytest.raises(EndpointMissing):
        await part.look()
    clock.jump(3 * DAY)
    await part.look()

    assert cloud.sent("usage") == ["2026-03-01"]
    assert await store.meta(USAGE) is None
