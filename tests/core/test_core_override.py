"""A person's override: so many nodes for a while, within the limits, and then the law again."""

from __future__ import annotations

from datetime import timedelta

from autoscaler.domain.node import Node, State
from autoscaler.domain.override import Override
from autoscaler.serve.views import marked
from tests.core.desk import CHAT, Desk, policy
from tests.nodes.life_parts import NOON, minutes


async def say(
    desk: Desk, nodes: int, length: timedelta = timedelta(hours=2), *, beyond: bool = False
) -> None:
    now = desk.clock.now()
    word = Override(nodes, now + length, "anna", now, beyond)
    await desk.store.set_override(CHAT, word, marked(CHAT, "model_scaled", "anna", now))


def standing(rows: tuple[Node, ...]) -> int:
    return sum(row.state in (State.READY, State.PLANNED) for row in rows)


async def test_it_rents_what_a_person_says_and_gives_the_reason(desk: Desk) -> None:
    await say(desk, 3)

    outcome = await desk.once()

    assert len(outcome.launched) == 3
    assert (outcome.decision.binding, outcome.decision.want) == ("override", 3)
    assert "override by anna until 14:00 UTC: 3 nodes" in outcome.decision.reason
    assert "without it 0 wanted" in outcome.decision.reason


async def test_it_gives_back_what_a_person_does_not_want_even_while_figures_are_missing(
    desk: Desk,
) -> None:
    desk.feed.arrivals = 4.0
    await desk.passes(minutes(5))
    await desk.be(State.READY)
    assert standing(await desk.fleet()) > 1
    desk.feed.arrivals = None
    await say(desk, 1)

    await desk.passes(minutes(5))

    assert standing(await desk.fleet()) == 1


async def test_when_it_ends_the_law_takes_over_and_an_event_says_so(desk: Desk) -> None:
    await say(desk, 2, minutes(10))
    await desk.passes(minutes(9))
    await desk.be(State.READY)

    await desk.passes(minutes(60))

    assert (await desk.store.record(CHAT)).override is None
    assert {row.state for row in await desk.fleet()} == {State.DRAINING}
    ended = [e for e in await desk.store.events(model=CHAT) if e.kind == "override_ended"]
    assert [(e.cause, e.actor) for e in ended] == [
        ("the override of 2 nodes by anna ended", "daemon")
    ]


async def test_zero_is_zero_whatever_comes(desk: Desk) -> None:
    desk.feed.arrivals = 4.0
    await desk.passes(minutes(5))
    await desk.be(State.READY)
    await say(desk, 0)

    await desk.passes(minutes(5))

    assert standing(await desk.fleet()) == 0


async def test_it_survives_a_restart(desk: Desk) -> None:
    await say(desk, 2)
    desk.__post_init__()

    assert len((await desk.once()).launched) == 2


async def test_beyond_the_most_nodes_only_where_it_was_said_and_never_beyond_a_limit(
    desk: Desk,
) -> None:
    desk.policy = policy(nodes={"max": 1})
    await say(desk, 3)
    within = await desk.once()
    await say(desk, 5, beyond=True)
    beyond = await desk.once()
    desk.policy = policy(nodes={"max": 1}, limit="$4/h")
    await say(desk, 9, beyond=True)
    await desk.once()

    assert len(within.launched) == 1
    assert len(beyond.launched) == 4
    assert len(await desk.fleet()) == 5


async def test_a_retired_model_has_no_override_and_a_paused_one_waits(desk: Desk) -> None:
    await say(desk, 2)
    await desk.store.set_paused(CHAT, "anna", NOON)
    paused = await desk.once()
    await desk.store.set_paused(CHAT, None, NOON)
    await desk.store.set_retired(CHAT, "anna", NOON)
    retired = await desk.once()

    assert not paused.launched
    assert not retired.launched
    assert retired.decision.binding != "override"


async def test_a_passed_limit_drains_below_an_override(desk: Desk) -> None:
    await say(desk, 2, timedelta(hours=9))
    await desk.once()
    await desk.be(State.READY)
    desk.policy = policy(limits={"usd_per_day": "0.50", "on_limit": "drain-to-min"})

    await desk.passes(minutes(60))

    assert {row.state for row in await desk.fleet()} == {State.DRAINING}
