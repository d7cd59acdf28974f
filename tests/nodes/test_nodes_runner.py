"""Whole lives, step by step, on a real store: what is recorded before what is done, and what an heir makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoscaler.balance.protocol import ServerState
from autoscaler.cloud.protocol import CreateRequest
from autoscaler.domain.ids import MachineId, OperationId
from autoscaler.domain.machine import OperationState, PowerState
from autoscaler.domain.money import ZERO
from autoscaler.domain.node import CLOSED, Node, State
from autoscaler.errors import (
    AuthFailed,
    CloudUnavailable,
    ConfigError,
    HostKeyMismatch,
    NodeUnreachable,
    OutcomeUnknown,
    OutOfStock,
    PaymentRequired,
    QuotaExceeded,
    Rejected,
    SchemaError,
    VerificationFailed,
)
from autoscaler.nodes.protocol import Coming
from tests.nodes.life_parts import (
    KEY,
    MODEL,
    NOON,
    TIMINGS,
    Life,
    intent_id,
    life,
    minutes,
    node,
    open_store,
    policy,
    seconds,
)

NAME = node().name


@pytest.fixture
async def alive(tmp_path: Path) -> AsyncIterator[Life]:
    store = open_store(tmp_path)
    yield await life(store)
    await store.close()


async def ready(alive: Life, number: int = 0) -> Node:
    row = await alive.add(node(intent=intent_id(number)))
    return await alive.until(row.name, State.READY)


async def release(alive: Life, row: Node, **changes: object) -> Node:
    """What a pass records when it gives a ready node back."""
    after = replace(row, state=State.DRAINING, since=alive.clock.now(), reason="idle", **changes)  # type: ignore[arg-type]
    await alive.store.update(alive.leases.current(MODEL), row, after)
    return after


async def kinds(alive: Life, row: Node) -> list[str]:
    return [event.kind for event in await alive.store.events(node=row.name)]


async def test_a_node_goes_its_whole_way_and_leaves_a_receipt(alive: Life) -> None:
    row = await ready(alive)
    up = dict(alive.balancer.servers)
    await release(alive, row)
    gone = await alive.until(row.name, State.GONE)

    assert up[row.name].state is ServerState.UP
    assert alive.cloud.vms == {}
    assert alive.balancer.servers == {}
    assert alive.cloud.sent("create") == [row.name]
    assert await kinds(alive, row) == [
        "node_planned",
        "node_creating",
        "node_booting",
        "node_verifying",
        "node_ready",
        "node_terminating",
        "node_gone",
    ]
    receipt = (await alive.store.events(node=row.name))[-1].detail
    assert f"cost: {gone.cost}" in receipt
    assert gone.cost == gone.price_per_hour.for_time(gone.since - gone.sent_at)  # type: ignore[operator]
    assert len((await alive.store.boots(MODEL))[KEY]) == 1


async def test_the_row_says_that_the_call_may_have_been_made_before_it_is(alive: Life) -> None:
    """Seen from inside the create call: what a crash there would leave."""
    import sqlite3

    found: list[str] = []

    def look(request: CreateRequest) -> None:
        file = alive.store._db.execute("PRAGMA database_list").fetchone()[2]
        with sqlite3.connect(file) as other:
            found.extend(
                r[0]
                for r in other.execute("SELECT state FROM nodes WHERE name = ?", (request.name,))
            )
        other.close()

    alive.cloud.at_create = look
    await alive.add(node())
    await alive.step(NAME)

    assert found == ["creating"]


async def test_a_lost_answer_is_found_by_its_name_and_never_asked_again(alive: Life) -> None:
    alive.cloud.create_raises = [OutcomeUnknown("timeout")]
    alive.cloud.makes_although_it_raises = True
    await alive.add(node())

    row = await alive.until(NAME, State.READY)

    assert alive.cloud.sent("create") == [NAME]
    assert row.machine_id == f"m-{NAME}"


@pytest.mark.parametrize("failure", [OutcomeUnknown("timeout"), SchemaError("no id in it")])
async def test_an_answer_that_never_came_is_written_off_after_the_settling_time(
    alive: Life, failure: OutcomeUnknown | SchemaError
) -> None:
    alive.cloud.create_raises = [failure]
    alive.pause_s = 15
    await alive.add(node())
    await alive.step(NAME)

    lost = await alive.until(NAME, State.LOST, most=400)

    assert lost.since - NOON >= TIMINGS.settling_time
    assert alive.cloud.sent("create") == [NAME]
    assert (await alive.store.open_intents(MODEL))[0].last_attempt == 1


async def test_nothing_is_written_off_while_the_cloud_is_away(alive: Life) -> None:
    alive.cloud.create_raises = [OutcomeUnknown("timeout")]
    alive.cloud.makes_although_it_raises = True
    await alive.add(node())
    await alive.step(NAME)
    alive.cloud.unreadable = CloudUnavailable("502")
    alive.clock.move(3600)
    await alive.leases.renew_all()

    during = await alive.steps(NAME, 3)
    alive.cloud.unreadable = None

    assert during.state is State.CREATING
    assert (await alive.until(NAME, State.READY)).machine_id is not None


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (OutOfStock("none left"), "stock"),
        (QuotaExceeded("8 GPUs"), "quota"),
        (PaymentRequired("no card"), "payment"),
        (Rejected("bad image"), "create"),
    ],
)
async def test_a_refused_create_backs_off_and_frees_its_place_at_once_for_nothing(
    alive: Life, failure: OutOfStock, kind: str
) -> None:
    alive.cloud.create_raises = [failure]
    await alive.add(node())
    await alive.step(NAME)

    over = await alive.step(NAME)

    assert over.state is State.CANCELLED
    assert (over.failure or "").startswith(f"{kind}: ")
    assert [b.key for b in await alive.store.backoffs()] == [KEY]
    assert (await alive.store.backoffs())[0].failures == 1
    ledger = await alive.store.ledger(alive.clock.now())
    assert ledger.nodes == ()
    assert ledger.spent_month() == ZERO


@pytest.mark.parametrize("failure", [CloudUnavailable("503"), AuthFailed("401")])
async def test_a_create_without_an_answer_of_its_own_still_proves_that_nothing_was_made(
    alive: Life, failure: CloudUnavailable
) -> None:
    alive.cloud.create_raises = [failure]
    await alive.add(node())

    terminating = await alive.until(NAME, State.TERMINATING)
    gone = await alive.until(NAME, State.GONE)

    assert (terminating.failure or "").startswith("cloud: ")
    assert gone.since - terminating.since >= seconds(60)
    assert gone.cost == ZERO
    assert (await alive.store.ledger(alive.clock.now())).spent_month() == ZERO
    assert alive.prober.diagnosed == []


async def test_a_machine_made_although_its_create_failed_is_found_and_deleted(
    alive: Life,
) -> None:
    alive.cloud.create_raises = [OutOfStock("none left")]
    alive.cloud.makes_although_it_raises = True
    await alive.add(node())

    await alive.until(NAME, State.GONE)

    assert alive.cloud.vms == {}


async def test_a_failed_operation_whose_machine_exists_is_not_believed(alive: Life) -> None:
    await alive.add(node())
    await alive.step(NAME)
    operation = OperationId(f"op-{NAME}")
    alive.cloud.ops[operation] = replace(
        alive.cloud.ops[operation], state=OperationState.FAILED, message="boom"
    )
    machines = dict(alive.cloud.vms)
    alive.cloud.vms.clear()
    failed = await alive.until(NAME, State.TERMINATING)
    alive.cloud.vms.update(machines)  # it surfaces after all

    await alive.until(NAME, State.GONE)

    assert failed.failure == "create: boom"
    assert alive.cloud.vms == {}


@pytest.mark.parametrize("why", ["safe mode", "the first sweep has not ended yet"])
async def test_nothing_left_planned_is_launched_while_launches_are_forbidden(
    alive: Life, why: str
) -> None:
    alive.forbidden.append(why)
    await alive.add(node())

    waiting = await alive.steps(NAME, 5)
    alive.forbidden.clear()

    assert waiting.state is State.PLANNED
    assert alive.cloud.sent("create") == []
    assert why in str(alive.failures[-1])
    assert (await alive.until(NAME, State.READY)).ready_at is not None


async def test_a_script_that_cannot_be_made_is_no_create_that_may_have_been_sent(
    alive: Life,
) -> None:
    alive.bad_script.append(ConfigError("server.script: cannot be read"))
    await alive.add(node())
    waiting = await alive.steps(NAME, 3)
    alive.bad_script.clear()

    assert waiting.state is State.PLANNED
    assert (await alive.until(NAME, State.READY)).ready_at is not None


async def test_a_lease_too_short_for_the_call_makes_no_call(alive: Life) -> None:
    row = await alive.add(node())
    alive.clock.move(15)  # of the 20 s after the last renewal, 5 are left
    assert await alive.store.acquire(MODEL, "another daemon", alive.clock.boot_s()) is not None

    await alive.step(row.name)

    assert alive.cloud.sent("create") == []


async def test_an_offer_that_is_gone_cancels_the_intent_without_a_call(alive: Life) -> None:
    row = await alive.add(node(offer=replace(KEY, type="h100.1x")))

    cancelled = await alive.step(row.name)

    assert cancelled.state is State.CANCELLED
    assert alive.cloud.calls == []
    assert not (await alive.store.ledger(NOON)).nodes


async def test_a_node_waits_for_its_script_and_then_serves(alive: Life) -> None:
    alive.prober.verdict = Coming("pull")
    await alive.add(node())
    waiting = await alive.until(NAME, State.VERIFYING)
    waiting = await alive.steps(NAME, 3)
    alive.prober.verdict = NodeUnreachable("no answer")
    await alive.steps(NAME, 2)
    alive.prober.verdict = Coming("load")
    loading = await alive.step(NAME)

    assert (waiting.stage, loading.stage) == ("pull", "load")
    assert waiting.nonce is None
    assert waiting.host_key == "ssh-ed25519 AAAA"


@pytest.mark.parametrize(
    ("key", "verdict", "kind"),
    [
        (HostKeyMismatch("another"), Coming("boot"), "host-key"),
        ("ssh-ed25519 AAAA", VerificationFailed("1 GPU of 2"), "verify"),
        ("ssh-ed25519 AAAA", HostKeyMismatch("another"), "host-key"),
    ],
)
async def test_a_node_that_is_not_what_it_should_be_is_given_up_with_its_last_words(
    alive: Life, key: str | HostKeyMismatch, verdict: Coming | VerificationFailed, kind: str
) -> None:
    alive.prober.key, alive.prober.verdict = key, verdict
    await alive.add(node())

    gone = await alive.until(NAME, State.GONE)

    assert (gone.failure or "").startswith(f"{kind}: ")
    assert "node_diagnosed" in await kinds(alive, gone)
    assert alive.balancer.servers == {}
    assert alive.cloud.vms == {}


async def test_a_balancer_that_is_down_delays_a_launch_and_does_not_fail_it(
    alive: Life,
) -> None:
    await alive.add(node())
    await alive.until(NAME, State.VERIFYING)
    alive.balancer.silent = True
    await alive.steps(NAME, 3)
    alive.clock.move(3600 * 2)
    await alive.leases.renew_all()

    waiting = await alive.steps(NAME, 2)
    alive.balancer.silent = False

    assert waiting.state is State.VERIFYING
    assert (await alive.until(NAME, State.READY)).failure is None


async def test_a_balancer_that_forgot_a_ready_node_is_told_again(alive: Life) -> None:
    row = await ready(alive)
    alive.balancer.restart()

    still = await alive.steps(row.name, 2)

    assert still.state is State.READY
    assert alive.balancer.servers[row.name].state is ServerState.UP


async def test_a_drain_waits_for_the_last_request_however_long_it_runs(alive: Life) -> None:
    row = await ready(alive)
    alive.balancer.place(row.name, 1)
    await release(alive, row)
    await alive.steps(row.name, 5)
    alive.clock.move(3600 * 5)
    await alive.leases.renew_all()
    busy = await alive.steps(row.name, 5)
    machines = len(alive.cloud.vms)
    alive.balancer.place(row.name, 0)
    gone = await alive.until(row.name, State.GONE)

    assert busy.state is State.DRAINING
    assert machines == 1
    assert "cut" not in [kind for kind, _ in alive.balancer.told]
    assert gone.unregistered_at is not None


async def test_the_engine_alone_can_hold_a_drain(alive: Life) -> None:
    """After a reload HAProxy said zero in flight while its old process still streamed."""
    row = await ready(alive)
    await release(alive, row)
    alive.prober.running = 3
    alive.balancer.restart(forgets=True)

    busy = await alive.steps(row.name, 20)
    held = len(alive.cloud.vms)
    alive.prober.running = 0
    await alive.until(row.name, State.GONE)

    assert busy.state is State.DRAINING
    assert held == 1


async def test_a_balancers_old_process_holds_a_drain(alive: Life) -> None:
    row = await ready(alive)
    await release(alive, row)
    alive.balancer.restart(forgets=True)
    alive.balancer.old_processes = 1

    assert (await alive.steps(row.name, 20)).state is State.DRAINING
    assert len(alive.cloud.vms) == 1


async def test_an_engine_that_never_says_holds_a_drain_until_the_deadline_only(
    alive: Life,
) -> None:
    row = await ready(alive)
    alive.prober.running = None
    await release(alive, row)
    before = await alive.steps(row.name, 20)
    alive.clock.move(1800)
    await alive.leases.renew_all()

    assert before.state is State.DRAINING
    assert (await alive.until(row.name, State.GONE)).state is State.GONE


async def test_only_a_policy_that_says_cut_cuts_and_the_cut_is_told(alive: Life) -> None:
    alive.policies[MODEL] = policy(drain={"on_deadline": "cut", "deadline": "5m"})
    row = await ready(alive)
    alive.balancer.place(row.name, 2)
    await release(alive, row)

    await alive.until(row.name, State.GONE, most=400)

    assert ("cut", row.name) in alive.balancer.told
    events = await alive.store.events(node=row.name)
    cut = next(event for event in events if event.kind == "requests_cut")
    assert cut.at - NOON >= minutes(5)
    assert "2 requests in flight" in cut.cause


async def test_a_node_taken_back_while_draining_serves_again_and_drains_anew(
    alive: Life,
) -> None:
    row = await ready(alive)
    draining = await release(alive, row)
    await alive.steps(row.name, 3)  # in flight was zero once
    draining = await alive.get(row.name)
    back = replace(draining, state=State.VERIFYING, since=alive.clock.now(), reason="demand")
    await alive.store.update(alive.leases.current(MODEL), draining, back)

    again = await alive.until(row.name, State.READY)
    alive.balancer.place(row.name, 1)
    await release(alive, again)

    assert alive.cloud.sent("create") == [row.name]
    assert (await alive.steps(row.name, 20)).state is State.DRAINING


async def test_a_machine_that_vanished_leaves_the_balancer_before_its_row_closes(
    alive: Life,
) -> None:
    row = await ready(alive)
    alive.cloud.vms.clear()
    await alive.until(row.name, State.FAILED)
    alive.balancer.silent = True

    waiting = await alive.steps(row.name, 60)
    alive.balancer.silent = False
    gone = await alive.until(row.name, State.GONE)

    assert waiting.state is State.TERMINATING
    assert gone.failure == "vanished: deleted by a person or by the provider"
    assert alive.balancer.servers == {}


async def test_one_flicker_of_the_listing_closes_no_row(alive: Life) -> None:
    row = await ready(alive)
    for _ in range(4):
        alive.cloud.hidden = True
        await alive.steps(row.name, 25)
        alive.cloud.hidden = False
        await alive.step(row.name)

    assert (await alive.get(row.name)).state is State.READY


async def test_a_get_that_finds_it_outweighs_any_number_of_listings(alive: Life) -> None:
    row = await ready(alive)
    alive.cloud.hidden = True

    still = await alive.steps(row.name, 100)
    alive.cloud.get_says_404 = True

    assert still.state is State.READY
    assert (await alive.steps(row.name, 3)).state is not State.READY


async def test_an_empty_listing_with_a_fleet_behind_it_is_believed_of_no_node(
    alive: Life,
) -> None:
    fleet = [await ready(alive, number) for number in range(4)]
    alive.cloud.hidden = alive.cloud.get_says_404 = True

    for row in fleet:
        assert (await alive.steps(row.name, 60)).state is State.READY

    alive.inventory.confirm_absent([row.name for row in fleet])
    assert (await alive.until(fleet[0].name, State.TERMINATING)).failure is not None


async def test_a_machine_that_stopped_is_replaced(alive: Life) -> None:
    row = await ready(alive)
    machine = alive.cloud.vms[MachineId(f"m-{row.name}")]
    alive.cloud.vms[machine.id] = replace(machine, power=PowerState.STOPPED, raw_state="STOPPED")

    gone = await alive.until(row.name, State.GONE)

    assert gone.failure == "power: the cloud says STOPPED"
    assert alive.cloud.vms == {}


async def test_a_refused_delete_stops_the_machine_and_asks_again(alive: Life) -> None:
    row = await ready(alive)
    alive.cloud.delete_raises = [Rejected("stop it first")]
    await release(alive, row)

    await alive.until(row.name, State.GONE)

    sent = [kind for kind, _ in alive.cloud.calls]
    assert sent[1:4] == ["delete", "stop", "delete"]


async def test_a_delete_is_asked_for_ever_and_at_least_every_five_minutes(alive: Life) -> None:
    row = await ready(alive)
    alive.cloud.deletes_work = False
    await release(alive, row)
    await alive.until(row.name, State.TERMINATING)
    started, last = alive.clock.now(), 0
    longest = timedelta(0)
    sent_at = started
    while alive.clock.now() - started < timedelta(hours=2):
        await alive.step(row.name)
        alive.clock.move(58)
        await alive.leases.renew_all()
        count = len(alive.cloud.sent("delete"))
        if count > last:
            longest = max(longest, alive.clock.now() - sent_at)
            sent_at, last = alive.clock.now(), count

    assert (await alive.get(row.name)).state is State.TERMINATING
    assert longest <= minutes(6)
    assert last > 20
    alive.cloud.deletes_work = True
    assert (await alive.until(row.name, State.GONE, most=400)).deletes > 20


async def test_a_machine_stays_until_a_silent_balancer_says_that_it_forgot_it(
    alive: Life,
) -> None:
    """Its address may be a stranger's next: prompts would go there."""
    row = await ready(alive)
    alive.prober.ill = "no answer"
    failed = replace(
        row, state=State.FAILED, since=alive.clock.now(), reason="x", failure="condemned: x"
    )
    await alive.store.update(alive.leases.current(MODEL), row, failed)
    alive.balancer.silent = True

    await alive.steps(row.name, 30)
    before = alive.cloud.sent("delete")
    alive.balancer.silent = False
    await alive.until(row.name, State.GONE)

    assert before == []
    assert alive.balancer.servers == {}


