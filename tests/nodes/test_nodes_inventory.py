"""The cloud's listing against the store's rows: what is kept, adopted, deleted, shown, and when nothing is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain.ids import IntentId, MachineId, ModelName, NodeName, node_name
from autoscaler.domain.machine import Inventory, Machine, PowerState
from autoscaler.domain.node import Node, State
from autoscaler.nodes.inventory import Findings, Owner, compare, implausible
from autoscaler.store.protocol import Orphan
from tests.nodes.life_parts import (
    INTENT,
    NOON,
    OWNER,
    intent_id,
    listing,
    machine,
    machine_of,
    minutes,
    node,
)

MARK = Owner("as1", OWNER)
GRACE = minutes(10)


def sweep(
    inventory: Inventory,
    rows: Sequence[Node] = (),
    orphans: Sequence[Orphan] = (),
    attempts: dict[IntentId, int] | None = None,
    after: timedelta = timedelta(0),
    confirmed: bool = False,
) -> Findings:
    known = {row.intent: row.attempt for row in rows} if attempts is None else attempts
    return compare(inventory, rows, known, orphans, MARK, GRACE, NOON + after, confirmed=confirmed)


def named(number: int, attempt: int = 1, owner: str = OWNER, prefix: str = "as1") -> str:
    return node_name(prefix, owner, intent_id(number), attempt, ModelName("llama"))


def fleet(count: int) -> list[Node]:
    return [
        node(State.READY, intent=intent_id(n), machine_id=MachineId(f"m{n}")) for n in range(count)
    ]


def test_the_current_attempt_of_a_live_row_is_left_alone() -> None:
    rows = [node(state) for state in (State.CREATING,)]

    assert sweep(listing(machine()), rows) == Findings()


def test_a_written_off_attempt_that_surfaces_is_adopted_while_its_intent_wants_one() -> None:
    lost = node(State.LOST)

    assert sweep(listing(machine()), [lost]).adopt == ((lost.name, machine()),)


def test_a_written_off_attempt_with_a_later_one_is_deleted() -> None:
    found = sweep(listing(machine()), [node(State.LOST)], attempts={INTENT: 2})

    assert found.adopt == ()
    assert [m.id for m, _ in found.surplus] == [machine().id]


@pytest.mark.parametrize("state", [State.GONE, State.CANCELLED])
def test_a_machine_of_a_closed_row_is_deleted_now(state: State) -> None:
    found = sweep(listing(machine()), [node(state)])

    assert found.surplus == ((machine(), f"its attempt is {state}"),)


def test_of_twins_the_recorded_one_stays() -> None:
    row = node(State.READY)
    other = machine(row.name, "a-twin", created_at=NOON - minutes(5))

    found = sweep(listing(machine_of(row), other), [row])

    assert [m.id for m, _ in found.surplus] == ["a-twin"]


@pytest.mark.parametrize(
    ("one", "two", "kept"),
    [
        ((PowerState.STARTING, 0), (PowerState.RUNNING, 5), "two"),
        ((PowerState.RUNNING, 0), (PowerState.RUNNING, 5), "one"),
        ((PowerState.RUNNING, 0), (PowerState.RUNNING, 0), "one"),
    ],
    ids=["the running one", "else the oldest", "else the smallest id"],
)
def test_of_twins_without_a_recorded_one_stays(
    one: tuple[PowerState, int], two: tuple[PowerState, int], kept: str
) -> None:
    row = node(State.CREATING)
    twins = [
        machine(row.name, id_, power, NOON + minutes(age))
        for id_, (power, age) in (("one", one), ("two", two))
    ]

    found = sweep(listing(*twins), [row])
    reversed_ = sweep(listing(*reversed(twins)), [row])

    assert [m.id for m, _ in found.surplus] == [{"one": "two", "two": "one"}[kept]]
    assert found.surplus == reversed_.surplus


def test_a_machine_that_a_row_terminates_already_is_not_found_again() -> None:
    rows = [node(State.GONE, machine_id=MachineId("first"))] + [
        node(State.TERMINATING, name=NodeName(f"{node().name}~{i}"), machine_id=MachineId(f"m{i}"))
        for i in range(5)
    ]

    found = sweep(listing(*(machine(node().name, f"m{i}") for i in range(5))), rows)

    assert found == Findings()


def test_ours_but_unknown_is_an_orphan_until_its_grace_ends() -> None:
    stray = machine(named(7), "stray")

    first = sweep(listing(stray))
    young = sweep(listing(stray), orphans=first.orphans, after=GRACE - timedelta(seconds=1))
    old = sweep(listing(stray), orphans=young.orphans, after=GRACE)

    assert first.orphans == (Orphan(stray.id, stray.name, NOON),)
    assert young.expired == ()
    assert old.expired == (stray,)


def test_an_orphan_is_never_adopted() -> None:
    found = sweep(listing(machine(named(7), "stray")), after=GRACE * 9)

    assert found.adopt == ()


def test_another_owners_machine_is_shown_and_a_strangers_counted() -> None:
    theirs = machine(named(1, owner="zzzzzzzz"), "theirs")
    older = machine(named(2, prefix="as2"), "older")

    found = sweep(listing(theirs, older, machine("postgres", "db")), after=GRACE * 9)

    assert (found.foreign, found.strangers) == ((theirs,), 2)
    assert (found.expired, found.surplus, found.orphans) == ((), (), ())


def test_an_incomplete_listing_removes_nothing_and_keeps_the_grace_times() -> None:
    stray, hidden = machine(named(7), "stray"), Orphan(MachineId("hidden"), named(8), NOON)
    old = Orphan(stray.id, stray.name, NOON)

    found = sweep(
        listing(stray, machine(), complete=False, why="page 2 is missing"),
        [node(State.GONE)],
        orphans=[old, hidden],
        after=GRACE,
    )

    assert (found.expired, found.surplus, found.adopt) == ((), (), ())
    assert found.held == "the listing is incomplete: page 2 is missing"
    assert set(found.orphans) == {old, hidden}


def test_an_empty_listing_with_a_live_fleet_is_held_until_a_person_confirms() -> None:
    held = sweep(listing(), fleet(3))

    assert "3 of our known machines are absent" in (held.held or "")
    assert "autoscaler sweep --confirm" in (held.held or "")
    assert sweep(listing(), fleet(3), confirmed=True).held is None
    assert sweep(listing(), fleet(2)).held is None


def test_an_empty_listing_proves_nothing_about_any_node_of_a_larger_fleet() -> None:
    rows = fleet(10)
    present = [machine_of(row) for row in rows]

    assert implausible(listing(), rows)
    assert implausible(listing(*present[:6]), rows)
    assert not implausible(listing(*present[:7]), rows)
    assert not implausible(listing(), fleet(2))
    assert not implausible(listing(), rows, frozenset(row.name for row in rows))


def test_machines_that_boot_or_go_are_not_missed() -> None:
    rows = [
        replace(row, state=state)
        for row, state in zip(fleet(8), [State.BOOTING] * 4 + [State.TERMINATING] * 4, strict=True)
    ]

    assert sweep(listing(), rows).held is None
    assert not implausible(listing(), rows)


def test_a_store_that_lost_its_rows_does_not_delete_the_fleet() -> None:
    """An old backup: ten machines with our mark and no row."""
    strays = [machine(named(n), f"m{n}") for n in range(10)]
    old = [Orphan(m.id, m.name, NOON) for m in strays]

    found = sweep(listing(*strays), orphans=old, after=GRACE)

    assert found.expired == ()
    assert "of our listed machines are unknown" in (found.held or "")


def test_more_than_a_tenth_of_deletes_at_once_is_held() -> None:
    rows = [replace(row, state=State.GONE) for row in fleet(3)]
    machines = [machine(row.name, row.machine_id) for row in rows]

    found = sweep(listing(*machines), rows)

    assert found.surplus == ()
    assert "3 machines would be deleted (3 in all)" in (found.held or "")
    assert len(sweep(listing(*machines), rows, confirmed=True).surplus) == 3
    assert len(sweep(listing(*machines[:2]), rows).surplus) == 2


kinds = st.sampled_from(["live", "lost", "gone", "orphan", "foreign", "stranger", "twin"])


@given(kinds=st.lists(kinds, max_size=12), complete=st.booleans(), confirmed=st.booleans())
def test_only_machines_with_our_mark_and_no_live_row_are_ever_deleted(
    kinds: list[str], complete: bool, confirmed: bool
) -> None:
    machines: list[Machine] = []
    rows: list[Node] = []
    for number, kind in enumerate(kinds):
        id_ = f"m{number}"
        match kind:
            case "live" | "lost" | "gone" | "twin":
                state = {"lost": State.LOST, "gone": State.GONE}.get(kind, State.READY)
                row = node(state, intent=intent_id(number), machine_id=MachineId(id_))
                rows.append(row)
                machines.append(machine(row.name, id_))
                if kind == "twin":
                    machines.append(machine(row.name, f"{id_}-twin"))
            case "orphan":
                machines.append(machine(named(number), id_))
            case "foreign":
                machines.append(machine(named(number, owner="zzzzzzzz"), id_))
            case _:
                machines.append(machine(f"db-{number}", id_))
    old = [Orphan(m.id, m.name, NOON) for m in machines]

    found = sweep(
        listing(*machines, complete=complete), rows, old, after=GRACE, confirmed=confirmed
    )

    deleted = {m.id for m, _ in found.surplus} | {m.id for m in found.expired}
    live = {row.machine_id for row in rows if row.state is State.READY}
    assert not deleted & live
    assert all(m.name.startswith(f"as1-{OWNER}-") for m in machines if m.id in deleted)
    assert complete or not deleted
    assert confirmed or len(deleted) <= max(2, len(machines) // 10)
