"""A run is good only when every failure has a dead machine to explain it, and nothing is left."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from autoscaler.demo.load import Seen
from autoscaler.demo.verdict import Verdict, judge

NODE, OTHER = "as1-demodemo-aaaa-1-demo", "as1-demodemo-bbbb-1-demo"
ORDERED_AT, VERIFIED_AT, DIED_AT = 80.0, 100.0, 150.0


def answered(**facts: Any) -> Seen:
    seen = Seen(sent_at=110.0, prompt_tokens=1, output_tokens=1, status=200, node=NODE)
    seen.first_at, seen.ended_at, seen.complete = 110.5, 112.0, True
    for name, value in facts.items():
        setattr(seen, name, value)
    return seen


def failed(**facts: Any) -> Seen:
    return answered(**{"complete": False, "error": "the stream ended without [DONE]", **facts})


def node(
    name: str = NODE, state: str = "gone", verified_at: float | None = VERIFIED_AT
) -> dict[str, Any]:
    stamp = datetime.fromtimestamp(verified_at, UTC).isoformat() if verified_at else None
    ordered = datetime.fromtimestamp(ORDERED_AT, UTC).isoformat()
    return {"name": name, "state": state, "verified_at": stamp, "created_at": ordered}


def judged(*seen: Seen, killed: float | None = None, **facts: Any) -> Verdict:
    given: dict[str, Any] = {"nodes": [node()], "still_billing": [], **facts}
    first = answered(sent_at=ORDERED_AT - 1.0, first_at=VERIFIED_AT + 1.0)
    return judge([first, *seen], killed={NODE: killed} if killed else {}, **given)


def test_a_run_without_a_failure_is_good() -> None:
    assert judged() == Verdict(0, ())


def test_a_failure_without_a_dead_machine_is_a_problem() -> None:
    verdict = judged(failed())

    assert verdict.excused == 0
    assert verdict.problems == (f"a request failed: the stream ended without [DONE] (node {NODE})",)


def test_a_request_in_flight_when_its_machine_died_is_excused() -> None:
    assert judged(failed(sent_at=140.0, ended_at=151.0), killed=DIED_AT) == Verdict(1, ())


@pytest.mark.parametrize(
    ("sent_at", "ended_at"),
    [
        pytest.param(140.0, 149.9, id="ended before the death"),
        pytest.param(151.1, 152.0, id="sent when the death was known"),
    ],
)
def test_a_request_that_failed_before_or_after_the_death_is_not_excused(
    sent_at: float, ended_at: float
) -> None:
    verdict = judged(failed(sent_at=sent_at, ended_at=ended_at), killed=DIED_AT)

    assert verdict.excused == 0
    assert len(verdict.problems) == 1


def test_a_request_on_another_machine_than_the_dead_one_is_not_excused() -> None:
    seen = failed(sent_at=140.0, ended_at=151.0, node=OTHER)

    assert judged(seen, killed=DIED_AT, nodes=[node(), node(OTHER)]).problems


def test_a_request_that_no_node_took_is_not_excused() -> None:
    seen = failed(sent_at=140.0, ended_at=151.0, node=None, first_at=None, error="HTTP 503: held")

    assert judged(seen, killed=DIED_AT).problems == (
        "a request failed: HTTP 503: held (node none)",
    )


def test_a_replica_of_the_dead_machine_is_excused_too() -> None:
    seen = failed(sent_at=140.0, ended_at=151.0, node=f"{NODE}.1")

    assert judged(seen, killed=DIED_AT) == Verdict(1, ())


def test_the_same_failure_is_told_once_with_its_count() -> None:
    verdict = judged(*[failed() for _ in range(300)], failed(error="HTTP 500"))

    assert len(verdict.problems) == 2
    assert verdict.problems[0].endswith("(300 times)")


def test_what_still_bills_is_a_problem() -> None:
    assert judged(still_billing=["vm-1", "disk-1"]).problems == (
        "left behind: vm-1 still bills",
        "left behind: disk-1 still bills",
    )


@pytest.mark.parametrize(
    "state", ["planned", "booting", "ready", "draining", "failed", "terminating"]
)
def test_a_node_that_is_not_closed_is_a_problem(state: str) -> None:
    assert judged(nodes=[node(state=state)]).problems == (f"not gone: {NODE} is {state}",)


@pytest.mark.parametrize("state", ["gone", "lost", "cancelled"])
def test_a_closed_node_is_none(state: str) -> None:
    assert judged(nodes=[node(state=state)]).problems == ()


def test_a_process_that_is_left_is_a_problem() -> None:
    assert judged(left=["process 7 (sleep 9)"]).problems == ("left behind: process 7 (sleep 9)",)


def test_a_token_before_verification_is_a_problem() -> None:
    verdict = judged(answered(sent_at=90.0, first_at=99.0))

    assert verdict.problems == (f"{NODE} took a request before it was verified",)


def test_a_request_held_since_before_verification_is_none() -> None:
    assert judged(answered(sent_at=90.0, first_at=101.0)).problems == ()


def test_a_request_taken_by_a_node_that_was_never_verified_is_a_problem() -> None:
    verdict = judged(nodes=[node(verified_at=None)])

    assert verdict.problems == (f"{NODE} took a request and was never verified",)


def test_a_request_that_failed_on_an_unverified_node_is_told_as_such_too() -> None:
    seen = failed(node=OTHER, first_at=None)

    assert f"{OTHER} took a request and was never verified" in judged(seen).problems


def test_a_request_without_an_end_is_a_problem() -> None:
    verdict = judged(answered(ended_at=None, complete=False))

    assert verdict.problems == ("a request never ended",)


def test_a_run_in_which_nothing_was_answered_is_no_good() -> None:
    assert judge([], [], {}, []).problems == ("no request was answered",)


def test_a_death_excuses_no_machine_that_is_left() -> None:
    verdict = judged(failed(sent_at=140.0, ended_at=151.0), killed=DIED_AT, still_billing=[NODE])

    assert verdict.excused == 1
    assert verdict.problems == (f"left behind: {NODE} still bills",)


def test_a_node_that_was_ordered_before_anybody_asked_is_a_problem() -> None:
    verdict = judge([answered(sent_at=ORDERED_AT + 3.0)], [node()], {}, [])

    assert verdict.problems == (f"not from zero: {NODE} was ordered before the first request",)


def test_a_request_that_came_while_the_pass_looked_around_is_what_its_order_was_for() -> None:
    verdict = judge([answered(sent_at=ORDERED_AT + 1.0)], [node()], {}, [])

    assert verdict.problems == ()


def test_a_broken_promise_is_a_problem() -> None:
    assert judged(broken=["not shown: it"]).problems == ("not shown: it",)
