"""A node's life, row by row of its table, and what no sequence of sightings may ever do to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.domain.ids import OperationId
from autoscaler.domain.machine import Machine, Operation, OperationState, PowerState
from autoscaler.domain.node import CLOSED, Node, State
from autoscaler.nodes.lifecycle import Effect, Rules, Sighting, Step, next_step
from tests.nodes.life_parts import NOON, machine, minutes, node, seconds

RULES = Rules(
    deadlines={
        State.CREATING: minutes(10),
        State.BOOTING: minutes(15),
        State.VERIFYING: minutes(30),
        State.DRAINING: minutes(30),
        State.FAILED: minutes(1),
    },
    settling_time=minutes(10),
    registering=minutes(5),
)
CUT = replace(RULES, cut_at_deadline=True)
NOTHING = Sighting()


def after(row: Node, seen: Sighting, length: timedelta, rules: Rules = RULES) -> Step:
    return next_step(row, seen, rules, NOON + length)


def operation(state: OperationState, message: str = "") -> Operation:
    return Operation(OperationId("op"), state, "create", message=message)


def unanswered() -> Node:
    return node(State.CREATING, first_look_at=NOON)


def test_a_planned_node_is_created_once_its_intent_is_durable() -> None:
    step = after(node(State.PLANNED), NOTHING, seconds(0))

    assert (step.state, step.effect) == (State.CREATING, Effect.CREATE)


def test_a_create_is_never_sent_again_from_any_later_state() -> None:
    for state in State:
        if state is not State.PLANNED:
            assert after(node(state), NOTHING, minutes(1)).effect is not Effect.CREATE


def test_a_listed_machine_ends_creating_whatever_its_operation_says() -> None:
    seen = Sighting(machine=machine(), operation=operation(OperationState.FAILED, "boom"))

    assert after(unanswered(), seen, seconds(1)).state is State.BOOTING


def test_a_failed_operation_is_not_believed_but_terminated_by_name() -> None:
    seen = Sighting(operation=operation(OperationState.FAILED, "no stock left"), listed=True)

    failed = after(unanswered(), seen, seconds(1))
    ended = after(node(State.FAILED, failure=failed.reason), Sighting(diagnosed=True), minutes(0))
    unproven = after(node(State.TERMINATING), Sighting(unregistered=True), minutes(60))

    assert failed.state is State.FAILED
    assert failed.reason.startswith("stock:")
    assert ended.state is State.TERMINATING
    assert (unproven.state, unproven.effect) == (State.TERMINATING, Effect.DELETE)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Quota exceeded", "quota"),
        ("no capacity", "stock"),
        ("bad image", "create"),
        ("", "create"),
    ],
)
def test_a_failed_operation_says_what_sort_of_failure_it_was(message: str, kind: str) -> None:
    seen = Sighting(operation=operation(OperationState.FAILED, message))

    assert after(unanswered(), seen, seconds(1)).reason.partition(":")[0] == kind


def test_a_succeeded_operation_without_a_machine_waits_for_the_deadline_only() -> None:
    row = node(State.CREATING, operation_id=OperationId("op"))
    seen = Sighting(operation=operation(OperationState.SUCCEEDED), listed=True)

    assert after(row, seen, minutes(9)).state is State.CREATING
    assert after(row, seen, minutes(10)).state is State.FAILED


def test_an_unanswered_create_is_lost_only_after_the_settling_time_from_its_own_first_look() -> (
    None
):
    heirs = node(State.CREATING, since=NOON - minutes(60), first_look_at=NOON)
    looked = Sighting(listed=True)

    assert after(node(State.CREATING), looked, minutes(60)).state is State.CREATING
    assert after(heirs, looked, minutes(9.9)).state is State.CREATING
    assert after(heirs, looked, minutes(10)).state is State.LOST


def test_nothing_is_written_off_while_the_cloud_cannot_be_read() -> None:
    assert after(unanswered(), Sighting(listed=False), minutes(600)).state is State.CREATING


@pytest.mark.parametrize("kind", ["stock", "quota", "payment", "create"])
def test_a_create_that_was_refused_in_its_own_answer_is_over_at_once(kind: str) -> None:
    row = node(State.CREATING, failure=f"{kind}: refused")

    assert after(row, NOTHING, seconds(0)) == Step(State.CANCELLED, Effect.NONE, f"{kind}: refused")


def test_a_create_that_failed_without_an_answer_of_the_api_is_terminated_by_its_name() -> None:
    row = node(State.CREATING, failure="cloud: 503")

    assert after(row, NOTHING, seconds(0)) == Step(
        State.FAILED, Effect.SAVE_DIAGNOSTICS, "cloud: 503"
    )


def test_a_refused_create_whose_machine_is_listed_all_the_same_is_terminated() -> None:
    row = node(State.CREATING, failure="stock: none left")

    assert after(row, Sighting(machine=machine()), seconds(0)).state is State.FAILED


def test_booting_ends_with_a_proven_host_key() -> None:
    waiting = after(node(State.BOOTING), Sighting(machine=machine()), minutes(1))
    proven = after(node(State.BOOTING), Sighting(machine=machine(), host_key="key"), minutes(1))

    assert waiting.effect is Effect.CONTACT
    assert proven.state is State.VERIFYING


@pytest.mark.parametrize("state", [State.BOOTING, State.VERIFYING])
def test_a_launch_that_outlives_its_deadline_fails_and_names_its_stage(state: State) -> None:
    row = node(state, stage="pull")

    in_time = after(row, NOTHING, RULES.deadlines[state] - seconds(1))
    late = after(row, NOTHING, RULES.deadlines[state])

    assert in_time.state is state
    assert late.state is State.FAILED
    assert "at stage pull" in late.reason


@pytest.mark.parametrize("state", [State.BOOTING, State.VERIFYING, State.READY])
@pytest.mark.parametrize("power", [PowerState.STOPPED, PowerState.BROKEN])
def test_a_machine_that_stopped_is_replaced_and_never_restarted(
    state: State, power: PowerState
) -> None:
    seen = Sighting(machine=machine(power=power), registered=True)

    assert after(node(state), seen, seconds(1)).state is State.FAILED


@pytest.mark.parametrize("power", [PowerState.UNKNOWN, PowerState.STARTING])
def test_an_unknown_power_state_condemns_nobody(power: PowerState) -> None:
    seen = Sighting(machine=machine(power=power), registered=True)

    assert after(node(State.READY), seen, seconds(1)).state is State.READY


def test_a_verified_node_is_ready_only_when_every_balancer_says_so() -> None:
    row = node(State.VERIFYING, verified_at=NOON)

    told = after(row, NOTHING, seconds(2))
    ready = after(row, Sighting(registered=True), seconds(4))

    assert (told.state, told.effect) == (State.VERIFYING, Effect.REGISTER)
    assert ready.state is State.READY


def test_a_balancer_that_is_down_keeps_a_verified_node_waiting_for_as_long_as_it_is() -> None:
    row = node(State.VERIFYING, verified_at=NOON)

    down = after(row, Sighting(unlisted_for=seconds(0)), minutes(600))
    refusing = after(row, Sighting(unlisted_for=minutes(5)), minutes(5))

    assert (down.state, down.effect) == (State.VERIFYING, Effect.REGISTER)
    assert refusing.state is State.FAILED


def test_a_ready_node_that_a_balancer_forgot_is_told_again() -> None:
    step = after(node(State.READY), Sighting(registered=False), minutes(1))

    assert (step.state, step.effect) == (State.READY, Effect.REGISTER)


def test_a_drain_waits_for_work_and_not_for_the_clock() -> None:
    row = node(State.DRAINING)

    busy = after(row, NOTHING, minutes(600))
    idle = after(row, Sighting(drained=True), minutes(1))
    gone = after(row, Sighting(drained=True, unregistered=True), minutes(1))

    assert (busy.state, busy.effect) == (State.DRAINING, Effect.DRAIN)
    assert (idle.state, idle.effect) == (State.DRAINING, Effect.REMOVE)
    assert gone.state is State.TERMINATING


def test_a_balancer_that_forgot_a_draining_node_does_not_end_its_streams() -> None:
    row = node(State.DRAINING)
    forgotten = Sighting(unregistered=True)

    assert after(row, forgotten, minutes(1)).state is State.DRAINING
    assert after(row, forgotten, minutes(600)).state is State.DRAINING


def test_only_a_policy_that_says_cut_cuts_and_only_at_the_deadline() -> None:
    row = node(State.DRAINING)

    assert after(row, NOTHING, minutes(29), CUT).effect is Effect.DRAIN
    assert after(row, NOTHING, minutes(30), CUT).effect is Effect.CUT
    assert after(row, Sighting(unregistered=True), minutes(30), CUT).state is State.TERMINATING


def test_a_failed_node_terminates_once_its_last_words_are_saved_or_time_is_up() -> None:
    row = node(State.FAILED, failure="verify: no GPU")

    assert after(row, NOTHING, seconds(59)).effect is Effect.SAVE_DIAGNOSTICS
    assert after(row, Sighting(diagnosed=True), seconds(1)).state is State.TERMINATING
    assert after(row, NOTHING, minutes(1)).state is State.TERMINATING


def test_a_machine_that_will_not_go_is_asked_for_ever() -> None:
    step = after(node(State.TERMINATING), Sighting(unregistered=True), timedelta(days=400))

    assert (step.state, step.effect) == (State.TERMINATING, Effect.DELETE)


def test_an_entry_in_a_balancer_goes_before_the_machine_and_before_the_row() -> None:
    row = node(State.TERMINATING, booted_at=NOON)

    listed = after(row, Sighting(proven_absent=True, unregistered=False), minutes(1))
    forgotten = after(row, Sighting(proven_absent=True, unregistered=True), minutes(1))

    assert (listed.state, listed.effect) == (State.TERMINATING, Effect.CUT)
    assert forgotten.state is State.GONE


@pytest.mark.parametrize("state", sorted(CLOSED))
def test_a_closed_node_stays_closed(state: State) -> None:
    assert after(node(state), Sighting(machine=machine()), minutes(1)).state is state


flags = st.booleans()
machines: st.SearchStrategy[Machine | None] = st.none() | st.builds(
    lambda power: machine(power=power), st.sampled_from(PowerState)
)
operations: st.SearchStrategy[Operation | None] = st.none() | st.builds(
    operation, st.sampled_from(OperationState), st.sampled_from(["", "quota", "no stock"])
)
sightings = st.builds(
    Sighting,
    machine=machines,
    operation=operations,
    listed=flags,
    proven_absent=flags,
    host_key=st.none() | st.just("key"),
    fault=st.none() | st.just("host-key: another"),
    sick=st.none() | st.just("gpu: 1 of 2 found"),
    verified=flags,
    registered=flags,
    unlisted_for=st.timedeltas(timedelta(0), timedelta(minutes=9)),
    drained=flags,
    unregistered=flags,
    diagnosed=flags,
)
ages = st.timedeltas(timedelta(0), timedelta(days=3))
rows = st.builds(
    lambda state, verified, ids, looked, failed: node(
        state,
        verified_at=NOON if verified or state in (State.READY, State.DRAINING) else None,
        operation_id=OperationId("op") if ids else None,
        first_look_at=NOON if looked else None,
        failure="create: refused" if failed else None,
    ),
    st.sampled_from(State),
    flags,
    flags,
    flags,
    flags,
)
OPEN_AFTER_CREATE = (
    State.BOOTING,
    State.VERIFYING,
    State.READY,
    State.DRAINING,
    State.TERMINATING,
    State.FAILED,
)
TABLE = {
    State.PLANNED: {State.CREATING},
    State.CREATING: {State.BOOTING, State.FAILED, State.LOST, State.CANCELLED},
    State.BOOTING: {State.VERIFYING, State.FAILED},
    State.VERIFYING: {State.READY, State.FAILED},
    State.READY: {State.DRAINING, State.FAILED},
    State.DRAINING: {State.TERMINATING, State.FAILED},
    State.FAILED: {State.TERMINATING},
    State.TERMINATING: {State.GONE},
}


@given(row=rows, seen=sightings, age=ages, cut=flags)
def test_every_step_is_in_the_table(row: Node, seen: Sighting, age: timedelta, cut: bool) -> None:
    step = after(row, seen, age, CUT if cut else RULES)

    assert step.state is row.state or step.state in TABLE.get(row.state, set())


@given(row=rows, seen=sightings, age=ages)
def test_only_a_create_refused_in_its_answer_is_cancelled_and_never_one_that_is_listed(
    row: Node, seen: Sighting, age: timedelta
) -> None:
    step = after(row, seen, age)

    if step.state is State.CANCELLED and row.state is State.CREATING:
        assert row.failure == "create: refused"
        assert seen.machine is None


@given(state=st.sampled_from(OPEN_AFTER_CREATE), seen=sightings, age=ages)
def test_a_machine_that_still_bills_is_never_recorded_as_gone(
    state: State, seen: Sighting, age: timedelta
) -> None:
    step = after(node(state), seen, age)

    assert step.state not in CLOSED or (seen.proven_absent and seen.unregistered)


@given(seen=sightings, age=ages)
def test_no_request_is_cut_while_draining_unless_the_policy_says_so(
    seen: Sighting, age: timedelta
) -> None:
    step = after(node(State.DRAINING), seen, age)

    assert step.effect not in (Effect.CUT, Effect.DELETE)
    if step.state is State.TERMINATING:
        assert seen.proven_absent or seen.drained
    if step.effect is Effect.REMOVE:
        assert seen.drained


@given(row=rows, seen=sightings, age=ages)
def test_a_step_says_why(row: Node, seen: Sighting, age: timedelta) -> None:
    assert after(row, seen, age).reason


@given(seen=sightings, age=ages)
def test_nothing_is_deleted_that_a_balancer_may_still_send_requests_to(
    seen: Sighting, age: timedelta
) -> None:
    step = after(node(State.TERMINATING), seen, age)

    assert step.effect is not Effect.DELETE or seen.unregistered
