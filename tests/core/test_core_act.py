"""The last look at every limit: whatever a plan asks for, no admitted set passes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.act import Limits, hourly, intents
from autoscaler.config import LimitSettings
from autoscaler.domain.ids import DecisionId, IntentId, ModelName, parse_name
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import MAY_BILL, Node, State
from autoscaler.domain.offer import OfferKey
from autoscaler.domain.plan import Launch, Plan
from autoscaler.store.protocol import Ledger, OpenIntent
from tests.nodes.life_parts import KEY, MODEL, NOON, OWNER, intent_id, node, policy

OTHER = ModelName("mistral")
HOUR = timedelta(hours=1)


def limits(
    overall: dict[str, object] | None = None,
    floors: dict[ModelName, Money] | None = None,
    forbidden: str | None = None,
    **own: object,
) -> Limits:
    """Limits of two models; `own` changes the first one's policy."""
    policies = {MODEL: policy(**{"nodes": {"max": 50}, **own})}
    policies[OTHER] = policy(model=OTHER, nodes={"max": 50})
    settings = LimitSettings.model_validate(overall or {})
    return Limits(settings, policies, floors or {}, forbidden)


def rows(count: int, state: State = State.PLANNED, usd: str = "2", **changes: object) -> list[Node]:
    return [
        node(state, intent=intent_id(n), price_per_hour=Money.of(usd), **changes)
        for n in range(count)
    ]


def ledger(nodes: Sequence[Node] = (), at: datetime = NOON, **more: object) -> Ledger:
    return Ledger(at, tuple(nodes), **more)  # type: ignore[arg-type]  # the caller names fields


def refusal(judged: Limits, books: Ledger, wanted: Node) -> str:
    return judged.why_not(books, (), wanted) or ""


@pytest.mark.parametrize("state", sorted(MAY_BILL))
def test_every_state_that_may_bill_counts(state: State) -> None:
    judged = limits({"nodes": 3})

    admitted = judged.admit(ledger(rows(2, state)), rows(5)).admitted

    assert len(admitted) == 1


@pytest.mark.parametrize("state", [State.LOST, State.CANCELLED, State.GONE])
def test_what_is_closed_does_not_count(state: State) -> None:
    assert len(limits({"nodes": 3}).admit(ledger(rows(9, state)), rows(5)).admitted) == 3


def test_each_refusal_names_its_limit_and_the_figures() -> None:
    judged = limits({"nodes": 4, "usd_per_hour": 8}, nodes={"max": 2}, limit="$4/h", retries={})

    own = refusal(judged, ledger(rows(2)), node())
    everybody = refusal(limits({"nodes": 4}), ledger(rows(4)), node())
    rate = refusal(limits(limit="$4/h"), ledger(rows(2)), node())
    total = refusal(limits({"usd_per_hour": 5}), ledger(rows(2)), node())

    assert own == "nodes.max of llama is 2: 2 nodes exist or may exist"
    assert everybody == "limits.nodes is 4: 4 nodes exist or may exist"
    assert rate == "limit of llama is $4.00/h: this would make it $5.25/h"
    assert total == "limits.usd_per_hour is $5.00/h: this would make it $5.25/h"


def test_another_models_nodes_count_for_the_whole_and_not_for_this_one() -> None:
    others = rows(3, State.READY, model=OTHER)

    assert not refusal(limits(nodes={"max": 1}), ledger(others), node())
    assert "limits.nodes is 3" in refusal(limits({"nodes": 3}), ledger(others), node())


def test_gpus_are_counted_by_the_market_else_by_the_types_name_or_what_was_served() -> None:
    judged = replace(limits({"gpus": 8}, limits={"gpus": 6}), gpus={"l40s-48gb.1x": 1})
    four, served = OfferKey("a40.4x", "us-east1-a"), OfferKey("unheard-of", "us-east1-a")
    ours = [*rows(1), *rows(1, State.TERMINATING, offer=four)]
    theirs = rows(1, model=OTHER, offer=served, replicas=1, tensor_parallel=2)

    assert judged.gpus_of([*ours, *theirs]) == 7
    assert not refusal(judged, ledger(ours), node())
    assert refusal(judged, ledger([*ours, *rows(1)]), node()) == (
        "limits.gpus of llama is 6: 6 exist or may exist, and l40s-48gb.1x has 1"
    )
    assert not refusal(judged, ledger([*ours, *theirs]), node())
    assert "limits.gpus is 8: 7 exist or may exist, and a40.4x has 4" in refusal(
        judged, ledger([*ours, *theirs]), node(model=OTHER, offer=four)
    )
    assert "limits.gpus is 8: 8" in refusal(
        replace(judged, unbooked_gpus=1), ledger([*ours, *theirs]), node(model=OTHER)
    )


