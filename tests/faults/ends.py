"""What is judged once all is calm: money, silence, reasons, and that nothing has grown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from sqlite3 import Connection

from autoscaler.domain.node import CLOSED, Node, State
from autoscaler.serve.scrape import scrape
from autoscaler.store import sqlite_nodes
from tests.faults.bounds import NOT_LAUNCHED
from tests.faults.invariants import Booked, Invariant
from tests.faults.memories import kept_in
from tests.faults.quiet import Heard
from tests.faults.world import World

_REMEMBERED = timedelta(minutes=70)  # the longest that a launch is watched for, and some


async def judge_end(world: World, heard: Heard) -> None:
    """Judge what can be judged at the end alone."""
    now = world.time.now()
    for what in heard.broken:
        world.inspector.violated(Invariant.HEALS, now, what, what)
    _metered(world, now)
    _told_reasons(world, now)
    _bounded(world, now)
    await _silent(world, heard, now)


# -- 20: metered


def _metered(world: World, now: datetime) -> None:
    """20: no closed row cost less than the cloud's meter says, nor much more; and the sum that people are told."""
    bills: dict[str, Booked] = {machine.id: machine for machine in world.booked()}
    slack_s = world.unable_s + world.time.asleep_s  # how long nobody could look whether it was gone
    rows = world.store.rows().values()
    for row in rows:
        bill = bills.get(row.machine_id or "")
        if row.state is State.GONE and bill is not None and bill.gone_at is not None:
            _metered_row(world, row, bill, slack_s, now)
    ours = {row.machine_id for row in rows if row.decision not in NOT_LAUNCHED}
    billed = [bill for key, bill in bills.items() if key in ours]
    least = sum((bill.usd - bill.usd_per_hour / 60 for bill in billed), Decimal(0))
    told = sqlite_nodes.ledger(world.store.db, world.clock.now()).spent_month().usd
    is_one_month = world.options.start.month == now.month
    if is_one_month and not world.stepped_s and told < least:
        world.inspector.violated(
            Invariant.METERED, now, "month", f"the month cost {told}, billed is {least} at least"
        )


def _metered_row(world: World, row: Node, bill: Booked, slack_s: float, now: datetime) -> None:
    minute = bill.usd_per_hour / 60
    off = bill.usd_per_hour * Decimal(world.stepped_s) / 3600  # the wall clock dates its ends
    if row.cost.usd < max(bill.usd - minute - off, Decimal(0)):
        world.inspector.violated(
            Invariant.METERED, now, row.name, f"{row.name}: {row.cost} < {bill.usd}"
        )
    most = bill.usd + off + bill.usd_per_hour * Decimal(slack_s) / 3600
    if row.booted_at is not None and row.cost.usd > most * Decimal("1.01") + 5 * minute:
        world.inspector.violated(
            Invariant.METERED, now, row.name, f"{row.name}: {row.cost} > {bill.usd}"
        )


# -- 19: explained


def _told_reasons(world: World, now: datetime) -> None:
    """19: whoever asks why a node was rented finds the decision; whoever asks what became of it, its last event."""
    db = world.store.db
    decided = {one for (one,) in db.execute("SELECT id FROM decisions")}
    events = db.execute("SELECT node, state FROM events WHERE node IS NOT NULL")
    told = {(name, state) for name, state in events}
    for row in world.store.rows().values():
        if now - row.created_at > timedelta(days=1):
            continue  # a soak forgets what is old
        found = row.decision if row.decision in decided | NOT_LAUNCHED else ""
        world.inspector.explained(now, row.name, "its decision is not kept", found)
        event = "told" if (row.name, row.state.value) in told else ""
        world.inspector.explained(now, row.name, f"no event says that it is {row.state}", event)


# -- 17: bounded


def _bounded(world: World, now: datetime) -> None:
    """17: no task is left behind, and no memory of nodes that ended."""
    rows = world.store.rows().values()
    tasks, open_rows = len(asyncio.all_tasks()), sum(row.state not in CLOSED for row in rows)
    most = 30 + 4 * open_rows + 4 * len(world.policies)
    if tasks > most:
        world.inspector.violated(Invariant.BOUNDED, now, "tasks", f"{tasks} tasks, at most {most}")
    run = world.run
    if run is None:
        return
    closed = [row for row in rows if row.state in CLOSED]
    ended = {r.name for r in closed if now - world.inspector.since(r) > _REMEMBERED}
    for where, count in kept_in(run.daemon, ended):
        world.inspector.violated(
            Invariant.BOUNDED, now, where, f"{where} remembers {count} nodes that ended"
        )


# -- 16: silent


async def _silent(world: World, heard: Heard, now: datetime) -> None:
    """16: no secret stands in the store, in a log, on the page of figures, or in what a machine is given."""
    for line in heard.telling:
        world.inspector.violated(Invariant.SILENT, now, "log", f"a secret in a log: {line[:200]}")
    is_up = world.run is not None and world.run.daemon.started.is_set()
    page = await scrape(world.run.daemon) if world.run is not None and is_up else b""
    for secret in world.secrets():
        for where in _tables_with(world.store.db, secret):
            world.inspector.violated(Invariant.SILENT, now, where, f"a secret stands in {where}")
        for host in world.machines.hosts.values():
            if secret in host.spec.startup_script:
                what = f"a secret is in the user data of {host.spec.vm_id}"
                world.inspector.violated(Invariant.SILENT, now, "user data", what)
        if secret.encode() in page:
            world.inspector.violated(Invariant.SILENT, now, "figures", "a secret is a figure")


def _tables_with(db: Connection, secret: str) -> Iterator[str]:
    for table, columns in _schema(db):
        where = " OR ".join(f"instr({column}, ?)" for column in columns)
        query = f"SELECT 1 FROM {table} WHERE {where} LIMIT 1"
        if db.execute(query, [secret] * len(columns)).fetchone() is not None:
            yield table


def _schema(db: Connection) -> list[tuple[str, list[str]]]:
    """Every table and its columns."""
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [(name, [row[1] for row in db.execute(f"PRAGMA table_info({name})")]) for name in names]
