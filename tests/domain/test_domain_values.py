"""Names, money and quantities: what survives the loss of a store, and amounts that never lose a cent."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain.ids import (
    IntentId,
    ModelName,
    new_decision_id,
    new_intent_id,
    node_name,
    parse_name,
    slug,
)
from autoscaler.domain.money import ZERO, Money, total
from autoscaler.quantity import parse_duration, parse_money, parse_size, show_duration

prefixes = st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True)
owners = st.from_regex(r"[a-z0-9]{8}", fullmatch=True)
ids = st.from_regex(r"[a-z2-7]{13}", fullmatch=True).map(IntentId)
attempts = st.integers(1, 999_999)


@given(prefix=prefixes, owner=owners, intent=ids, attempt=attempts, model=st.text(max_size=80))
def test_a_name_tells_whose_it_is_whatever_the_model_is_called(
    prefix: str, owner: str, intent: IntentId, attempt: int, model: str
) -> None:
    name = node_name(prefix, owner, intent, attempt, ModelName(model))
    parts = parse_name(name)

    assert len(name) <= 63
    assert parts is not None
    assert (parts.prefix, parts.owner, parts.intent, parts.attempt) == (
        prefix,
        owner,
        intent,
        attempt,
    )
    assert slug(model).startswith(parts.model_slug)


@given(model=st.text(max_size=40), one=attempts, two=attempts)
def test_two_attempts_never_share_a_name(model: str, one: int, two: int) -> None:
    names = {
        node_name("as1", "abcdefgh", IntentId("a" * 13), n, ModelName(model)) for n in (one, two)
    }

    assert len(names) == len({one, two})


@pytest.mark.parametrize(
    ("prefix", "owner", "attempt"),
    [("As1", "abcdefgh", 1), ("as1", "short", 1), ("as1", "abcdefgh", 0), ("", "abcdefgh", 1)],
)
def test_a_name_that_could_not_be_read_again_is_never_made(
    prefix: str, owner: str, attempt: int
) -> None:
    with pytest.raises(ValueError, match="not a node name"):
        node_name(prefix, owner, IntentId("a" * 13), attempt, ModelName("x"))


@given(st.text(max_size=70))
def test_any_text_is_parsed_or_nobody_of_ours(text: str) -> None:
    parts = parse_name(text)

    assert parts is None or text.startswith(f"{parts.prefix}-{parts.owner}-{parts.intent}-")


@pytest.mark.parametrize("name", ["as1-abcdefgh-" + "a" * 13 + "-01-x", "as1", "postgres", ""])
def test_a_strangers_name_is_not_ours(name: str) -> None:
    assert parse_name(name) is None


def test_drawn_ids_do_not_repeat() -> None:
    assert len({new_intent_id() for _ in range(2000)}) == 2000
    assert len({new_decision_id() for _ in range(2000)}) == 2000


amounts = st.decimals("0", "1000000", places=4).map(Money)
lengths = st.timedeltas(timedelta(0), timedelta(days=400))


@given(st.lists(amounts, max_size=20))
def test_adding_loses_nothing(values: list[Money]) -> None:
    assert total(values).usd == sum((v.usd for v in values), Decimal(0))
    assert (total(values) - total(values)) == ZERO


@given(price=amounts, one=lengths, two=lengths)
def test_a_time_split_in_two_costs_the_same(price: Money, one: timedelta, two: timedelta) -> None:
    whole = price.for_time(one + two)
    parts = price.for_time(one) + price.for_time(two)

    assert abs(whole.usd - parts.usd) < Decimal("1e-15")


def test_an_hour_costs_the_price_and_a_microsecond_something() -> None:
    assert Money.of("1.25").for_time(timedelta(hours=1)) == Money.of("1.25")
    assert Money.of("3600").for_time(timedelta(microseconds=1)).usd == Decimal("0.000001")


@given(st.decimals("-1000000", "1000000", places=6).map(Money))
def test_any_amount_can_be_shown(amount: Money) -> None:
    assert "$" in str(amount)
    assert str(amount).startswith("-") == (amount < ZERO) or abs(amount.usd) < Decimal("0.01")


def test_amounts_are_shown_in_cents_and_small_ones_as_they_are() -> None:
    assert [str(Money.of(v)) for v in ("1234.5", "0", "-2.345", "0.0012")] == [
        "$1234.50",
        "$0.00",
        "-$2.34",
        "$0.0012",
    ]


@given(st.integers(0, 10**8))
def test_a_duration_reads_as_it_is_shown(seconds: int) -> None:
    length = timedelta(seconds=seconds)

    assert parse_duration(show_duration(length)) == length


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("7d", 604800),
        ("2min", 120),
        (" 1h 5s ", 3605),
    ],
)
def test_durations_are_written_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "90", "s", "1x", "-5s", "1h30", 90, 1.5, None, True])
def test_a_duration_without_a_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write a duration"):
        parse_duration(text)


@given(st.one_of(st.text(max_size=60), st.integers(), st.floats(), st.booleans(), st.none()))
def test_any_value_is_read_or_refused_in_words(value: object) -> None:
    for parse in (parse_duration, parse_size, parse_money):
        try:
            said = str(parse(value))
        except ValueError as exc:
            said = str(exc)
        assert said


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * 2**30), ("500MB", 500_000_000), ("64kB", 64_000), (7, 7)]
)
def test_sizes_are_written_as_people_write_them(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", ["9" * 400 + "GB", "9" * 400 + "w", "9" * 60])
def test_a_figure_beyond_all_bounds_is_a_mistake_and_no_crash(value: str) -> None:
    for parse in (parse_duration, parse_size, parse_money):
        with pytest.raises(ValueError, match=r"mistake|write"):
            parse(value)


@pytest.mark.parametrize("value", [1.5, "1,50", "-3", "4/week", "EUR 4", -1, None])
def test_an_amount_that_is_not_exact_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="write an amount"):
        parse_money(value)


@pytest.mark.parametrize("text", ["4", "$4", "$4/h", "4.00", 4, "4/month"])
def test_amounts_are_written_as_people_write_them(text: object) -> None:
    assert parse_money(text) == Money.of(4)