def failed(count: int, model: ModelName = MODEL, why: str = "script: exit 1") -> list[Node]:
    return rows(count, State.GONE, failure=why, model=model)


def test_failures_in_a_row_stop_a_model_in_the_last_look_too() -> None:
    judged, books = limits(), ledger(ended=tuple(failed(3)))

    assert "3 launches in a row failed alike (script: exit 1)" in refusal(judged, books, node())
    assert not refusal(judged, books, node(model=OTHER))
    assert not refusal(judged, replace(books, resumed={MODEL: NOON}), node())
    assert not refusal(judged, ledger(ended=tuple(failed(3, why="stock: none"))), node())


def test_failures_of_all_models_in_a_row_stop_all_of_them_until_a_person_says_so() -> None:
    judged = limits({"same_failure_limit": 4})
    past = [*failed(2), *failed(2, OTHER, "boot: no SSH")]
    books = ledger(ended=tuple(past))

    assert "limits.same_failure_limit is 4: the last 4 launches of all models failed" in refusal(
        judged, books, node(model=OTHER)
    )
    assert not refusal(judged, replace(books, resumed={OTHER: NOON}), node(model=OTHER))
    served = rows(1, State.READY, model=OTHER, created_at=NOON + HOUR)
    assert not refusal(judged, replace(books, nodes=tuple(served)), node(model=OTHER))


def test_disks_that_stayed_behind_count_by_the_hour_and_by_the_day() -> None:
    left = replace(limits({"usd_per_hour": 2, "usd_per_day": 3}), disks_per_hour=Money.of("1"))

    assert "$2.25/h" in refusal(left, ledger(), node())
    assert "usd_per_day of all models is $3.00" in refusal(
        replace(left, overall=LimitSettings.model_validate({"usd_per_day": 3})),
        ledger(closed_today={MODEL: Money.of("0.76")}),
        node(),
    )


def test_launches_are_counted_in_their_window_admitted_ones_of_the_batch_too() -> None:
    judged = limits({"launches_per_window": 3, "launch_window": "10m"})
    recent = ((OTHER, NOON - timedelta(minutes=9)), (MODEL, NOON - timedelta(minutes=10)))

    admission = judged.admit(ledger(launches=recent), rows(5))

    assert len(admission.admitted) == 2
    assert (
        "limits.launches_per_window is 3: 3 launches in the last 0:10:00"
        in (admission.refused[0][1])
    )


def test_a_models_own_pace_is_its_own() -> None:
    judged = limits(retries={"launches_per_window": 1, "launch_window": "2h"})
    theirs = ((OTHER, NOON),)
    ours = ((MODEL, NOON - timedelta(minutes=119)),)

    assert not refusal(judged, ledger(launches=theirs), node())
    assert "retries.launches_per_window of llama is 1" in refusal(
        judged, ledger(launches=ours), node()
    )


def test_safe_mode_admits_nothing() -> None:
    admission = limits(forbidden="safe mode").admit(ledger(), rows(2))

    assert [why for _, why in admission.refused] == ["safe mode", "safe mode"]


def test_a_days_limit_counts_what_was_spent_what_drains_and_the_new_hour() -> None:
    """Spent 5, two running at 2/h for the 30 min of their drain, and an hour of the new one at 2."""
    running = rows(2, State.READY, sent_at=NOON)
    books = ledger(running, closed_today={MODEL: Money.of(5)})
    new = rows(1)[0]

    assert not refusal(limits({"usd_per_day": 9}), books, new)
    short = refusal(limits({"usd_per_day": "8.99"}), books, new)

    assert short == (
        "usd_per_day of all models is $8.99: $5.00 is spent, and with what is running and this node "
        "it would be $9.00"
    )


def test_minimum_fleets_are_spoken_for_until_the_period_ends() -> None:
    judged = limits({"usd_per_day": 20}, floors={OTHER: Money.of("1.5")})

    assert not refusal(judged, ledger(), rows(1)[0])  # 12 h × 1.5 + 2 = 20
    assert refusal(judged, ledger(closed_today={MODEL: Money.of(1)}), rows(1)[0])


def test_a_month_ends_at_midnight_utc_of_its_last_day() -> None:
    last = datetime(2026, 12, 31, 23, tzinfo=UTC)
    judged = limits({"usd_per_month": 12}, floors={MODEL: Money.of(10)})

    assert not refusal(judged, ledger(at=last), rows(1)[0])
    assert refusal(judged, ledger(at=last - HOUR), rows(1)[0])


