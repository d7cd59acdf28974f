"""Launches, step by step: what is recorded before what is done, and what each answer of the cloud proves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscaler.cloud.protocol import CreateRequest
from autoscaler.domain.ids import OperationId
from autoscaler.domain.machine import OperationState
from autoscaler.domain.money import ZERO
from autoscaler.domain.node import State
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
    node,
    seconds,
)
from tests.nodes.life_verbs import kinds

NAME = node().name


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


async def test_a_driver_that_does_not_fit_fails_its_node_within_30_s_of_ssh(alive: Life) -> None:
    alive.pause_s = TIMINGS.step.total_seconds()
    alive.prober.verdict = Coming(
        "driver"
    )  # the script's first look at the machine, before the pull
    await alive.add(node())
    reached = await alive.until(NAME, State.VERIFYING)
    await alive.steps(NAME, 3)

    why = "driver 535.161.08 is older than 570.26"
    alive.prober.verdict = VerificationFailed(why)
    failed = await alive.until(NAME, State.FAILED)

    assert failed.since - reached.since <= seconds(30)
    assert why in (failed.failure or "")


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
