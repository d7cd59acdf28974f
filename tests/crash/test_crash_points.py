"""The real daemon dies at each named point in turn, by SIGKILL, and the next one takes up what it finds."""

from __future__ import annotations

import asyncio
import inspect
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from autoscaler.balance.group import BalancerGroup
from autoscaler.cloud.protocol import Cloud
from autoscaler.config_file import read_config
from autoscaler.crashpoints import (
    CALLS,
    RECORDS,
    VARIABLE,
    WAYS,
    WORDS,
    Point,
    armed,
    outside_of,
)
from autoscaler.domain.node import State
from autoscaler.errors import ConfigError
from autoscaler.nodes.reach import Reach
from autoscaler.outside import open_outside
from autoscaler.store.protocol import Store
from tests.crash.crashes import QUICK, Clients, Crashes
from tests.e2e.test_e2e_brakes import client, our_name, rent
from tests.e2e.world import MODEL

ROOT = Path(__file__).parents[2]

IDLE = (
    Point.START, Point.LEASE, Point.COPIED, Point.FACT, Point.RULE_KEPT, Point.POOL_TOLD,
    Point.WELCOMED, Point.ORPHANS, Point.PRUNED, Point.DECISION,
)  # fmt: skip
LAUNCH = (
    Point.PLANNED,
    Point.CREATING,  # nothing was sent: it is looked for, and written off
    Point.LOST,
    Point.CREATE_SENT,  # the answer is lost with us: it is found by its name
    Point.FACTS,  # that it was looked for
    Point.BOOTING, Point.VERIFYING, Point.VERIFIED, Point.REGISTERED, Point.READY,
)  # fmt: skip
GIVE_BACK = (
    Point.DRAINING, Point.DRAIN_TOLD, Point.REMOVED, Point.TERMINATING, Point.WAY_CLOSED,
    Point.DELETE_SENT, Point.STOP_SENT, Point.DELETE, Point.GONE, Point.DISK_DELETE_SENT,
)  # fmt: skip
ODD = (
    Point.OFFER, Point.CANCELLED, Point.CREATE_ANSWER, Point.FAILED, Point.EVENT, Point.CONDEMNED,
    Point.TAKEN_IN, Point.WORD,
)  # fmt: skip


@pytest.mark.e2e
async def test_a_launch_that_dies_at_each_point_rents_no_twin_and_serves(crashes: Crashes) -> None:
    there = crashes.world

    there.write_policy(nodes={"min": 0, "max": 3})
    for point in IDLE:
        await crashes.die_at(point)
    assert await there.created_names() == []
    there.write_policy(nodes={"min": 1, "max": 3})
    for point in LAUNCH:
        await crashes.die_at(point)
    await crashes.start()
    (node,) = await crashes.settled(1)

    assert (await there.ask()).node == node["name"]
    assert len(await there.created_names()) == 1  # the attempt that was written off was never sent
    assert await there.calls("delete_vm") == []


@pytest.mark.e2e
async def test_a_node_is_given_back_though_its_daemon_dies_at_each_point_and_no_request_is_cut(
    crashes: Crashes,
) -> None:
    there = crashes.world
    there.write_policy(nodes={"min": 2, "max": 3})
    await crashes.start()
    leaving, _ = await crashes.settled(2)
    await there.admin("PUT", "/switches", delete_running="refused")
    await there.fault("os_disk_left")
    await there.fault("delete_ignored", count=2)
    await there.end("daemon")
    clients = Clients(there)

    async def drain() -> None:
        await there.tell("drain", node=leaving["name"])

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(clients.ask()) for _ in range(2)]
        await crashes.die_at(GIVE_BACK[0], say=drain)
        for point in GIVE_BACK[1:]:
            await crashes.die_at(point)
        await crashes.start()
        await crashes.settled(2)
        for task in asking:
            task.cancel()

    assert clients.failed == []
    assert clients.whole > 10
    assert (await there.admin("GET", "/snapshot"))["disks"][2:] == []


