"""Which balancer is waited for, and what one that comes back is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.balance.presence import (
    Amends,
    Patience,
    Presence,
    amends,
    overlooked,
    patience_left,
    why_no_release,
)
from autoscaler.balance.protocol import PoolReport, ServerReport, ServerState
from autoscaler.domain.ids import DecisionId, IntentId, ModelName, NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import Endpoint, Node, State
from autoscaler.domain.offer import OfferKey
from autoscaler.timings import Timings

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MODEL = ModelName("llama")
GRACE = timedelta(seconds=45)
ABSENT_AFTER = timedelta(minutes=10)

HERE = Presence(is_front=True, absent_since_s=None, answers=True)
BEHIND = replace(HERE, is_front=False)
GONE = HERE.unanswered(1000)


def test_a_launch_waits_for_a_silent_balancer_only_through_its_grace() -> None:
    two = {"a": HERE, "b": GONE}

    assert overlooked(two, GRACE, 1044) == frozenset()
    assert overlooked(two, GRACE, 1045) == {"b"}


def test_how_long_a_silence_will_hold_a_launch_up_is_known_beforehand() -> None:
    earlier = replace(GONE, absent_since_s=990)

    assert patience_left({"a": HERE, "b": GONE}, GRACE, 1020) == timedelta(seconds=25)
    assert patience_left({"a": HERE, "b": GONE, "c": earlier}, GRACE, 1020) == timedelta(seconds=15)
    assert patience_left({"a": HERE, "b": GONE.answered()}, GRACE, 1020) is None
    assert patience_left({"a": HERE, "b": GONE}, GRACE, 1045) is None
    assert patience_left({"a": BEHIND, "b": GONE}, GRACE, 1020) is None  # it has no end


def test_by_default_a_launch_goes_on_within_a_minute_and_scale_in_after_ten() -> None:
    timings = Timings()
    late = timings.balancer_grace + 3 * timings.step + timedelta(seconds=3)  # to notice, to ask

    assert late < timedelta(seconds=60)
    assert timings.balancer_absent_after == timedelta(minutes=10)
    assert Patience() == Patience(timings.balancer_grace, timings.balancer_absent_after)


def test_scale_in_waits_for_a_silent_balancer_until_it_counts_as_absent() -> None:
    two = {"a": HERE, "b": GONE}

    assert "b has not answered for 599 s" in (why_no_release(two, ABSENT_AFTER, 1599) or "")
    assert why_no_release(two, ABSENT_AFTER, 1600) is None


def test_the_only_front_is_waited_for_for_ever() -> None:
    one = {"gateway": BEHIND, "b": GONE}

    assert overlooked(one, GRACE, 1_000_000) == frozenset()
    assert why_no_release(one, ABSENT_AFTER, 1_000_000) is not None


def test_two_that_are_both_silent_are_both_waited_for() -> None:
    assert overlooked({"a": GONE, "b": GONE}, GRACE, 1_000_000) == frozenset()


def test_one_that_comes_back_is_waited_for_again_and_counts_once_it_is_reconciled() -> None:
    back = GONE.answered()

    assert overlooked({"a": HERE, "b": back}, GRACE, 9000) == frozenset()
    assert "just come back" in (why_no_release({"a": HERE, "b": back}, ABSENT_AFTER, 9000) or "")
    assert not back.counts
    assert back.reconciled().counts


def test_one_that_answers_now_and_then_is_absent_since_it_last_counted() -> None:
    flapping = GONE.answered().unanswered(1500)

    assert flapping.absent_for(1700) == timedelta(seconds=700)


def test_one_that_was_never_heard_does_not_count() -> None:
    new = Presence(is_front=True, absent_since_s=5.0)

    assert not new.counts
    assert why_no_release({"a": new}, ABSENT_AFTER, 6) is not None


presences = st.builds(
    Presence, st.booleans(), st.none() | st.floats(0, 1000), st.booleans()
).filter(lambda p: p.answers or p.absent_since_s is not None)


@given(st.dictionaries(st.sampled_from("abcd"), presences), st.floats(1000, 5000))
def test_never_is_every_front_overlooked_nor_one_that_answers(
    known: dict[str, Presence], at_s: float
) -> None:
    ignored = overlooked(known, GRACE, at_s)

    assert all(not known[name].answers for name in ignored)
    fronts = {name for name, presence in known.items() if presence.is_front}
    assert not fronts or fronts - ignored


@given(st.dictionaries(st.sampled_from("abcd"), presences), st.floats(1000, 5000))
def test_what_may_be_released_past_could_be_launched_past(
    known: dict[str, Presence], at_s: float
) -> None:
    assert overlooked(known, ABSENT_AFTER, at_s) <= overlooked(known, GRACE, at_s)


def test_a_balancer_that_forgot_all_is_told_what_serves_and_nothing_else() -> None:
    serving, leaving = a_node("one", State.READY), a_node("two", State.DRAINING)
    coming = a_node("three", State.VERIFYING)

    found = amends(listing(), [serving, leaving, coming], frozenset())

    assert found == Amends(register=serving.endpoints)


def test_a_balancer_that_remembers_too_much_is_told_what_left() -> None:
    serving, leaving = a_node("one", State.READY), a_node("two", State.DRAINING)
    gone, unknown = a_node("gone", State.GONE), a_node("unknown", State.READY)
    report = listing(
        *(server(node) for node in (leaving, gone, unknown)),
        server(serving, ServerState.DRAINING),
    )

    found = amends(report, [serving, leaving], {gone.name})

    assert found == Amends(serving.endpoints, (leaving.name,), (gone.name,))


def test_a_balancer_that_has_what_it_should_is_told_nothing() -> None:
    serving, leaving = a_node("one", State.READY), a_node("two", State.DRAINING)
    report = listing(server(serving, ServerState.DOWN), server(leaving, ServerState.DRAINING))

    assert not amends(report, [serving, leaving], frozenset())


def test_an_entry_at_another_address_is_told_anew() -> None:
    node = a_node("one", State.READY)
    elsewhere = replace(server(node), url="http://10.0.0.99:8000")

    assert amends(listing(elsewhere), [node], frozenset()).register == node.endpoints


def test_nodes_of_other_models_are_not_put_into_this_ones_pool() -> None:
    other = replace(a_node("one", State.READY), model=ModelName("mistral"))

    assert not amends(listing(), [other], frozenset())


def listing(*servers: ServerReport) -> PoolReport:
    return PoolReport(MODEL, servers, "1", 0, NOON)


def server(node: Node, state: ServerState = ServerState.UP) -> ServerReport:
    (endpoint,) = node.endpoints
    return ServerReport(endpoint.id, endpoint.url, state, 0)


def a_node(word: str, state: State) -> Node:
    name = NodeName(f"as1-teamaaaa-{word}-1-llama")
    return Node(
        name=name,
        model=MODEL,
        intent=IntentId(word),
        attempt=1,
        offer=OfferKey("a40.1x", "here"),
        price_per_hour=Money(Decimal(1)),
        state=state,
        since=NOON,
        created_at=NOON,
        epoch=1,
        decision=DecisionId("d"),
        reason="",
        units=1.0,
        replicas=1,
        concurrency=8,
        tensor_parallel=1,
        spec_hash="x",
        endpoints=(Endpoint(name, "http://10.0.0.1:8000", 10, 8),),
        verified_at=NOON,
    )
