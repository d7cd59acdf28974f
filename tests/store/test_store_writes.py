"""What a commit promises: all or nothing, only under a living lease, only on the row that was looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoscaler.domain.ids import IntentId, MachineId, ModelName, NodeName, OperationId
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.node import Endpoint, Node, State
from autoscaler.domain.offer import BackOff, OfferKey
from autoscaler.errors import InvariantBroken, LeaseLost, StoreUnavailable
from autoscaler.serve.views import marked
from autoscaler.store.protocol import Lease, ModelRecord, OpenIntent, Orphan
from autoscaler.store.rows import NODE
from autoscaler.store.sqlite import SqliteStore
from tests.nodes.life_parts import INTENT, KEY, MODEL, NOON, intent_id, minutes, node
from tests.store.parts import (
    all_of_them,
    commit,
    decision,
    event,
    lease_on,
    none_of_them,
    plan,
)


async def moved(store: SqliteStore, lease: Lease, row: Node, **changes: object) -> Node:
    """Advance a row."""
    after = replace(row, **changes)  # type: ignore[arg-type]  # the caller names fields
    await store.advance(lease, row, after, event(after))
    return after


async def test_an_intent_is_durable_with_its_story_before_anything_is_done(
    store: SqliteStore,
) -> None:
    lease = await lease_on(store)

    await commit(store, lease, node())

    assert await store.node(node().name) == node()
    assert [e.kind for e in await store.events(node=node().name)] == ["node_planned"]
    assert (await store.last_decision(MODEL)) is not None


async def test_a_plan_that_the_limits_refuse_leaves_no_intent_and_keeps_the_decision(
    store: SqliteStore,
) -> None:
    lease = await lease_on(store)

    admission = await store.commit_plan(
        lease, decision(), plan(launches=1), [node()], (), "{}", none_of_them
    )

    assert admission.refused == ((node(), "limits.nodes is 0"),)
    assert await store.nodes() == ()
    assert await store.last_attempt(INTENT) == 0
    assert (await store.ledger(NOON)).launches == ()
    assert len(await store.decisions(MODEL, 10)) == 1


async def test_a_plan_is_one_transaction(store: SqliteStore) -> None:
    """A release that lost its race takes the launch, the memory and the decision with it."""
    lease = await lease_on(store)
    ready = node(State.READY)
    await store.insert(lease, ready, event(ready))
    stale = replace(ready, stage="seen before")
    drained = replace(stale, state=State.DRAINING)
    launch = node(intent=intent_id(1))

    with pytest.raises(StoreUnavailable, match="changed meanwhile"):
        await store.commit_plan(
            lease,
            decision(),
            plan(launches=1),
            [launch],
            [(stale, drained, event(drained))],
            '{"memory": 1}',
            all_of_them,
        )

    assert await store.nodes() == (ready,)
    assert await store.last_decision(MODEL) is None
    assert await store.record(MODEL) == ModelRecord(MODEL)


async def test_limits_see_what_the_same_plan_releases(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())
    cancelled = replace(node(), state=State.CANCELLED, reason="unwanted")
    seen: list[int] = []

    def admit(ledger, rows):  # type: ignore[no-untyped-def]  # typed by its use below
        seen.append(len(ledger.nodes))
        return all_of_them(ledger, rows)

    launch = node(intent=intent_id(1))
    await store.commit_plan(
        lease,
        decision("d2"),
        plan("d2", 1),
        [launch],
        [(node(), cancelled, event(cancelled))],
        "{}",
        admit,
    )

    assert seen == [0]
    assert await store.nodes() == (launch,)


async def test_a_daemon_whose_epoch_is_over_writes_nothing(store: SqliteStore) -> None:
    old = await lease_on(store)
    row = node()
    await commit(store, old, row)
    new = await store.acquire(MODEL, "daemon-2", 2000.0)
    assert new is not None
    assert new.epoch == old.epoch + 1
    sent = replace(row, state=State.CREATING)
    other = node(intent=intent_id(1))

    for write in (
        store.advance(old, row, sent, event(sent)),
        store.update(old, row, replace(row, stage="x")),
        store.insert(old, other, event(other)),
        commit(store, old, other, id_="d2"),
    ):
        with pytest.raises(LeaseLost):
            await write
    with pytest.raises(LeaseLost):
        await store.renew(old, 2000.0)

    assert await store.nodes() == (row,)
    assert len(await store.events(node=row.name)) == 1


async def test_of_two_that_saw_the_same_row_only_the_first_moves_it(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())
    sent = await moved(store, lease, node(), state=State.CREATING)
    cancelled = replace(node(), state=State.CANCELLED)

    with pytest.raises(StoreUnavailable, match="look at it again"):
        await store.advance(lease, node(), cancelled, event(cancelled))

    assert await store.node(node().name) == sent
    assert len(await store.events(node=node().name)) == 2


async def test_a_name_is_recorded_once_for_ever(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())
    await moved(store, lease, node(), state=State.CANCELLED)

    with pytest.raises((StoreUnavailable, InvariantBroken)):
        await commit(store, lease, node(), id_="d2")


@given(attempts=st.lists(st.integers(1, 9), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
async def test_attempts_of_an_intent_only_grow(store: SqliteStore, attempts: list[int]) -> None:
    lease = await lease_on(store)
    intent = intent_id(_fresh())
    highest = 0
    for attempt in attempts:
        row = node(intent=intent, attempt=attempt)
        row = replace(row, name=NodeName(f"{row.name}"))
        if attempt > highest:
            await commit(store, lease, row, id_=f"d{_fresh()}")
            highest = attempt
        else:
            with pytest.raises((InvariantBroken, StoreUnavailable)):
                await commit(store, lease, row, id_=f"d{_fresh()}")
        assert await store.last_attempt(intent) == highest


_numbers = iter(range(1, 10**9))


def _fresh() -> int:
    return next(_numbers)


async def test_the_counter_of_attempts_outlives_the_rows(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node(attempt=3))
    await moved(store, lease, node(attempt=3), state=State.CANCELLED)

    assert await store.prune(NOON + timedelta(days=99)) > 0

    assert await store.node(node(attempt=3).name) is None
    assert await store.last_attempt(INTENT) == 3
    with pytest.raises(InvariantBroken):
        await commit(store, lease, node(attempt=3), id_="d2")


async def test_only_an_intent_whose_last_attempt_is_lost_is_open(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())
    await moved(store, lease, node(), state=State.LOST)
    first = await store.open_intents(MODEL)
    await commit(store, lease, node(attempt=2), id_="d2")

    assert first == (OpenIntent(INTENT, 1),)
    assert await store.open_intents(MODEL) == ()
    assert await store.open_intents(ModelName("another")) == ()


times = st.timedeltas(timedelta(0), timedelta(days=1500)).map(lambda length: NOON + length)
amounts = st.decimals("0", "99999", places=6).map(Money)
texts = st.text(max_size=40)
rows = st.builds(
    lambda at, price, text, endpoints, state: replace(
        node(State.READY),
        since=at,
        state=state,
        price_per_hour=price,
        reason=text,
        failure=text or None,
        stage=text or None,
        endpoints=tuple(Endpoint(f"e{i}", "http://h:1", i + 1, 1) for i in range(endpoints)),
        disk_ids=(text,),
        operation_id=OperationId(text) if text else None,
        booted_at=at,
        tokens_per_s=1.5,
        units=0.1 + 0.2,
    ),
    times,
    amounts,
    texts,
    st.integers(0, 3),
    st.sampled_from(State),
)


@given(row=rows)
def test_a_row_reads_as_it_was_written_to_the_byte(row: Node) -> None:
    text = NODE.dump_json(row)

    assert NODE.validate_json(text) == row
    assert NODE.dump_json(NODE.validate_json(text)) == text


async def closed(
    store: SqliteStore, lease: Lease, number: int, sent: datetime, gone: datetime, usd: str = "2"
) -> Node:
    """A node that lived from `sent` to `gone`."""
    row = node(intent=intent_id(number), price_per_hour=Money.of(usd), since=sent, created_at=sent)
    await commit(store, lease, row, id_=f"m{number}")
    row = await moved(store, lease, row, state=State.TERMINATING, sent_at=sent)
    return await moved(store, lease, row, state=State.GONE, gone_at=gone, since=gone)


async def test_money_is_split_by_utc_day_and_month(store: SqliteStore) -> None:
    lease = await lease_on(store)
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    await closed(store, lease, 1, new_year - timedelta(hours=2), new_year + timedelta(hours=3))

    ledger = await store.ledger(new_year + timedelta(hours=4))
    before = await store.ledger(new_year - timedelta(seconds=1))

    assert ledger.spent_today() == Money.of(6)
    assert ledger.spent_month(MODEL) == Money.of(6)
    assert ledger.spent_month(ModelName("another")) == ZERO
    assert before.spent_today() == Money.of(10)  # both days' rows lie in its month


async def test_a_running_node_is_counted_up_to_now_and_from_midnight_for_the_day(
    store: SqliteStore,
) -> None:
    lease = await lease_on(store)
    row = node(price_per_hour=Money.of("2"))
    await commit(store, lease, row)
    await moved(store, lease, row, state=State.CREATING, sent_at=NOON - timedelta(hours=24))

    ledger = await store.ledger(NOON + timedelta(hours=1))

    assert ledger.spent_today() == Money.of(2) * 13
    assert ledger.spent_month() == Money.of(2) * 25


async def test_exact_cents_add_up_over_a_thousand_nodes(store: SqliteStore) -> None:
    lease = await lease_on(store)
    for number in range(1, 31):
        await closed(store, lease, number, NOON, NOON + timedelta(hours=1), usd="0.1")

    assert (await store.ledger(NOON + timedelta(hours=2))).spent_today().usd == Decimal("3.0")


async def test_a_lost_attempt_costs_nothing_until_its_machine_surfaces(
    store: SqliteStore,
) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())
    row = await moved(store, lease, node(), state=State.CREATING, sent_at=NOON)
    later = NOON + timedelta(hours=1)
    lost = await moved(store, lease, row, state=State.LOST, since=later, gone_at=later)

    written_off = (await store.ledger(later)).spent_today()
    await moved(store, lease, lost, state=State.BOOTING, gone_at=None)
    surfaced = (await store.ledger(later)).spent_today()

    assert written_off == ZERO
    assert surfaced == Money.of("1.25")


async def test_a_row_that_opens_again_is_not_counted_twice(store: SqliteStore) -> None:
    lease = await lease_on(store)
    hour = timedelta(hours=1)
    row = await closed(store, lease, 1, NOON, NOON + hour)

    await moved(store, lease, row, state=State.TERMINATING, gone_at=None)

    assert (await store.ledger(NOON + 2 * hour)).spent_today() == Money.of(4)


async def test_launches_of_the_last_day_are_counted(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())

    assert len((await store.ledger(NOON + timedelta(hours=23))).launches) == 1
    assert (await store.ledger(NOON + timedelta(hours=25))).launches == ()


async def test_calm_costs_no_rows(store: SqliteStore) -> None:
    lease = await lease_on(store)

    for number in range(5):
        at = NOON + minutes(number)
        await store.commit_plan(
            lease, decision(f"c{number}", at), plan(f"c{number}"), (), (), "{}", all_of_them
        )
    kept = await store.decisions(MODEL, 10)

    assert [json.loads(text)["id"] for text in kept] == ["c4"]


async def test_a_limit_that_refuses_every_launch_for_days_costs_no_rows(
    store: SqliteStore,
) -> None:
    lease = await lease_on(store)

    for number in range(5):
        row = node(intent=intent_id(number))
        await store.commit_plan(
            lease, decision(f"c{number}"), plan(f"c{number}", 1), [row], (), "{}", none_of_them
        )

    assert len(await store.decisions(MODEL, 10)) == 1


async def test_a_decision_that_moved_something_is_kept(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node(), id_="launched")
    for id_ in ("calm-1", "calm-2"):
        await store.commit_plan(lease, decision(id_), plan(id_), (), (), "{}", all_of_them)

    kept = await store.decisions(MODEL, 10)

    assert [json.loads(text)["id"] for text in kept] == ["launched", "calm-2"]


async def test_another_want_is_another_decision(store: SqliteStore) -> None:
    lease = await lease_on(store)
    for number in range(3):
        changed = decision(f"c{number}", want=number)
        await store.commit_plan(lease, changed, plan(f"c{number}"), (), (), "{}", all_of_them)

    assert len(await store.decisions(MODEL, 10)) == 3
    assert len(await store.decisions(MODEL, 2)) == 2


async def test_the_story_of_a_node_that_still_lives_is_never_forgotten(
    store: SqliteStore,
) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())
    other = node(intent=intent_id(1))
    await commit(store, lease, other, id_="d2")
    await moved(store, lease, other, state=State.CANCELLED)

    await store.prune(NOON + timedelta(days=99))

    assert len(await store.events(node=node().name)) == 1
    assert await store.events(node=other.name) == ()
    assert await store.nodes(closed_since=NOON - timedelta(days=1)) == (node(),)


async def test_money_survives_pruning(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await closed(store, lease, 1, NOON, NOON + timedelta(hours=1))

    await store.prune(NOON + timedelta(hours=2))

    assert (await store.ledger(NOON + timedelta(hours=3))).spent_month() == Money.of(2)


async def test_money_is_forgotten_once_no_month_that_counts_can_need_it(
    store: SqliteStore,
) -> None:
    lease = await lease_on(store)
    await closed(store, lease, 1, NOON, NOON + timedelta(hours=1))
    long_after = NOON + timedelta(days=400)

    await store.prune(long_after)  # a clock that jumped ahead, and comes back
    kept = (await store.ledger(NOON + timedelta(hours=3))).spent_month()
    await closed(store, lease, 2, long_after, long_after + timedelta(hours=1))
    await store.prune(NOON + timedelta(days=20))
    within_its_month = (await store.ledger(NOON + timedelta(hours=3))).spent_month()
    await store.prune(long_after)
    left = (await store.ledger(NOON + timedelta(hours=3))).spent_month()

    assert kept == Money.of(2)
    assert within_its_month == Money.of(4)  # the later day counts too, on a clock set back
    assert left == Money.of(2)  # the later one's


async def test_small_facts_come_back_as_they_were(store: SqliteStore) -> None:
    backoff = BackOff(KEY, NOON, "stock: none", 3)
    orphan = Orphan(MachineId("m1"), "as1-x", NOON)
    await store.set_backoff(backoff)
    await store.set_backoff(replace(backoff, key=OfferKey("other", "x")))
    await store.clear_backoff(OfferKey("other", "x"))
    await store.set_orphans([orphan])
    await store.set_meta("project", "p1")
    await store.set_paused(MODEL, "anna", NOON)
    await store.set_retired(MODEL, "ben", NOON)
    await store.set_retired(MODEL, None, NOON)

    assert await store.backoffs() == (backoff,)
    assert await store.orphans() == (orphan,)
    assert (await store.meta("project"), await store.meta("none")) == ("p1", None)
    assert await store.record(MODEL) == ModelRecord(MODEL, "", "anna", NOON)


@pytest.mark.parametrize("stopped", ["set_paused", "set_retired"])
async def test_once_a_model_is_stopped_none_of_its_intents_is_sent_until_it_goes_on(
    store: SqliteStore, stopped: str
) -> None:
    lease, row = await lease_on(store), node()
    await commit(store, lease, row)
    said = marked(MODEL, "model_stopped", "anna", NOON)
    await getattr(store, stopped)(MODEL, "anna", NOON, said)

    with pytest.raises(StoreUnavailable, match="anna stopped the model meanwhile"):
        await moved(store, lease, row, state=State.CREATING)
    await store.set_resumed(MODEL, marked(MODEL, "model_resumed", "ben", NOON))
    await moved(store, lease, row, state=State.CREATING)

    kinds = [(e.kind, e.actor) for e in await store.events(model=MODEL)]
    assert kinds[1:3] == [("model_stopped", "anna"), ("model_resumed", "ben")]
    assert await store.record(MODEL) == ModelRecord(MODEL, "{}")
    assert (await store.ledger(NOON)).resumed == {MODEL: NOON}


async def test_a_word_and_who_said_it_are_one_commit(store: SqliteStore) -> None:
    lame = replace(marked(MODEL, "model_paused", "anna", NOON), cause=cast(str, object()))

    for word in (
        store.set_paused(MODEL, "anna", NOON, lame),
        store.set_retired(MODEL, "anna", NOON, lame),
        store.set_resumed(MODEL, lame),
    ):
        with pytest.raises(StoreUnavailable):
            await word

    assert await store.record(MODEL) == ModelRecord(MODEL)
    assert (await store.ledger(NOON)).resumed == {}


async def test_the_ledger_knows_what_the_last_days_launches_came_to(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())
    over = await moved(store, lease, node(), state=State.CANCELLED, failure="create: no")

    assert (await store.ledger(NOON)).ended == (over,)
    assert (await store.ledger(NOON + timedelta(days=2))).ended == ()


async def test_the_newest_fifty_boots_of_each_offer_are_kept_oldest_first(
    store: SqliteStore,
) -> None:
    for second in range(60):
        await store.add_boot(MODEL, KEY, float(second), NOON)

    assert (await store.boots(MODEL))[KEY] == tuple(float(s) for s in range(10, 60))


async def test_starts_of_the_last_day_are_remembered(store: SqliteStore) -> None:
    await store.add_start(NOON - timedelta(days=2))
    await store.add_start(NOON - timedelta(hours=1))

    assert await store.add_start(NOON) == (NOON - timedelta(hours=1), NOON)


async def test_events_of_a_model_come_newest_last_and_bounded(store: SqliteStore) -> None:
    lease = await lease_on(store)
    await commit(store, lease, node())
    row = node()
    for state in (State.CREATING, State.BOOTING, State.VERIFYING):
        row = await moved(store, lease, row, state=state)

    found = await store.events(model=MODEL, limit=2)

    assert [e.state for e in found] == [State.BOOTING, State.VERIFYING]
    assert len(await store.events()) == 4
    assert await store.last_attempt(IntentId("unknown")) == 0