@pytest.mark.e2e
async def test_what_goes_wrong_is_set_right_though_the_daemon_dies_over_it(
    crashes: Crashes,
) -> None:
    there = crashes.world
    await there.fault("status", call="create_vm", code=400, count=2)
    for point in (Point.OFFER, Point.CANCELLED):
        await crashes.die_at(point)
    await there.clear_faults()
    await there.fault("script_exits_1")
    for point in (Point.CREATE_ANSWER, Point.FAILED, Point.EVENT):
        await crashes.die_at(point)
    await crashes.start()
    await crashes.settled(1)
    await crashes.kill()

    async with client(there) as hand:
        await rent(hand, orphan := our_name())
    await crashes.die_at(Point.CONDEMNED)
    await crashes.start()
    (node,) = await crashes.settled(1)
    assert orphan not in {vm["name"] for vm in await there.machines()}
    await crashes.kill()

    shutil.rmtree(there.directory / "state")
    patient = {**QUICK, "orphan_grace": "10m"}
    there.config_edits = {**there.config_edits, "timings": patient}

    async def is_held() -> bool:
        trouble = (await there.get("/api/v1/status"))["trouble"]
        return any("no row knows" in text for text in trouble)

    async def adopt() -> None:
        await there.until(is_held, "the sweep holds: what serves is in no row")
        await there.command("adopt", "--yes")

    await crashes.die_at(Point.TAKEN_IN, say=adopt)

    async def retire() -> None:
        await there.tell("retire", model=MODEL)

    await crashes.die_at(Point.WORD, say=retire)
    await crashes.start()
    await crashes.settled(0)

    assert await there.calls("delete_vm")
    assert node["name"] not in {vm["name"] for vm in await there.machines()}


def test_every_record_and_every_effect_has_its_point() -> None:
    """A new method is named there, or said here to leave nothing."""
    reads = {
        Store: {
            "fleet", "nodes", "node", "ledger", "open_intents", "last_attempt", "events",
            "last_decision", "decisions", "record", "promotions", "backoffs", "boots",
            "listing_lags", "orphans", "meta", "close",
        },
        Cloud: {
            "offers", "inventory", "machine", "operation", "operations", "disks", "firewall_rules",
            "project_id", "usage", "close",
            "delete_firewall_rule",  # the daemon never does
        },
        BalancerGroup: {"ask", "in_traffic", "close"},
        Reach: {
            "endpoints", "keep",
            "prepare",  # what it gives a node it may give again, and nothing is recorded of it
        },
    }  # fmt: skip
    named = {Store: RECORDS, Cloud: CALLS, BalancerGroup: WORDS, Reach: WAYS}

    for side, known in reads.items():
        methods = {
            name
            for name, found in vars(side).items()
            if inspect.iscoroutinefunction(found) and not name.startswith("_")
        }
        assert methods == known | set(named[side]), side


def test_every_state_that_is_recorded_has_its_point() -> None:
    assert {f"{state}-recorded" for state in State} <= {str(point) for point in Point}


def test_the_daemon_dies_at_every_point_that_has_a_name() -> None:
    journeys: Sequence[Point] = (*IDLE, *LAUNCH, *GIVE_BACK, *ODD)

    assert sorted(set(Point) - set(journeys)) == []


@pytest.mark.parametrize("text", ["no-such-point", "create-sent:x", ":"])
def test_a_point_without_that_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed: one of planned-recorded, .* unset it"):
        armed({VARIABLE: text})


def test_no_daemon_on_a_real_cloud_is_ever_armed(directory: Path) -> None:
    text = (ROOT / "config.example.toml").read_text()
    (directory / "config.toml").write_text(text)
    config = read_config(directory / "config.toml")

    with pytest.raises(ConfigError, match="works with the emulator only: unset it"):
        outside_of(config, armed({VARIABLE: "create-sent"}))
    assert outside_of(config, armed({})) is open_outside