def test_a_models_day_is_its_own() -> None:
    judged = limits(limits={"usd_per_day": 3})

    assert not refusal(judged, ledger(closed_today={OTHER: Money.of(99)}), rows(1)[0])
    assert "usd_per_day of llama is $3.00" in refusal(
        judged, ledger(closed_today={MODEL: Money.of(2)}), rows(1)[0]
    )


def test_a_spent_limit_drains_to_the_minimum_only_where_the_policy_says_so() -> None:
    books = ledger(closed_today={MODEL: Money.of(10)})
    drains = limits(limits={"usd_per_day": 10, "on_limit": "drain-to-min"})

    assert drains.exhausted(books, MODEL) == (
        "usd_per_day $10.00: $10.00 is spent: draining to the minimum"
    )
    assert drains.exhausted(books, OTHER) is None
    assert limits(limits={"usd_per_day": 10}).exhausted(books, MODEL) is None
    assert limits({"usd_per_day": 10, "on_limit": "drain-to-min"}).exhausted(books, OTHER)


@pytest.mark.parametrize(
    ("own", "overall", "said"),
    [
        ({"limit": "$3/h", "limits": {"on_usd_per_hour": "drain-to-min"}}, {}, "limit of llama"),
        ({}, {"usd_per_hour": 3, "on_usd_per_hour": "drain-to-min"}, "limits.usd_per_hour"),
        ({}, {"nodes": 1, "on_nodes": "drain-to-min"}, "limits.nodes is 1: 2 stand"),
        ({"nodes": {"max": 1}, "limits": {"on_nodes": "drain-to-min"}}, {}, "nodes.max of llama"),
        ({}, {"gpus": 1, "on_gpus": "drain-to-min"}, "limits.gpus is 1: 2 stand"),
        ({"limits": {"gpus": 1, "on_gpus": "drain-to-min"}}, {}, "limits.gpus of llama is 1"),
    ],
)
def test_a_limit_below_what_stands_drains_where_it_says_so(
    own: dict[str, Any], overall: dict[str, object], said: str
) -> None:
    standing, leaving = rows(2, State.READY), rows(2, State.DRAINING)

    assert said in (limits(overall, **own).exhausted(ledger(standing), MODEL) or "")
    assert limits(overall, **own).exhausted(ledger([standing[0], *leaving]), MODEL) is None


def test_each_limit_has_an_action_of_its_own_or_the_common_one() -> None:
    spent = ledger(closed_today={MODEL: Money.of(10)}, closed_month={MODEL: Money.of(10)})
    common = {"on_limit": "drain-to-min", "on_usd_per_day": "hold"}

    assert not limits({"usd_per_day": 10, **common}).exhausted(spent, MODEL)
    assert "usd_per_month" in (
        limits({"usd_per_day": 10, "usd_per_month": 10, **common}).exhausted(spent, MODEL) or ""
    )
    assert limits({"usd_per_day": 10, "on_usd_per_day": "drain-to-min"}).exhausted(spent, MODEL)


@pytest.mark.parametrize(
    ("own", "overall", "touches_other"),
    [
        ({"limits": {"on_launches": "drain-to-min"}}, {}, False),
        ({}, {"on_launches": "drain-to-min", "launches_per_window": 3}, True),
        ({"limits": {"on_failures": "drain-to-min"}}, {}, False),
        ({}, {"on_failures": "drain-to-min", "same_failure_limit": 3}, True),
    ],
)
def test_launches_and_failures_drain_only_where_they_are_told_to_by_name(
    own: dict[str, Any], overall: dict[str, object], touches_other: bool
) -> None:
    launches = tuple((MODEL, NOON) for _ in range(3))
    books = ledger(launches=launches, ended=tuple(failed(3)))
    own |= {"retries": {"launches_per_window": 3}}

    assert limits(overall, **own).exhausted(books, MODEL)
    assert bool(limits(overall, **own).exhausted(books, OTHER)) is touches_other
    common = limits(
        {"on_limit": "drain-to-min"}, limits={"on_limit": "drain-to-min"}, retries=own["retries"]
    )
    assert common.exhausted(books, MODEL) is None


def test_draining_begins_while_what_drains_can_still_be_paid() -> None:
    running = rows(2, State.READY, sent_at=NOON)  # 30 min of two at 2/h: 2
    judged = limits(limits={"usd_per_day": 10, "on_limit": "drain-to-min"})

    assert judged.exhausted(ledger(running, closed_today={MODEL: Money.of("7.99")}), MODEL) is None
    assert judged.exhausted(ledger(running, closed_today={MODEL: Money.of(8)}), MODEL)