async def sicken(alive: Life, rows: list[Node]) -> None:
    """Both the daemon and the balancer find these nodes ill, for a minute."""
    alive.prober.ill = "no answer to GET /health"
    for row in rows:
        known = alive.balancer.servers[row.name]
        alive.balancer.servers[row.name] = replace(known, state=ServerState.DOWN)
    alive.pause_s = 8 / len(rows)
    for _ in range(8):
        for row in rows:
            await alive.step(row.name)
        alive.runner.judge()


async def test_two_witnesses_condemn_a_node(alive: Life) -> None:
    row = await ready(alive)

    await sicken(alive, [row])

    assert ((await alive.get(row.name)).failure or "").startswith(
        "condemned: no answer to GET /health; a balancer's check fails"
    )


async def test_what_was_held_against_a_node_before_it_drained_is_forgotten(alive: Life) -> None:
    row = await ready(alive)
    alive.prober.ill = "no answer"
    known = alive.balancer.servers[row.name]
    alive.balancer.servers[row.name] = replace(known, state=ServerState.DOWN)
    alive.pause_s = 11
    for _ in range(4):
        await alive.step(row.name)
    alive.runner.judge()  # condemned, and released by a pass before its next step
    draining = await release(alive, row)
    await alive.step(row.name)
    alive.prober.ill = None
    draining = await alive.get(row.name)
    back = replace(draining, state=State.VERIFYING, since=alive.clock.now(), reason="demand")
    await alive.store.update(alive.leases.current(MODEL), draining, back)

    assert (await alive.steps(row.name, 4)).state is State.READY


