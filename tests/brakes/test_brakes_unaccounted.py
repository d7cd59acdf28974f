"""What a living daemon disowns twice is deleted, under guards; everything else is left alone and said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from autoscaler.brakes.audit import Audit, judge
from autoscaler.brakes.ours import Holdings, look
from autoscaler.brakes.targets import Tempo
from autoscaler.brakes.unaccounted import Execution, Sentence, sentence
from autoscaler.brakes.witness import Witness
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import Disk, FirewallRule
from tests.brakes.parts import NOON, OURS, PRICES, Clock, LyingCloud, machine, name, witness
from tests.brakes.test_brakes_panic import hidden, partly

APART, GRACE = timedelta(seconds=60), timedelta(minutes=10)
KNOWN = {name(n): MachineId(f"id-{name(n)}") for n in range(10)}


@pytest.fixture
def cloud() -> LyingCloud:
    """Ten VMs of a daemon's, and one that nobody knows."""
    found = LyingCloud(Clock())
    found.add(*KNOWN, name(20))
    return found


async def audits(
    cloud: LyingCloud, *words: Witness | None, apart: timedelta = APART, age: timedelta = GRACE
) -> tuple[Audit, Audit]:
    """Two audits; what a daemon says in each."""
    found = []
    for number, word in enumerate(words if len(words) == 2 else words * 2):
        at = NOON + age + number * apart
        holdings: Holdings = replace(await look(cloud, OURS, PRICES, at), at=at)
        found.append(judge(holdings, word, "" if word else "nobody is there"))
    return found[0], found[1]


async def judged(cloud: LyingCloud, *words: Witness | None, **when: timedelta) -> Sentence:
    return sentence(*await audits(cloud, *words, **when), APART, GRACE)


async def test_what_two_answers_disown_is_doomed(cloud: LyingCloud) -> None:
    cloud.spare_disks = [Disk("d1", "OS-disk-left", 128, "x", created_at=NOON)]

    found = await judged(cloud, witness(nodes=KNOWN, closed={MachineId("left"): name(21)}))

    assert found.held == ""
    assert [thing.id for thing in found.doomed] == [f"id-{name(20)}", "d1"]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (witness(nodes=KNOWN, held="3 of our known machines are absent"), "own sweep is held"),
        (witness(nodes=dict(list(KNOWN.items())[:7])), "4 of 11 listed VMs are disowned"),
        (
            witness(nodes={**KNOWN, **{name(n): MachineId(f"x{n}") for n in range(11, 17)}}),
            "6 of the daemon's 16 VMs are not listed",
        ),
        (None, "nobody is there"),
    ],
    ids=["held", "disowns many", "knows many that are not listed", "no daemon"],
)
async def test_an_answer_that_may_be_wrong_holds_all_of_it_back(
    cloud: LyingCloud, told: Witness | None, why: str
) -> None:
    good = witness(nodes=KNOWN)

    for words in ((told, good), (good, told)):
        found = await judged(cloud, *words)

        assert found.doomed == ()
        assert why in found.held


async def test_more_deletes_than_a_tenth_are_held_and_two_never_are(cloud: LyingCloud) -> None:
    good = witness(nodes=KNOWN)
    cloud.add(name(21))
    assert len((await judged(cloud, good)).doomed) == 2
    cloud.add(name(22))

    assert (await judged(cloud, good)).held == "3 of 13 VMs would be deleted"


async def test_a_list_that_is_not_whole_holds_all_of_it_back(cloud: LyingCloud) -> None:
    cloud.lists = [None, lambda whole: replace(whole, complete=False, why_incomplete="cut")]

    assert "not whole: cut" in (await judged(cloud, witness(nodes=KNOWN))).held


async def test_answers_that_follow_each_other_too_soon_are_one_answer(cloud: LyingCloud) -> None:
    found = await judged(cloud, witness(nodes=KNOWN), apart=timedelta(seconds=59))

    assert "59 s apart" in found.held


async def test_what_only_one_answer_disowns_is_spared(cloud: LyingCloud) -> None:
    taken_up = witness(nodes={**KNOWN, name(20): None})
    good = witness(nodes=KNOWN)

    assert await judged(cloud, good, taken_up) == Sentence()
    late = await judged(cloud, taken_up, good)
    assert late.doomed == ()
    assert late.spared[0][1] == "only the second answer disowns it"


@pytest.mark.parametrize(
    ("first_sight_s", "age_s", "is_doomed"),
    [(None, 0, False), (0, 0, False), (-600, 0, True), (None, 600, True)],
)
async def test_what_is_younger_than_the_grace_time_is_the_daemons_to_delete(
    cloud: LyingCloud, first_sight_s: float | None, age_s: float, is_doomed: bool
) -> None:
    sight = NOON + timedelta(seconds=first_sight_s) if first_sight_s is not None else None
    told = witness(nodes=KNOWN, orphans={MachineId(f"id-{name(20)}"): sight})

    found = await judged(cloud, told, age=timedelta(seconds=age_s))

    assert bool(found.doomed) == is_doomed
    assert is_doomed or "younger than 600 s" in found.spared[0][1]


async def test_what_a_daemon_never_makes_or_costs_nothing_or_has_no_age_is_left_alone(
    cloud: LyingCloud,
) -> None:
    cloud.vms = {
        "a": replace(machine("as1-testtest-mybox"), id=MachineId("a")),
        "b": replace(machine(name(21)), id=MachineId("b"), created_at=None),
        **{key: vm for key, vm in cloud.vms.items() if vm.name in KNOWN},
    }
    cloud.spare_disks = [Disk("d1", "OS-disk-b", 128, "x", (MachineId("b"),), NOON)]
    cloud.rules = [FirewallRule("r1", "as1-testtest-serve", (), ("8000",), active=True)]

    found = await judged(cloud, witness(nodes=KNOWN))

    assert found.doomed == ()
    assert {thing.id: why for thing, why in found.spared} == {
        "a": "its name is of no form that a daemon makes",
        "b": "nobody tells how old it is",
        "d1": "it goes with its VM",
        "r1": "it costs nothing",
    }


async def test_the_doomed_are_asked_until_they_are_proven_absent_and_nothing_else_is(
    cloud: LyingCloud,
) -> None:
    cloud.spare_disks = [Disk("d1", "OS-disk-left", 128, "x", created_at=NOON)]
    told: dict[str, Any] = {"nodes": KNOWN, "closed": {MachineId("left"): name(21)}}
    found = await judged(cloud, witness(**told))
    cloud.deletes = ["ignored", "ignored"]
    cloud.refuses_running = True
    cloud.lists = [partly, hidden, hidden]

    left = await Execution(cloud, PRICES, Tempo(), cloud.clock, found.doomed).run()

    assert left == []
    assert {vm.name for vm in cloud.vms.values()} == set(KNOWN)
    assert cloud.spare_disks == []
    assert cloud.touched() == {f"id-{name(20)}", "d1"}
    assert cloud.clock.passed_s - 1000 >= 60
