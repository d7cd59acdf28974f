"""Sweeps on a real store: whatever is deleted has a row first, and what surfaces late is known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from autoscaler.domain.ids import MachineId, ModelName, NodeName, node_name
from autoscaler.domain.machine import Disk, PowerState
from autoscaler.domain.money import Money
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.domain.offer import Market
from autoscaler.errors import (
    CloudUnavailable,
    EndpointMissing,
    OutcomeUnknown,
    PaymentRequired,
    QuotaExceeded,
    StoreUnavailable,
)
from autoscaler.nodes.firewall import FirewallGate
from autoscaler.nodes.inventory import Owner
from autoscaler.nodes.launch import back_off, launch_stop
from autoscaler.nodes.sweep import ORPHANS_MODEL, Sweeper, model_slugs
from tests.nodes.life_parts import (
    KEY,
    MODEL,
    NOON,
    OWNER,
    TIMINGS,
    Life,
    intent_id,
    life,
    node,
    offer,
    open_store,
    policy,
    seconds,
)

MARKET = Market((offer(), offer("l40s-48gb.2x"), offer("a40.1x", "a40")), NOON)
SLUGS = model_slugs((MODEL, ModelName("llama-70b")))


@pytest.fixture
async def alive(tmp_path: Path) -> AsyncIterator[Life]:
    store = open_store(tmp_path)
    made = await life(store)
    assert await made.leases.acquire(ORPHANS_MODEL)
    yield made
    await store.close()


@pytest.fixture
def sweeper(alive: Life) -> Sweeper:
    return Sweeper(
        alive.store,
        alive.cloud,
        alive.inventory,
        alive.leases,
        alive.clock,
        TIMINGS,
        Owner("as1", OWNER),
    )


def stray_name(number: int = 7, model: str = "llama") -> str:
    return node_name("as1", OWNER, intent_id(number), 1, ModelName(model))


async def open_rows(alive: Life) -> list[Node]:
    return list(await alive.store.nodes())


async def test_an_orphan_has_its_grace_then_a_row_and_only_then_a_delete(
    alive: Life, sweeper: Sweeper
) -> None:
    stray = alive.cloud.add(stray_name())
    first = await sweeper.sweep(SLUGS, MARKET)
    alive.clock.move(TIMINGS.orphan_grace.total_seconds() - 1)
    await alive.leases.renew_all()
    await sweeper.sweep(SLUGS, MARKET)
    young = await open_rows(alive)
    alive.clock.move(1)
    await sweeper.sweep(SLUGS, MARKET)
    (doomed,) = await open_rows(alive)
    before = list(alive.cloud.calls)

    gone = await alive.until(doomed.name, State.GONE)

    assert [o.machine_id for o in first.orphans] == [stray.id]
    assert young == []
    assert before == []
    assert (doomed.state, doomed.machine_id, doomed.model) == (State.TERMINATING, stray.id, MODEL)
    assert set(alive.cloud.calls) == {("delete", stray.id)}
    assert gone.cost == doomed.price_per_hour.for_time(gone.since - NOON)


async def test_an_orphan_by_a_mark_that_nobody_wrote_down_may_be_a_copied_hosts_and_is_left(
    alive: Life,
) -> None:
    derived = Owner("as1", OWNER, is_derived=True)
    sweeper = Sweeper(
        alive.store, alive.cloud, alive.inventory, alive.leases, alive.clock, TIMINGS, derived
    )
    stray = alive.cloud.add(stray_name())
    await sweeper.sweep(SLUGS, MARKET)
    alive.clock.move(TIMINGS.orphan_grace.total_seconds() + 1)
    await alive.leases.renew_all()
    alive.cloud.calls.clear()

    findings = await sweeper.sweep(SLUGS, MARKET)

    assert [o.machine_id for o in findings.orphans] == [stray.id]
    assert await open_rows(alive) == []


async def test_a_machine_that_comes_back_again_and_again_is_deleted_each_time(
    alive: Life, sweeper: Sweeper
) -> None:
    stray = alive.cloud.add(stray_name())
    lease = alive.leases.current(ORPHANS_MODEL)
    for suffix in ("", f"~{stray.id[:8]}", f"~{stray.id}", f"~{stray.id}-2"):
        closed = node(
            State.GONE,
            name=NodeName(stray.name + suffix),
            model=ORPHANS_MODEL,
            machine_id=stray.id,
            gone_at=NOON,
        )
        told = NodeEvent(NOON, "x", ORPHANS_MODEL, closed.name, None, "x", "x")
        if await alive.store.node(closed.name) is None:
            await alive.store.insert(lease, closed, told)

    await sweeper.sweep(SLUGS, MARKET)

    (doomed,) = await open_rows(alive)
    assert (doomed.state, doomed.machine_id) == (State.TERMINATING, stray.id)


async def test_a_listing_that_leaves_an_orphan_out_does_not_begin_its_grace_anew(
    alive: Life, sweeper: Sweeper
) -> None:
    stray = alive.cloud.add(stray_name())
    await sweeper.sweep(SLUGS, MARKET)
    alive.clock.move(300)
    del alive.cloud.vms[stray.id]
    await sweeper.sweep(SLUGS, MARKET)
    alive.cloud.vms[stray.id] = stray
    alive.clock.move(300)
    await alive.leases.acquire(ORPHANS_MODEL)
    await alive.leases.acquire(MODEL)

    await sweeper.sweep(SLUGS, MARKET)

    assert [row.machine_id for row in await open_rows(alive)] == [stray.id]


async def test_a_wall_clock_that_is_set_back_does_not_make_an_orphans_grace_longer(
    alive: Life, sweeper: Sweeper
) -> None:
    alive.cloud.add(stray_name())
    for _ in range(2):
        await sweeper.sweep(SLUGS, MARKET)
        alive.clock.move(60)
    alive.clock.jump(-timedelta(hours=1))
    alive.clock.move(TIMINGS.orphan_grace.total_seconds())
    await alive.leases.renew_all()

    await sweeper.sweep(SLUGS, MARKET)

    assert [row.state for row in await open_rows(alive)] == [State.TERMINATING]


async def test_an_orphans_first_sight_outlives_the_daemon(alive: Life, sweeper: Sweeper) -> None:
    alive.cloud.add(stray_name())
    await sweeper.sweep(SLUGS, MARKET)
    alive.clock.move(700)
    heir = await alive.heir()
    await heir.leases.acquire(ORPHANS_MODEL)
    theirs = Sweeper(
        heir.store,
        heir.cloud,
        heir.inventory,
        heir.leases,
        heir.clock,
        TIMINGS,
        Owner("as1", OWNER),
    )

    await theirs.sweep(SLUGS, MARKET)

    assert len(await open_rows(heir)) == 1


async def test_a_long_models_machine_is_booked_to_it_and_not_to_a_shorter_one(
    alive: Life, sweeper: Sweeper
) -> None:
    await alive.leases.acquire(ModelName("llama-70b"))
    alive.cloud.add(stray_name(1, "llama"))
    alive.cloud.add(stray_name(2, "llama-70b"))
    alive.cloud.add(stray_name(3, "unknown"))
    sweeper.confirm()
    await sweeper.sweep(SLUGS, MARKET)
    alive.clock.move(600)
    await alive.leases.renew_all()
    sweeper.confirm()

    await sweeper.sweep(SLUGS, MARKET)

    assert [row.model for row in sorted(await open_rows(alive), key=lambda r: r.intent)] == [
        MODEL,
        ModelName("llama-70b"),
        ORPHANS_MODEL,
    ]


async def test_a_written_off_machine_that_surfaces_is_adopted_and_can_still_be_proven(
    alive: Life, sweeper: Sweeper
) -> None:
    alive.cloud.create_raises = [OutcomeUnknown("timeout")]
    await alive.add(node())
    alive.pause_s = 15
    lost = await alive.until(node().name, State.LOST)
    alive.cloud.add(lost.name)

    await sweeper.sweep(SLUGS, MARKET)
    adopted = await alive.get(lost.name)

    assert (adopted.state, adopted.nonce) == (State.BOOTING, node().nonce)
    assert (await alive.until(lost.name, State.READY)).failure is None
    assert alive.cloud.sent("create") == [lost.name]


async def test_a_written_off_machine_whose_intent_went_on_is_deleted_and_the_later_one_stays(
    alive: Life, sweeper: Sweeper
) -> None:
    alive.cloud.create_raises = [OutcomeUnknown("timeout")]
    await alive.add(node())
    alive.pause_s = 15
    lost = await alive.until(node().name, State.LOST)
    second = await alive.add(node(attempt=2, since=alive.clock.now(), created_at=alive.clock.now()))
    await alive.until(second.name, State.READY)
    late = alive.cloud.add(lost.name)

    await sweeper.sweep(SLUGS, MARKET)
    doomed = next(row for row in await open_rows(alive) if row.machine_id == late.id)
    await alive.until(doomed.name, State.GONE)

    assert list(alive.cloud.vms) == [MachineId(f"m-{second.name}")]
    assert (await alive.get(second.name)).state is State.READY


async def test_a_twin_made_by_a_proxy_is_deleted_and_the_recorded_one_serves_on(
    alive: Life, sweeper: Sweeper
) -> None:
    await alive.add(node())
    row = await alive.until(node().name, State.READY)
    alive.cloud.add(row.name, "twin")
    await sweeper.sweep(SLUGS, MARKET)
    again = await sweeper.sweep(SLUGS, MARKET)
    doomed = next(r for r in await open_rows(alive) if r.machine_id == "twin")

    await alive.until(doomed.name, State.GONE)

    assert again.surplus == ()
    assert list(alive.cloud.vms) == [row.machine_id]
    assert (await alive.get(row.name)).state is State.READY


async def test_a_node_does_not_take_the_twin_that_the_sweep_gives_back(
    alive: Life, sweeper: Sweeper
) -> None:
    alive.cloud.create_raises = [OutcomeUnknown("timeout")]
    creating = await alive.add(node())
    await alive.step(creating.name)
    for number in ("a", "b"):
        alive.cloud.add(creating.name, number)
    await sweeper.sweep(SLUGS, MARKET)
    (doomed,) = [r for r in await open_rows(alive) if r.name != creating.name]
    kept = next(vm for vm in alive.cloud.vms.values() if vm.id != doomed.machine_id)
    # by now the other one looks better, and this step knows the rows as they were before the sweep
    alive.cloud.vms[kept.id] = replace(kept, power=PowerState.STARTING)
    alive.clock.move(60)
    await alive.leases.renew_all()

    await alive.runner.step(await alive.get(creating.name))

    assert (await alive.get(creating.name)).machine_id != doomed.machine_id


async def test_a_machine_that_will_not_go_does_not_hold_the_next_sweeps(
    alive: Life, sweeper: Sweeper
) -> None:
    alive.cloud.deletes_work = False
    for number in range(5):
        row = await alive.add(node(intent=intent_id(number)))
        cancelled = replace(row, state=State.CANCELLED)
        await alive.store.update(alive.leases.current(MODEL), row, cancelled)
        alive.cloud.add(row.name)
    held = await sweeper.sweep(SLUGS, MARKET)
    sweeper.confirm()
    await sweeper.sweep(SLUGS, MARKET)

    after = await sweeper.sweep(SLUGS, MARKET)

    assert "5 machines would be deleted" in (held.held or "")
    assert len(await open_rows(alive)) == 5
    assert after.held is None


async def test_an_incomplete_or_unread_listing_records_nothing(
    alive: Life, sweeper: Sweeper
) -> None:
    alive.cloud.add(stray_name())
    alive.cloud.complete = False
    sweeper.confirm()
    await sweeper.sweep(SLUGS, MARKET)
    alive.clock.move(10_000)
    await alive.leases.renew_all()
    held = await sweeper.sweep(SLUGS, MARKET)
    alive.cloud.unreadable = CloudUnavailable("503")
    with pytest.raises(CloudUnavailable):
        await sweeper.sweep(SLUGS, MARKET)

    assert (await open_rows(alive), held.held) == (
        [],
        "the listing is incomplete: a page is missing",
    )


async def test_what_a_person_confirmed_is_believed_of_the_nodes_too(
    alive: Life, sweeper: Sweeper
) -> None:
    rows = []
    for number in range(4):
        await alive.add(node(intent=intent_id(number)))
        rows.append(await alive.until(node(intent=intent_id(number)).name, State.READY))
    alive.cloud.vms.clear()
    held = await sweeper.sweep(SLUGS, MARKET)
    sweeper.confirm()
    await sweeper.sweep(SLUGS, MARKET)

    assert "4 of our known machines are absent (4 in all)" in (held.held or "")
    assert (await alive.until(rows[0].name, State.GONE)).failure is not None


async def test_a_system_disk_left_behind_is_deleted_and_no_other(
    alive: Life, sweeper: Sweeper
) -> None:
    await alive.add(node(disk_ids=("data",)))
    row = await alive.until(node().name, State.READY)
    failed = replace(row, state=State.TERMINATING, since=alive.clock.now())
    await alive.store.update(alive.leases.current(MODEL), row, failed)
    await alive.until(row.name, State.GONE)
    alive.cloud.spare_disks = [
        Disk("mine", f"OS-disk-{row.machine_id}", 100, "x"),
        Disk("used", f"OS-disk-{row.machine_id}", 100, "x", (MachineId("m9"),)),
        Disk("data", "the operator's own", 100, "x"),
    ]

    await sweeper.sweep(SLUGS, MARKET)

    told = [e for e in await alive.store.events(node=row.name) if e.kind == "disk_deleted"]
    assert alive.cloud.sent("delete_disk") == ["mine"]
    assert [(e.actor, e.model) for e in told] == [("sweep", MODEL)]
    assert f"disk mine (OS-disk-{row.machine_id}, 100 GiB)" in told[0].detail


async def test_a_disk_that_stays_although_its_delete_was_accepted_is_asked_for_again_and_told_once(
    alive: Life, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = node(State.GONE, machine_id=MachineId("m1"), gone_at=NOON)
    lease = alive.leases.current(MODEL)
    await alive.store.insert(lease, gone, NodeEvent(NOON, "x", MODEL, gone.name, None, "x", "x"))
    asked: list[str] = []

    async def accept(disk_id: str) -> None:
        asked.append(disk_id)

    monkeypatch.setattr(alive.cloud, "delete_disk", accept)
    alive.cloud.spare_disks = [Disk("mine", "OS-disk-m1", 100, "x")]
    for _ in range(3):
        await sweeper.sweep(SLUGS, MARKET)

    kinds = [event.kind for event in await alive.store.events(node=gone.name)]
    assert asked == ["mine"] * 3
    assert kinds.count("disk_deleted") == 1


async def test_a_disk_is_looked_for_as_long_as_is_configured(alive: Life, sweeper: Sweeper) -> None:
    gone = node(State.GONE, machine_id=MachineId("m1"), gone_at=NOON)
    lease = alive.leases.current(MODEL)
    await alive.store.insert(lease, gone, NodeEvent(NOON, "x", MODEL, gone.name, None, "x", "x"))
    alive.cloud.spare_disks = [Disk("mine", "OS-disk-m1", 100, "x")]
    alive.clock.move(TIMINGS.disk_search.total_seconds())

    await sweeper.sweep(SLUGS, MARKET)

    assert alive.cloud.sent("delete_disk") == []


# what failures teach


async def test_a_quota_backs_its_gpu_family_off_and_an_unpaid_account_everything(
    alive: Life,
) -> None:
    note = alive.launcher.note_failure
    market = [offer.key for offer in MARKET.offers]
    alive.markets[0] = MARKET
    row = node()

    await note(row, policy(), "verify: no GPU")
    one = [b.key for b in await alive.store.backoffs()]
    await note(row, policy(), QuotaExceeded("8 GPUs"))
    family = [b.key for b in await alive.store.backoffs()]
    await note(row, policy(), PaymentRequired("no card"))
    everything = [b.key for b in await alive.store.backoffs()]

    assert one == [KEY]
    assert sorted(family) == sorted(market[:2])
    assert sorted(everything) == sorted(market)


def test_a_back_off_doubles_to_its_maximum_and_is_forgotten_in_time() -> None:
    lengths = []
    before, now = None, NOON
    for _ in range(8):
        before = back_off(KEY, before, "stock", policy(), now)
        lengths.append((before.until - now) / timedelta(minutes=1))
        now = before.until
    much_later = back_off(KEY, before, "stock", policy(), now + timedelta(hours=3))

    assert lengths == [2, 4, 8, 16, 32, 60, 60, 60]
    assert much_later.failures == 1


def ended(number: int, why: str | None = "verify: no GPU", **changes: object) -> Node:
    return node(State.GONE, intent=intent_id(number), failure=why, **changes)


def test_three_launches_that_fail_alike_stop_the_model_and_say_how_to_go_on() -> None:
    stop = launch_stop(tuple(ended(n) for n in range(3)), policy(), None) or ""

    assert "3 launches in a row failed alike (verify: no GPU)" in stop
    assert "autoscaler resume llama" in stop


@pytest.mark.parametrize(
    "nodes",
    [
        [ended(0), ended(1)],
        [ended(0), ended(1), ended(2, "deadline: still booting")],
        [ended(0), ended(1, None, ready_at=NOON), ended(2), ended(3)],
        [ended(n, "stock: none left") for n in range(9)],
        [ended(n, spec_hash="an older policy") for n in range(9)],
        [ended(0), ended(1), node(State.LOST, intent=intent_id(2))],
    ],
    ids=["two", "different", "one was ready", "the market", "another spec", "unanswered"],
)
def test_anything_else_lets_launches_go_on(nodes: list[Node]) -> None:
    assert launch_stop(tuple(nodes), policy(), None) is None


def test_resuming_forgives_what_failed_before() -> None:
    nodes = tuple(ended(n) for n in range(5))

    assert launch_stop(nodes, policy(), NOON) is None
    assert launch_stop(nodes, policy(), NOON - seconds(1)) is not None


# the rule before the first launch


async def test_no_launch_before_the_firewall_rule_was_seen_active(alive: Life) -> None:
    gate = FirewallGate(alive.cloud, "as1-serve", ["198.51.100.7/32"], manage=True)
    gate.want([8001, 8000, 8000])
    asked: list[tuple[int, ...]] = []
    ensure = alive.cloud.ensure_firewall_rule

    class Slow:
        active = False

        async def ensure_firewall_rule(self, name, sources, ports):  # type: ignore[no-untyped-def]
            asked.append(tuple(ports))
            return replace(await ensure(name, sources, ports), active=self.active)

    slow = Slow()
    gate._cloud = slow  # type: ignore[assignment]
    with pytest.raises(CloudUnavailable, match="is not active yet"):
        await gate.ready()
    slow.active = True
    await gate.ready()
    await gate.ready()
    gate.want([8000, 9000])
    await gate.ready()

    assert asked == [(8000, 8001), (8000, 8001), (8000, 9000)]


async def test_a_cloud_without_firewall_rules_says_what_to_do(alive: Life) -> None:
    class Without:
        async def ensure_firewall_rule(self, name, sources, ports):  # type: ignore[no-untyped-def]
            raise EndpointMissing("no firewall endpoint")

    gate = FirewallGate(Without(), "as1-serve", [], manage=True)  # type: ignore[arg-type]
    gate.want([8000])

    with pytest.raises(CloudUnavailable, match=r"set firewall\.manage = false"):
        await gate.ready()
    await FirewallGate(Without(), "x", [], manage=False).ready()  # type: ignore[arg-type]


# what a surfaced machine is booked at


async def doomed(alive: Life, sweeper: Sweeper, market: Market | None) -> Node:
    """The row of an orphan past its grace."""
    name = alive.cloud.add(stray_name()).name
    await sweeper.sweep(SLUGS, market)
    alive.clock.move(TIMINGS.orphan_grace.total_seconds())
    await alive.leases.renew_all()
    await sweeper.sweep(SLUGS, market)
    return await alive.get(NodeName(name))


async def test_a_machine_whose_type_is_sold_out_here_is_booked_as_elsewhere(
    alive: Life, sweeper: Sweeper
) -> None:
    there = replace(offer(usd="1.50"), key=replace(KEY, location="eu-iceland1-a"))

    row = await doomed(alive, sweeper, Market((there, offer("a40.1x", "a40", "9.90")), NOON))

    assert row.price_per_hour == Money.of("1.50")


async def test_a_machine_whose_type_is_not_offered_is_booked_as_others_were_rented(
    alive: Life, sweeper: Sweeper
) -> None:
    await alive.add(node(State.PLANNED, price_per_hour=Money.of("1.10")))

    row = await doomed(alive, sweeper, Market((offer("a40.1x", "a40", "9.90"),), NOON))

    assert row.price_per_hour == Money.of("1.10")


async def test_a_machine_of_a_type_that_nobody_knows_is_booked_at_the_dearest_price(
    alive: Life, sweeper: Sweeper
) -> None:
    row = await doomed(alive, sweeper, Market((offer("a40.1x", "a40", "9.90"),), NOON))

    assert row.price_per_hour == Money.of("9.90")


async def test_a_machine_that_surfaced_is_not_adopted_once_a_later_attempt_is_recorded(
    alive: Life,
) -> None:
    """Between the sweep's look at the store and its write a pass may have gone on with the intent."""
    alive.cloud.create_raises = [OutcomeUnknown("timeout")]
    alive.pause_s = 15
    row = await alive.add(node())
    lost = await alive.until(row.name, State.LOST)
    now = alive.clock.now()
    later = await alive.add(node(attempt=2, since=now, created_at=now))
    back = replace(lost, state=State.BOOTING, gone_at=None, machine_id=MachineId("m-late"))
    event = NodeEvent(now, "node_booting", MODEL, lost.name, State.BOOTING, "surfaced", "sweep")

    with pytest.raises(StoreUnavailable, match="a later attempt"):
        await alive.store.advance(alive.leases.current(MODEL), lost, back, event)

    assert (await alive.get(lost.name)).state is State.LOST
    assert [n.name for n in (await alive.store.fleet(MODEL)).nodes] == [later.name]