prices = st.decimals("0.01", "40", places=2).map(Money)
wanted = st.lists(
    st.tuples(st.sampled_from([MODEL, OTHER]), prices, st.sampled_from(sorted(MAY_BILL))),
    max_size=12,
)
bounds = st.fixed_dictionaries(
    {},
    optional={
        "nodes": st.integers(0, 8),
        "usd_per_hour": st.integers(0, 100),
        "usd_per_day": st.integers(0, 300),
        "usd_per_month": st.integers(0, 600),
        "launches_per_window": st.integers(1, 6),
    },
)


@given(
    overall=bounds,
    most=st.integers(0, 6),
    own=st.none() | st.integers(0, 60),
    batches=st.lists(wanted, max_size=5),
    pauses=st.lists(st.timedeltas(timedelta(0), timedelta(hours=9)), min_size=5, max_size=5),
)
def test_no_sequence_of_plans_passes_a_limit(
    overall: dict[str, object],
    most: int,
    own: int | None,
    batches: list[list[tuple[ModelName, Money, State]]],
    pauses: list[timedelta],
) -> None:
    judged = limits(overall, nodes={"max": most}, limit=own)
    settings = judged.overall
    nodes: list[Node] = []
    launches: list[tuple[ModelName, datetime]] = []
    at, number = NOON, 0
    for batch, pause in zip(batches, pauses, strict=False):
        at += pause
        asked = []
        for model, price, _ in batch:
            number += 1
            row = node(
                intent=intent_id(number), model=model, price_per_hour=price, created_at=at, since=at
            )
            asked.append(row)
        books = ledger(nodes, at, launches=tuple(launches))
        admission = judged.admit(books, asked)
        later = dict(zip((row.name for row in asked), batch, strict=True))

        assert len(admission.admitted) + len(admission.refused) == len(asked)
        assert all(why for _, why in admission.refused)
        for row in admission.admitted:
            nodes.append(replace(row, state=later[row.name][2], sent_at=at))
            launches.append((row.model, at))
        if admission.admitted:
            ours = [n for n in nodes if n.model == MODEL]
            assert len(ours) <= most or all(n.model == OTHER for n in admission.admitted)
            assert len(nodes) <= settings.nodes
            assert settings.usd_per_hour is None or hourly(nodes) <= settings.usd_per_hour
            if own is not None and any(n.model == MODEL for n in admission.admitted):
                assert hourly(ours) <= Money.of(own)
            window = [t for _, t in launches if at - t < settings.launch_window]
            assert len(window) <= settings.launches_per_window
            spent = ledger(nodes, at)
            hours = {"day": spent.spent_today(), "month": spent.spent_month()}
            half = hourly(nodes).for_time(min(HOUR / 2, _to_midnight(at)))
            for period, amount in hours.items():
                bound = getattr(settings, f"usd_per_{period}")
                assert bound is None or amount + half <= bound


def _to_midnight(at: datetime) -> timedelta:
    return (at + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0) - at


# from a plan to rows


def rows_of(count: int, *open_: OpenIntent, **changes: object) -> tuple[Node, ...]:
    launch = Launch(KEY, Money.of("1.25"), 1.0, 2, 1, 8, "demand")
    planned = Plan(MODEL, DecisionId("d7"), NOON, launches=(launch,) * count)
    return intents(
        planned,
        policy(),
        prefix="as1",
        owner=OWNER,
        epoch=3,
        open_intents=open_,
        nonces=[f"nonce{n}" for n in range(count)],
        now=NOON,
    )


def test_each_launch_gets_a_name_and_a_nonce_of_its_own() -> None:
    made = rows_of(50)

    assert len({row.name for row in made}) == 50
    assert len({row.nonce for row in made}) == 50
    assert {(row.attempt, row.epoch, row.decision, row.replicas) for row in made} == {
        (1, 3, DecisionId("d7"), 2)
    }
    assert all(row.state is State.PLANNED and row.sent_at is None for row in made)
    assert made[0].cost == ZERO


def test_a_written_off_intent_goes_on_under_its_next_number() -> None:
    first, second = rows_of(2, OpenIntent(IntentId("b" * 13), 4))

    parts = parse_name(first.name)
    assert parts is not None
    assert (parts.intent, parts.attempt) == (IntentId("b" * 13), 5)
    assert second.attempt == 1
    assert second.intent != first.intent