async def test_the_daemons_word_alone_condemns_nobody(alive: Life) -> None:
    row = await ready(alive)
    alive.prober.ill = "no answer to GET /health"
    alive.pause_s = 10
    for _ in range(30):
        await alive.step(row.name)
        alive.runner.judge()

    assert (await alive.get(row.name)).state is State.READY


async def test_most_of_a_fleet_failing_at_once_is_held_whatever_else_is_booting(
    alive: Life,
) -> None:
    serving = [await ready(alive, number) for number in range(4)]
    alive.prober.key = NodeUnreachable("not yet")
    booting = [await alive.add(node(intent=intent_id(number))) for number in range(10, 16)]
    for row in booting:
        await alive.until(row.name, State.BOOTING)
        await alive.step(row.name)

    await sicken(alive, serving)

    assert "4 of 4 nodes fail at once" in (alive.runner.held or "")
    assert {(await alive.get(row.name)).state for row in serving} == {State.READY}


async def test_a_jump_of_the_clock_fails_no_launch_and_cuts_no_drain(alive: Life) -> None:
    alive.policies[MODEL] = policy(drain={"on_deadline": "cut", "deadline": "5m"})
    serving = await ready(alive)
    alive.balancer.place(serving.name, 1)
    await release(alive, serving)
    alive.prober.verdict = Coming("pull")
    booting = await alive.add(node(intent=intent_id(1), since=alive.clock.now()))
    await alive.until(booting.name, State.VERIFYING)
    await alive.step(serving.name)

    alive.clock.jump(timedelta(hours=7))

    assert (await alive.step(booting.name)).state is State.VERIFYING
    assert (await alive.step(serving.name)).state is State.DRAINING
    assert alive.balancer.servers[serving.name].in_flight == 1


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
