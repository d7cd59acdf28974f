"""What the daemon that comes after a killed one makes of each state, and any order of faults."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoscaler.domain.node import CLOSED, State
from autoscaler.errors import (
    CloudUnavailable,
    OutcomeUnknown,
    OutOfStock,
    VerificationFailed,
)
from tests.nodes.life_parts import (
    NOON,
    TIMINGS,
    Life,
    life,
    node,
    open_store,
    seconds,
)
from tests.nodes.life_verbs import ready, release

NAME = node().name


# an heir goes on from each state


async def test_an_heir_sends_what_was_only_planned(alive: Life) -> None:
    await alive.add(node())
    heir = await alive.heir()

    await heir.until(NAME, State.READY)

    assert heir.cloud.sent("create") == [NAME]


@pytest.mark.parametrize("made", [True, False])
async def test_an_heir_looks_for_a_create_that_may_have_been_sent(alive: Life, made: bool) -> None:
    """Killed between the row and the answer: with the machine made, or not."""
    await alive.add(node(State.CREATING))
    if made:
        alive.cloud.add(NAME)
    alive.clock.move(7200)  # the daemon was away for long: the time counts from the heir's own look
    heir = await alive.heir()
    heir.pause_s = 15

    first = await heir.step(NAME)
    ended = await heir.until(NAME, State.READY if made else State.LOST, most=400)

    assert heir.cloud.sent("create") == []
    assert first.state is (State.BOOTING if made else State.CREATING)
    assert (ended.since - NOON) >= seconds(7200) + (seconds(0) if made else TIMINGS.settling_time)


@pytest.mark.parametrize("state", [State.BOOTING, State.VERIFYING])
async def test_an_heir_goes_on_with_a_launch(alive: Life, state: State) -> None:
    await alive.add(node())
    await alive.until(NAME, state)
    heir = await alive.heir()

    await heir.until(NAME, State.READY)

    assert heir.cloud.sent("create") == [NAME]
    assert set(heir.balancer.servers) == {NAME}


async def test_an_heir_leaves_what_serves_alone(alive: Life) -> None:
    row = await ready(alive)
    calls, told = list(alive.cloud.calls), list(alive.balancer.told)
    heir = await alive.heir()

    still = await heir.steps(row.name, 30)

    assert still.state is State.READY
    assert (heir.cloud.calls, heir.balancer.told) == (calls, told)


async def test_an_heir_proves_a_drain_itself_before_it_ends_it(alive: Life) -> None:
    row = await ready(alive)
    await release(alive, row)
    await alive.steps(row.name, 4)
    heir = await alive.heir()

    assert (await heir.step(row.name)).state is State.DRAINING
    assert (await heir.until(row.name, State.GONE)).failure is None


@pytest.mark.parametrize("state", [State.TERMINATING, State.FAILED])
async def test_an_heir_ends_what_was_ending(alive: Life, state: State) -> None:
    alive.prober.verdict = VerificationFailed("1 GPU of 2")
    await alive.add(node())
    await alive.until(NAME, state)
    heir = await alive.heir()

    await heir.until(NAME, State.GONE)

    assert heir.cloud.vms == {}


# any order of faults

FAULTS = st.sampled_from(
    ["none", "kill", "away", "back", "hide", "show", "mute", "speak", "restart", "release", "jump"]
)


@given(
    create=st.sampled_from(["ok", "lost but made", "lost", "refused"]),
    faults=st.lists(FAULTS, max_size=14),
)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_whatever_goes_wrong_nothing_is_rented_twice_and_nothing_bills_unknown(
    tmp_path_factory: pytest.TempPathFactory, create: str, faults: list[str]
) -> None:
    store = open_store(tmp_path_factory.mktemp("any"))
    now = await life(store)
    if create != "ok":
        now.cloud.create_raises = [
            OutOfStock("none") if create == "refused" else OutcomeUnknown("timeout")
        ]
        now.cloud.makes_although_it_raises = create == "lost but made"
    await now.add(node())
    for fault in faults:
        match fault:
            case "kill":
                now = await now.heir()
            case "away":
                now.cloud.unreadable = CloudUnavailable("503")
            case "back":
                now.cloud.unreadable = None
            case "hide" | "show":
                now.cloud.hidden = fault == "hide"
            case "mute" | "speak":
                now.balancer.silent = fault == "mute"
            case "restart":
                now.balancer.restart()
            case "jump":
                now.clock.jump(timedelta(minutes=20))
            case "release":
                row = await now.get(NAME)
                if row.state is State.READY:
                    await release(now, row)
        for _ in range(4):
            row = await now.step(NAME)
            assert len(now.cloud.sent("create")) <= 1
            assert row.state not in CLOSED or not now.cloud.vms
    now.cloud.unreadable, now.cloud.hidden, now.balancer.silent = None, False, False
    row = await now.steps(NAME, 60)
    if row.state is State.READY:
        await release(now, row)
    while row.state not in CLOSED:
        now.clock.move(30)
        await now.leases.renew_all()
        row = await now.step(NAME)
    assert now.cloud.vms == {}
    assert now.balancer.servers == {}
    await store.close()
