"""Several readings become one: roles, chains, ages, and what may never be taken for zero."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain.signals import Figure, FigureName, Gap, Partiality, Signals
from autoscaler.observe.merge import Answer, Role, merge
from autoscaler.observe.protocol import Reading

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
W, R, A = FigureName.WAITING, FigureName.RUNNING, FigureName.ARRIVALS
FRONT = (W, R, A)


def said(
    name: str,
    role: Role,
    figures: dict[FigureName, float],
    *,
    gaps: tuple[FigureName, ...] = (),
    age_s: float = 0.0,
    held: int = 0,
    at: datetime = NOON,
    partial: bool = False,
) -> Answer:
    partiality = Partiality.PARTIAL if partial else Partiality.FULL
    reading = Reading(
        name,
        at,
        tuple(
            (key, Figure(value, at - timedelta(seconds=age_s), name, partiality))
            for key, value in figures.items()
        ),
        tuple(Gap(key, name, "down") for key in gaps),
        held=held,
    )
    return Answer(reading, role)


def gateway(waiting: float, running: float, arrivals: float, **more: object) -> Answer:
    return said("gateway", Role.FRONT, {W: waiting, R: running, A: arrivals}, **more)  # type: ignore[arg-type]


def engine(waiting: float, running: float, arrivals: float | None = None) -> Answer:
    figures = {W: waiting, R: running} | ({} if arrivals is None else {A: arrivals})
    return said("engine", Role.INSIDE, figures)


def values(signals: Signals) -> tuple[float | None, float | None, float | None]:
    return signals.value(W), signals.value(R), signals.value(A)


def test_what_waits_in_engines_is_moved_from_running_to_waiting() -> None:
    merged = merge([gateway(3, 20, 5.0), engine(4, 15, 2.0)], NOON)

    assert values(merged) == (7, 16, 5.0)
    assert merged.gaps == ()


def test_a_queue_of_texts_is_not_more_requests_than_were_placed() -> None:
    merged = merge([gateway(3, 20, 5.0), said("engine", Role.INSIDE, {W: 500})], NOON)

    assert values(merged) == (23, 0, 5.0)


def test_demand_stands_when_the_engines_are_silent() -> None:
    silent = said("engine", Role.INSIDE, {}, gaps=(W, R, FigureName.KV_USE))

    merged = merge([gateway(3, 20, 5.0), silent], NOON)

    assert values(merged) == (3, 20, 5.0)
    assert [gap.figure for gap in merged.gaps] == [FigureName.KV_USE]


def test_a_silent_balancer_leaves_waiting_unknown_whatever_the_engines_say() -> None:
    silent = said("gateway", Role.FRONT, {}, gaps=FRONT)

    merged = merge([silent, engine(0, 2, 0.0)], NOON)

    assert merged.value(W) is None
    assert not merged.idle
    assert any(gap.figure is W and gap.source == "gateway" for gap in merged.gaps)


def test_arrivals_are_the_balancers_even_where_the_engines_stand_first() -> None:
    merged = merge([engine(0, 8, 1.0), gateway(40, 8, 9.0)], NOON)

    assert merged.value(A) == 9.0


def test_two_balancers_add_up_and_both_have_to_answer() -> None:
    haproxy = said("haproxy", Role.FRONT, {W: 2, R: 10, A: 3.0})
    activator = gateway(5, 1, 0.5)
    dead = said("gateway", Role.FRONT, {}, gaps=FRONT)

    assert values(merge([haproxy, activator], NOON)) == (7, 11, 3.5)
    assert values(merge([haproxy, dead], NOON)) == (None, None, None)


def test_a_balancer_that_is_not_waited_for_leaves_the_others_word_for_the_whole() -> None:
    one = said("haproxy-one", Role.FRONT, {W: 2, R: 10, A: 3.0})
    gone = replace(said("haproxy-two", Role.FRONT, {}, gaps=FRONT), is_overlooked=True)
    here = replace(said("haproxy-two", Role.FRONT, {W: 1, R: 1, A: 1.0}), is_overlooked=True)

    assert values(merge([one, gone], NOON)) == (2, 10, 3.0)
    assert merge([one, gone], NOON).gaps == merge([one], NOON).gaps
    assert values(merge([one, here], NOON)) == (3, 11, 4.0)
    assert values(merge([gone], NOON)) == (None, None, None)


def test_a_query_of_the_operator_is_taken_whole_where_it_stands_first() -> None:
    query = said("prometheus", Role.WHOLE, {W: 50})

    assert merge([query, gateway(3, 20, 5.0), engine(4, 15)], NOON).value(W) == 50
    assert merge([gateway(3, 20, 5.0), engine(4, 15), query], NOON).value(W) == 7


def test_a_stale_figure_is_a_gap_and_the_next_source_speaks() -> None:
    stale = gateway(3, 20, 5.0, age_s=61)
    query = said("prometheus", Role.WHOLE, {W: 1, R: 2, A: 3.0})

    alone = merge([stale], NOON)

    assert values(alone) == (None, None, None)
    assert "stale" in alone.gaps[0].reason
    assert values(merge([stale, query], NOON)) == (1, 2, 3.0)


def test_a_figure_from_the_future_is_not_believed() -> None:
    merged = merge([gateway(3, 20, 5.0, age_s=-3600)], NOON)

    assert values(merged) == (None, None, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_an_absurd_figure_is_dropped_for_the_next_in_the_chain(value: float) -> None:
    broken = said("prometheus", Role.WHOLE, {W: value})

    merged = merge([broken, gateway(3, 20, 5.0)], NOON)

    assert merged.value(W) == 3


def test_a_rate_twenty_times_the_last_with_no_more_in_the_system_is_doubted_once() -> None:
    before = merge([gateway(0, 4, 1.0)], NOON)
    later = [NOON + timedelta(seconds=s) for s in (15, 30)]

    doubted = merge([gateway(0, 4, 50.0, at=later[0])], later[0], before)
    believed = merge([gateway(0, 4, 50.0, at=later[1])], later[1], doubted)
    with_load = merge([gateway(9, 4, 50.0, at=later[0])], later[0], before)

    assert doubted.value(A) is None
    assert "jumped" in next(gap.reason for gap in doubted.gaps if gap.figure is A)
    assert believed.value(A) == 50
    assert with_load.value(A) == 50


def test_idle_is_said_only_when_all_is_known_and_zero() -> None:
    quiet = merge([gateway(0, 0, 0.0)], NOON)
    unsure = merge([gateway(0, 0, 0.0, partial=True)], NOON)
    busy = merge([gateway(0, 1, 0.0)], NOON)
    deaf = merge([said("gateway", Role.FRONT, {W: 0, R: 0}, gaps=(A,))], NOON)

    assert quiet.idle
    assert [s.idle for s in (unsure, busy, deaf)] == [False] * 3


def test_an_idle_models_latencies_are_not_applicable_rather_than_missing() -> None:
    quiet = said("gateway", Role.FRONT, {W: 0, R: 0, A: 0}, gaps=(FigureName.TTFT_P95,))
    busy = said("gateway", Role.FRONT, {W: 0, R: 0, A: 1}, gaps=(FigureName.TTFT_P95,))

    assert merge([quiet], NOON).gaps == ()
    assert merge([busy], NOON).gaps != ()


def test_a_figure_that_no_source_gives_is_a_gap_that_says_so() -> None:
    merged = merge([engine(1, 2)], NOON)

    assert values(merged) == (1, 2, None)
    assert [(gap.figure, gap.source) for gap in merged.gaps] == [(A, "policy")]


def test_held_requests_of_all_sources_add_up() -> None:
    merged = merge([gateway(4, 0, 1.0, held=4), engine(0, 0)], NOON)

    assert merged.held == 4


def test_waking_from_zero_and_back_as_a_timeline() -> None:
    """Zero nodes: the gateway alone is the truth. A node comes, serves, and goes again."""
    no_node = said("engine", Role.INSIDE, {}, gaps=(W, R))
    told = []
    for front, inside in (
        (gateway(0, 0, 0.0), no_node),
        (gateway(3, 0, 0.2, held=3), no_node),
        (gateway(0, 3, 0.3), engine(1, 2)),
        (gateway(0, 0, 0.1), engine(0, 0)),
        (gateway(0, 0, 0.0), no_node),
    ):
        merged = merge([front, inside], NOON)
        told.append((*values(merged), merged.held, merged.idle))

    assert told == [
        (0, 0, 0.0, 0, True),
        (3, 0, 0.2, 3, False),
        (1, 2, 0.3, 0, False),
        (0, 0, 0.1, 0, False),
        (0, 0, 0.0, 0, True),
    ]


counts = st.floats(0, 1000)


@given(counts, counts, counts, counts)
def test_no_request_is_counted_twice_or_lost(
    held: float, in_flight: float, queued: float, computing: float
) -> None:
    merged = merge([gateway(held, in_flight, 1.0), engine(queued, computing)], NOON)

    waiting, running = merged.value(W), merged.value(R)
    assert waiting is not None
    assert running is not None
    assert waiting + running == pytest.approx(held + in_flight)


@given(st.lists(st.sampled_from(["fresh", "gap", "stale", "nan"]), min_size=1, max_size=4))
def test_waiting_is_never_made_up(states: list[str]) -> None:
    answers = []
    for number, state in enumerate(states):
        name = f"front-{number}"
        match state:
            case "fresh":
                answers.append(said(name, Role.FRONT, {W: 2, R: 2, A: 2}))
            case "gap":
                answers.append(said(name, Role.FRONT, {}, gaps=FRONT))
            case "stale":
                answers.append(said(name, Role.FRONT, {W: 2, R: 2, A: 2}, age_s=999))
            case _:
                answers.append(said(name, Role.FRONT, {W: float("nan"), R: 2, A: 2}))

    merged = merge(answers, NOON)

    is_known = all(state == "fresh" for state in states)
    assert merged.value(W) == (2 * len(states) if is_known else None)
