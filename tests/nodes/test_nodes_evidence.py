"""What must be seen, how often and how far apart, before a node counts as gone, drained or dead."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.balance.protocol import PoolReport, ServerReport, ServerState
from autoscaler.domain.ids import MachineId, NodeName
from autoscaler.domain.machine import Inventory
from autoscaler.domain.node import State
from autoscaler.errors import CloudUnavailable
from autoscaler.nodes import register
from autoscaler.nodes.absence import AbsenceProof
from autoscaler.nodes.ages import Ages
from autoscaler.nodes.drain import DrainEvidence
from autoscaler.nodes.listing import InventoryFeed
from autoscaler.nodes.liveness import Suspicion, Witnesses, judge
from autoscaler.nodes.terminate import delete_due
from tests.nodes.life_parts import (
    MODEL,
    NOON,
    AirCloud,
    HandClock,
    listing,
    machine,
    node,
    seconds,
)

ID = MachineId("m1")
EMPTY = listing()


def proof_after(*looks: tuple[float, Inventory]) -> AbsenceProof:
    proof = AbsenceProof(seconds(60))
    for at_s, inventory in looks:
        proof.witness(inventory, at_s, "as1-x", ID)
    return proof


# absence


def test_three_complete_listings_over_a_minute_agree() -> None:
    assert proof_after((0, EMPTY), (30, EMPTY), (60, EMPTY)).listings_agree


@pytest.mark.parametrize(
    "looks",
    [
        [(0, EMPTY), (60, EMPTY)],
        [(0, EMPTY), (30, EMPTY), (59, EMPTY)],
        [(0, EMPTY), (0, EMPTY), (60, EMPTY)],
        [(0, EMPTY), (30, listing(complete=False)), (60, EMPTY)],
        [(0, EMPTY), (30, listing(machine("as1-x", ID))), (60, EMPTY), (90, EMPTY)],
    ],
    ids=["two", "too soon", "one read twice", "one incomplete", "seen in between"],
)
def test_less_than_that_proves_nothing(looks: list[tuple[float, Inventory]]) -> None:
    assert not proof_after(*looks).listings_agree


def test_an_incomplete_listing_that_shows_it_takes_the_proof_back() -> None:
    seen = listing(machine("as1-x", ID), complete=False)

    assert not proof_after((0, EMPTY), (30, EMPTY), (60, EMPTY), (61, seen)).listings_agree


def test_a_machine_without_a_known_id_is_looked_for_by_its_name() -> None:
    proof = AbsenceProof(seconds(60))
    for at_s in (0.0, 30.0, 60.0):
        proof.witness(listing(machine("as1-x", "another id")), at_s, "as1-x", None)

    assert not proof.listings_agree


@given(st.lists(st.tuples(st.floats(0, 300), st.sampled_from(["gone", "there", "cut"]))))
def test_agreement_needs_a_minute_of_complete_listings_since_it_was_last_seen(
    looks: list[tuple[float, str]],
) -> None:
    shown = {"gone": EMPTY, "there": listing(machine("as1-x", ID)), "cut": listing(complete=False)}
    looks.sort(key=lambda look: look[0])
    proof = proof_after(*((at_s, shown[what]) for at_s, what in looks))

    last_seen = max((i for i, (_, what) in enumerate(looks) if what == "there"), default=-1)
    since = sorted({at_s for at_s, what in looks[last_seen + 1 :] if what == "gone"})

    assert proof.listings_agree == (len(since) >= 3 and since[-1] - since[0] >= 60)
    assert len(proof.seen) <= 4


# one listing for all


async def test_many_ask_and_the_cloud_is_called_once() -> None:
    clock = HandClock()
    feed = InventoryFeed(AirCloud(clock), clock)

    first = await feed.latest(seconds(2))
    clock.move(1.9)
    again = await feed.latest(seconds(2))
    clock.move(0.2)
    later = await feed.latest(seconds(2))

    assert again is first
    assert later is not first


async def test_a_clock_set_back_an_hour_does_not_keep_an_old_listing_young() -> None:
    clock = HandClock()
    feed = InventoryFeed(AirCloud(clock), clock)
    old = await feed.latest(seconds(0))

    clock.jump(timedelta(hours=-1))
    clock.move(5)

    assert await feed.latest(seconds(2)) is not old


async def test_a_listing_that_fails_leaves_the_last_one_known() -> None:
    clock = HandClock()
    cloud = AirCloud(clock)
    feed = InventoryFeed(cloud, clock)
    old = await feed.latest(seconds(0))
    cloud.unreadable = CloudUnavailable("503")

    with pytest.raises(CloudUnavailable):
        await feed.latest(seconds(0))

    assert feed.last is old


# drain

ROW = node(State.DRAINING)
ENDPOINT = ROW.endpoints[0]


def report(
    state: ServerState | None = ServerState.DRAINING,
    in_flight: int = 0,
    queued: int = 0,
    incarnation: str = "1",
    old: int = 0,
) -> PoolReport:
    server = (
        () if state is None else (ServerReport(ROW.name, ENDPOINT.url, state, in_flight, queued),)
    )
    return PoolReport(MODEL, server, incarnation, 0, NOON, old)


IDLE = report()


class Drain:
    """A drain watched at given seconds."""

    def __init__(self) -> None:
        self.evidence = DrainEvidence(settle=seconds(3), sample_gap=seconds(2))

    def see(self, at_s: float, *seen: PoolReport, engine: int | None = 0) -> bool:
        self.evidence.witness(ROW, seen or (IDLE,), engine, at_s)
        return self.evidence.is_drained(at_s)


def test_zero_counts_after_settling_and_must_be_seen_twice() -> None:
    drain = Drain()

    assert [drain.see(at) for at in (0, 1, 2, 3, 4, 5)] == [False] * 5 + [True]


@pytest.mark.parametrize(
    "busy", [report(in_flight=1), report(queued=1), report(old=1)], ids=["flying", "queued", "old"]
)
def test_anything_in_flight_or_an_old_process_starts_the_samples_anew(busy: PoolReport) -> None:
    drain = Drain()
    for at in (0, 3):
        drain.see(at)

    assert not drain.see(6, busy)
    assert not drain.see(8)
    assert drain.see(10)


@pytest.mark.parametrize("engine", [1, None])
def test_an_engine_that_works_or_does_not_say_is_no_zero(engine: int | None) -> None:
    drain = Drain()

    assert not any(drain.see(at, engine=engine) for at in range(0, 600, 5))


def test_a_balancer_that_restarted_is_asked_from_the_start() -> None:
    drain = Drain()
    for at in (0, 3):
        drain.see(at)

    assert not drain.see(6, report(incarnation="2"))
    assert not drain.see(8, report(incarnation="2"))
    assert not drain.see(9, report(incarnation="2"))
    assert drain.see(11, report(incarnation="2"))


def test_one_balancer_of_two_that_still_places_requests_holds_the_drain() -> None:
    drain = Drain()

    assert not any(drain.see(at, IDLE, report(ServerState.UP)) for at in range(0, 60, 3))
    assert not any(drain.see(at, IDLE, report(ServerState.DOWN)) for at in range(60, 90, 3))


def test_the_count_that_is_shown_is_the_larger_of_both_witnesses() -> None:
    drain = Drain()
    drain.see(0, report(in_flight=2, queued=1), engine=5)
    assert drain.evidence.in_flight == 5
    drain.see(1, report(in_flight=7), engine=None)
    assert drain.evidence.in_flight == 7


def test_a_node_that_serves_again_must_be_drained_anew() -> None:
    drain = Drain()
    for at in (0, 3, 5):
        drain.see(at)
    drain.evidence.forget()

    assert not drain.see(6)


looks_at_a_drain = st.lists(
    st.tuples(
        st.floats(0.5, 4),
        st.sampled_from([IDLE, report(in_flight=1), report(ServerState.UP), report(old=1)]),
        st.sampled_from([0, 0, 0, 1, None]),
        st.booleans(),
    ),
    max_size=25,
)


@given(looks=looks_at_a_drain)
def test_a_drain_ends_only_after_two_quiet_samples_of_one_incarnation(
    looks: list[tuple[float, PoolReport, int | None, bool]],
) -> None:
    drain, at_s, number = Drain(), 0.0, 0
    quiet: list[float] = []
    for pause, seen, engine, restarted in looks:
        at_s += pause
        number += restarted
        if restarted or seen is not IDLE or engine != 0:
            quiet.clear()
        if seen is IDLE and engine == 0:
            quiet.append(at_s)
        drained = drain.see(at_s, replace(seen, incarnation=str(number)), engine=engine)

        assert not drained or (len(quiet) >= 2 and quiet[-1] - quiet[0] >= 2)


# registration


def test_registered_means_up_at_the_right_address_at_every_balancer() -> None:
    row = node(State.READY)
    up = report(ServerState.UP)
    moved = replace(up, servers=(replace(up.servers[0], url="http://198.51.100.9:8000"),))

    assert register.is_registered(row, (up, up))
    assert not register.is_registered(row, (up, report(None)))
    assert not register.is_registered(row, (up, report(ServerState.DOWN)))
    assert not register.is_registered(row, (up, moved))
    assert not register.is_registered(replace(row, endpoints=()), (up,))
    assert register.is_known(row, (up, report(ServerState.DOWN)))
    assert not register.is_known(row, (up, IDLE))
    assert register.is_unregistered(row, (report(None),))
    assert not register.is_unregistered(row, (report(None), IDLE))


# who is given up

AGAINST = Witnesses("no answer over SSH", "its check fails", None, reached=False)


def suspects(count: int, since_s: float = 0.0) -> dict[NodeName, Suspicion]:
    return {NodeName(f"n{i}"): Suspicion(since_s, AGAINST) for i in range(count)}


def test_two_witnesses_for_long_enough_condemn_a_node() -> None:
    assert not judge(3, suspects(1), seconds(30), 29.0).condemned
    verdict = judge(3, suspects(1), seconds(30), 30.0)

    assert verdict.condemned == {"n0": "condemned: no answer over SSH; its check fails"}


def test_from_four_nodes_up_more_than_half_failing_alike_is_us() -> None:
    assert len(judge(4, suspects(2), seconds(30), 60).condemned) == 2
    assert judge(4, suspects(3), seconds(30), 60).condemned == {}
    assert "3 of 4" in (judge(4, suspects(3), seconds(30), 60).held or "")


def test_two_or_three_nodes_that_all_fail_alike_are_us_unless_somebody_reached_them() -> None:
    """Daemon and balancer often stand on one host: a glitch of its network looks like two witnesses."""
    reached = replace(AGAINST, reached=True)
    listed = replace(AGAINST, cloud="the cloud does not list it")

    assert judge(3, suspects(3), seconds(30), 60).condemned == {}
    assert "all 2 nodes fail alike" in (judge(2, suspects(2), seconds(30), 60).held or "")
    assert len(judge(1, suspects(1), seconds(30), 60).condemned) == 1
    assert len(judge(3, suspects(2), seconds(30), 60).condemned) == 2
    for word in (reached, listed):
        known = suspects(2) | {NodeName("n2"): Suspicion(0.0, word)}
        assert len(judge(3, known, seconds(30), 60).condemned) == 3


def test_none_is_given_up_while_the_cloud_cannot_be_reached_either() -> None:
    reached = {NodeName("n0"): Suspicion(0.0, replace(AGAINST, reached=True))}

    away = judge(9, suspects(1), seconds(30), 60, is_cloud_away=True)

    assert away.condemned == {}
    assert "does not answer us either" in (away.held or "")
    assert judge(1, reached, seconds(30), 60, is_cloud_away=True).condemned


def test_the_first_to_come_due_is_not_given_up_before_the_others_are_counted() -> None:
    staggered = suspects(1) | {
        NodeName(f"later{i}"): Suspicion(10.0 + i, AGAINST) for i in range(3)
    }

    assert judge(4, staggered, seconds(30), 31).condemned == {}


@given(serving=st.integers(4, 50), ill=st.integers(0, 50), at_s=st.floats(0, 100))
def test_never_most_of_a_fleet_at_once(serving: int, ill: int, at_s: float) -> None:
    verdict = judge(serving, suspects(min(ill, serving)), seconds(30), at_s)

    assert len(verdict.condemned) * 2 <= serving


# asking again


def test_deletes_are_asked_again_after_5_s_doubling_to_5_min_without_end() -> None:
    waits = []
    for deletes in range(1, 12):
        row = node(State.TERMINATING, last_delete_at=NOON, deletes=deletes)
        waits.append(
            next(
                s
                for s in range(1, 400)
                if delete_due(row, seconds(5), seconds(300), NOON + seconds(s))
            )
        )

    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300]


@given(deletes=st.integers(0, 10**6))
def test_no_number_of_tries_makes_it_give_up(deletes: int) -> None:
    row = node(State.TERMINATING, last_delete_at=NOON, deletes=deletes)

    assert delete_due(row, seconds(5), seconds(300), NOON + seconds(300))


def test_a_clock_set_back_does_not_put_a_delete_off() -> None:
    row = node(State.TERMINATING, last_delete_at=NOON, deletes=1)

    assert delete_due(row, seconds(5), seconds(300), NOON - timedelta(hours=1))


# ages


def test_a_wall_clock_that_jumps_lets_no_deadline_pass() -> None:
    clock = HandClock()
    ages = Ages(clock)
    row = node(State.BOOTING)
    ages.instant(row)
    clock.move(60)

    clock.jump(timedelta(hours=3))
    ahead = ages.instant(row)
    clock.jump(timedelta(hours=-9))
    back = ages.instant(row)

    assert abs((ahead - NOON).total_seconds() - 60) < 0.001
    assert abs((back - NOON).total_seconds() - 60) < 0.001


def test_a_state_entered_after_the_jump_is_aged_by_the_new_clock() -> None:
    clock = HandClock()
    ages = Ages(clock)
    ages.instant(node(State.BOOTING))
    clock.jump(timedelta(hours=3))
    moved = node(State.VERIFYING, since=clock.now())
    ages.instant(moved)

    clock.move(30)

    assert abs((ages.instant(moved) - moved.since).total_seconds() - 30) < 0.001


@pytest.mark.parametrize("by", [timedelta(hours=2), -timedelta(hours=2)])
def test_a_state_that_another_part_recorded_right_before_a_jump_is_no_older_for_it(
    by: timedelta,
) -> None:
    clock = HandClock()
    ages = Ages(clock)
    ages.instant(node(State.READY))
    draining = node(State.DRAINING, since=clock.now())
    clock.move(5)
    clock.jump(by)

    age = ages.instant(draining) - draining.since

    assert abs(age.total_seconds() - 5) < 0.001


def test_an_heir_ages_a_node_by_what_its_row_says() -> None:
    clock = HandClock()
    clock.move(600)

    assert Ages(clock).instant(node(State.BOOTING)) - NOON == seconds(600)
