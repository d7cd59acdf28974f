"""What a trial reads out of a life, what is kept of it, and how much may be rented before anything is proven."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from autoscaler.act import Limits
from autoscaler.brakes.facts import (
    BELIEFS,
    Fact,
    Status,
    facts_key,
    leaned_on,
    read_facts,
    write_facts,
)
from autoscaler.brakes.load import Ask, Load
from autoscaler.brakes.proof import Proof
from autoscaler.brakes.recording import RecordingCloud, Seen
from autoscaler.brakes.shown import of_calls, of_proof, waterfall
from autoscaler.brakes.trial import Plan, Report, Trial
from autoscaler.cli.trial import lines, read_settings
from autoscaler.cli.tryout import told_safely
from autoscaler.config import Config, LimitSettings
from autoscaler.domain.ids import MachineId
from autoscaler.domain.machine import OperationState, PowerState
from autoscaler.domain.money import Money
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.errors import ConfigError, Rejected, StoreUnavailable
from autoscaler.store.protocol import Ledger
from autoscaler.store.sqlite import SqliteStore
from tests.brakes.parts import Clock, LyingCloud, create_of
from tests.nodes.life_parts import NOON, node, policy

GONE: dict[str, Any] = {  # Any: fields of a Node
    "machine_id": MachineId("m1"),
    "booted_at": NOON,
    "verified_at": NOON,
    "host_key": "ssh-ed25519 AAAA",
    "deletes": 1,
    "gone_at": NOON,
}
SETTLING = timedelta(seconds=600)


def gone(**changes: object) -> Node:
    return replace(node(State.GONE), **{**GONE, **changes})


def event(after_s: float, state: State, detail: str = "") -> NodeEvent:
    at = NOON + timedelta(seconds=after_s)
    return NodeEvent(at, f"node_{state}", None, None, state, "because", "daemon", detail)


STORY = [
    event(0, State.PLANNED),
    event(1, State.CREATING),
    event(13, State.BOOTING),
    event(53, State.VERIFYING),
    event(133, State.READY, "1 x NVIDIA L40S, no NVLink, driver 550.54; 41.2 tokens/s; pull 60.0s load 15.5s"),
    event(193, State.DRAINING),
    event(199, State.TERMINATING),
    event(260, State.GONE, "left balancers: 12:03; cost: $0.09"),
]  # fmt: skip


def test_a_life_is_shown_stage_by_stage_with_the_scripts_own() -> None:
    bars = waterfall(gone(), STORY)

    assert [(bar.stage, bar.after_s, bar.seconds) for bar in bars] == [
        ("planned", 0, 1),
        ("creating", 1, 12),
        ("booting", 13, 40),
        ("verifying", 53, 80),
        ("  script: pull", 13, 60.0),
        ("  script: load", 73, 15.5),
        ("ready", 133, 60),
        ("draining", 193, 6),
        ("terminating", 199, 61),
    ]


@pytest.mark.parametrize(
    ("name", "seen", "row", "status"),
    [
        ("delete_running", Seen(deleted_running=True), gone(), Status.CONFIRMED),
        ("delete_running", Seen(deleted_running=True, refusals=1, stops=1), gone(), Status.REFUTED),
        ("delete_running", Seen(deleted_running=True, stops=1), gone(), Status.UNPROVEN),
        ("delete_running", Seen(), gone(), Status.UNPROVEN),
        (
            "delete_running",
            Seen(deleted_running=True),
            gone(state=State.TERMINATING),
            Status.UNPROVEN,
        ),
        ("name_unique", Seen(most=1), gone(), Status.UNPROVEN),
        ("name_unique", Seen(most=2), gone(), Status.REFUTED),
        ("create_answer", Seen(answered_s=1.0, held_id=True), gone(), Status.CONFIRMED),
        ("create_answer", Seen(answered_s=1.0), gone(), Status.REFUTED),
        ("create_answer", Seen(), gone(), Status.UNPROVEN),
        ("listing_lag", Seen(answered_s=1.0, listed_s=5.0), gone(), Status.CONFIRMED),
        ("listing_lag", Seen(answered_s=1.0, listed_s=700.0), gone(), Status.REFUTED),
        ("listing_lag", Seen(answered_s=1.0), gone(), Status.UNPROVEN),
        ("script_echo", Seen(echoes=True), gone(), Status.CONFIRMED),
        ("script_echo", Seen(echoes=False), gone(), Status.REFUTED),
        ("script_echo", Seen(), gone(), Status.UNPROVEN),
    ],
)
def test_what_the_calls_showed(name: str, seen: Seen, row: Node, status: Status) -> None:
    assert of_calls(row, seen, SETTLING)[name][0] is status


def test_what_the_proof_of_a_node_showed() -> None:
    good = of_proof(gone(), STORY)
    early = of_proof(gone(host_key=None, verified_at=None, failure="deadline: no SSH"), [])
    old = of_proof(gone(verified_at=None, failure="verify: driver 535.1 is too old"), [])

    assert {status for status, _ in good.values()} == {Status.CONFIRMED}
    assert good["driver"][1] == "550.54"
    assert {status for status, _ in early.values()} == {Status.UNPROVEN}
    assert old["driver"][0] is Status.REFUTED
    assert old["ssh_user"][0] is Status.CONFIRMED


async def test_a_watched_cloud_keeps_what_happened_to_each_name() -> None:
    cloud, clock = LyingCloud(Clock()), Clock()
    watched = RecordingCloud(cloud, clock)
    row = node()
    watched.seen[row.name] = Seen(answered_s=clock.boot_s(), machine_id=MachineId(f"id-{row.name}"))
    cloud.add(row.name)
    cloud.deletes = [Rejected("409: it runs")]
    cloud.ops = [replace(create_of(row.name, OperationState.SUCCEEDED), echoes_script=True)]

    await clock.sleep(7)
    await watched.inventory()
    await watched.operations(NOON)
    with pytest.raises(Rejected):
        await watched.delete(MachineId(f"id-{row.name}"))
    await watched.stop(MachineId(f"id-{row.name}"))
    await watched.delete(MachineId(f"id-{row.name}"))

    seen = watched.seen[row.name]
    assert seen.listed_s == clock.boot_s()
    assert (seen.most, seen.power, seen.echoes) == (1, PowerState.RUNNING, True)
    assert (seen.refusals, seen.stops, seen.deleted_running) == (1, 1, False)


# what is kept


def fact(name: str, status: Status = Status.CONFIRMED) -> Fact:
    return Fact(name, status, "so", NOON.isoformat(), "a40.1x@x")


def test_facts_are_kept_and_what_was_not_shown_again_is_not_forgotten() -> None:
    first = write_facts({}, [fact("disks"), fact("driver", Status.UNPROVEN)])
    second = write_facts(read_facts(first), [fact("disks", Status.REFUTED), fact("ssh_user")])
    third = write_facts(read_facts(second), [fact("ssh_user", Status.UNPROVEN)])

    kept = {name: found.status for name, found in read_facts(third).items()}
    assert kept == {"disks": Status.REFUTED, "ssh_user": Status.CONFIRMED}


@pytest.mark.parametrize("text", [None, "", "{", "[1]", '[{"name": "disks"}]', "{}", "null"])
def test_facts_that_are_not_understood_count_as_never_shown(text: str | None) -> None:
    assert read_facts(text) == {}
    assert len(leaned_on(read_facts(text))) == sum(1 for belief in BELIEFS if belief.leans)


def test_only_what_is_leaned_on_and_not_confirmed_is_named() -> None:
    facts = {belief.name: fact(belief.name) for belief in BELIEFS}
    assert leaned_on(facts) == ()

    facts["disks"] = fact("disks", Status.REFUTED)
    del facts["name_unique"]

    assert [belief.name for belief in leaned_on(facts)] == ["disks"]


# one at a time


async def test_one_vm_at_a_time_until_a_delete_is_proven(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "autoscaler.db")
    await store.set_meta("project", "p1")
    proof = Proof(lambda: True)
    await proof.read(store, NOON)
    assert proof.most_nodes() == 1
    assert "delete_running" in {belief.name for belief in proof.unproven}

    proof.node_changed(gone(deletes=0))
    proof.node_changed(gone(booted_at=None))
    proof.node_changed(gone(failure="vanished: somebody deleted it"))
    proof.node_changed(gone(state=State.TERMINATING))
    assert proof.most_nodes() == 1

    proof.node_changed(gone())
    assert proof.most_nodes() is None

    await store.set_meta("delete_proven:p1", NOON.isoformat())
    await store.set_meta(facts_key("p1"), write_facts({}, [fact(b.name) for b in BELIEFS]))
    heir, elsewhere = Proof(lambda: True), Proof(lambda: True)
    await heir.read(store, NOON)
    await store.set_meta("project", "p2")
    await elsewhere.read(store, NOON)
    assert (heir.most_nodes(), heir.unproven) == (None, ())
    assert elsewhere.most_nodes() == 1
    await store.close()


async def test_an_emulator_need_not_prove_anything(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "autoscaler.db")
    proof = Proof(lambda: False)

    await proof.read(store, NOON)

    assert (proof.most_nodes(), proof.unproven) == (None, ())
    await store.close()


def test_a_second_vm_is_refused_in_the_transaction_while_nothing_is_proven() -> None:
    model = policy()
    ledger = Ledger(at=NOON, nodes=(node(State.READY),), launches=())
    wanted = node(intent="b" * 13)

    unproven = Limits(LimitSettings(), {model.name: model}, most_nodes=1)
    proven = Limits(LimitSettings(), {model.name: model})
    orphan = Limits(LimitSettings(), {model.name: model}, unbooked=(Money.of("1"),), most_nodes=1)

    assert "no delete is proven" in (unproven.why_not(ledger, (), wanted) or "")
    assert proven.why_not(ledger, (), wanted) is None
    assert orphan.why_not(replace(ledger, nodes=()), (), wanted) is not None


def test_a_real_cloud_cannot_be_excused_from_proving() -> None:
    with pytest.raises(ValueError, match="prove_first"):
        Config.model_validate(
            {
                "schema": 1,
                "cloud": {"key_file": "key", "owner": "testtest"},
                "limits": {"usd_per_hour": "5", "usd_per_month": "100", "prove_first": False},
                "firewall": {"manage": False},
            }
        )


# the load


async def _serve(handler: Any) -> tuple[web.AppRunner, str]:  # Any: what aiohttp calls a handler
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def test_load_counts_answers_tokens_and_first_tokens() -> None:
    asked = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        assert body["model"] == "m"
        assert len(body["messages"][0]["content"].split()) == 7
        asked.set()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        await response.write(b'data: {"choices":[],"usage":{"completion_tokens":5}}\n\n')
        await response.write(b"data: [DONE]\n\n")
        return response

    runner, url = await _serve(answer)
    capacity = await Load(Ask(url, "m", 7, 5, 2)).run(5.0, asked.is_set)
    await runner.cleanup()

    assert capacity.failed == 0, capacity
    assert capacity.done == pytest.approx(capacity.tokens_per_s * capacity.seconds / 5)
    assert (capacity.ttft_p50_s is None) == (capacity.done == 0)


async def test_load_says_why_nothing_was_answered_and_never_raises() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, text="no capacity")

    runner, url = await _serve(refuse)
    refused = await Load(Ask(url, "m", 1, 1, 2)).run(0.3, lambda: False)
    await runner.cleanup()
    nobody = await Load(Ask("http://127.0.0.1:9", "m", 1, 1, 1)).run(0.3, lambda: False)

    assert (refused.done, refused.why) == (0, "HTTP 503: no capacity")
    assert refused.failed > 0
    assert "ClientConnectorError" in nobody.why


class _Rows:
    """A store whose one row stands until it is given back; some readings of it fail."""

    def __init__(self, row: Node, fails: int) -> None:
        self.row, self.fails = row, fails

    async def nodes(self, **_: object) -> tuple[Node, ...]:
        self.fails -= self.row.state is State.TERMINATING
        if self.row.state is State.TERMINATING and self.fails >= 0:
            raise StoreUnavailable("disk I/O error")
        if self.row.state is State.TERMINATING:
            self.row = gone(created_at=self.row.created_at)
        return (self.row,)

    async def events(self, **_: object) -> list[NodeEvent]:
        return []

    async def give_back(self) -> None:
        if self.row.state is State.READY:
            self.row = replace(self.row, state=State.TERMINATING)

    def thought(self) -> str:
        return ""


async def test_whatever_breaks_the_vm_of_a_trial_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def breaks(*_: object) -> None:
        raise AttributeError("a server said what no server says")

    monkeypatch.setattr(Load, "run", breaks)
    told: list[str] = []
    house: Any = _Rows(replace(node(State.READY), created_at=NOON, machine_id=MachineId("m1")), 2)
    minute = timedelta(minutes=1)
    plan = Plan(policy(), "http://127.0.0.1:9", Money.of("2"), minute, minute, minute, minute)
    cloud = RecordingCloud(LyingCloud(Clock()), Clock())

    report = await Trial(plan, house, cloud, house, Clock(), told.append).run()

    assert house.row.state is State.GONE
    assert "a server said what no server says" in report.ended
    assert sum("disk I/O error" in line for line in told) == 1


def test_a_report_fits_eighty_columns_and_survives_a_trial_without_a_vm() -> None:
    facts = tuple(fact(belief.name) for belief in BELIEFS)
    whole = Report(
        gone(), Money.of("0.09"), waterfall(gone(), STORY), None, STORY[-1].detail, facts
    )
    empty = Report(None, Money.of(0), (), None, "", (), ended="nothing was rented")

    assert max(len(line) for line in lines(whole)) <= 80
    assert "no VM was rented" in "\n".join(lines(empty))


@pytest.mark.parametrize("at", [NOON])
def test_bars_of_a_life_without_events_are_none(at: datetime) -> None:
    assert waterfall(gone(created_at=at), []) == ()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--max-cost", "two"), "--max-cost"),
        (("--max-cost", "0"), "more than 0"),
        (("--max-cost", "nan"), "more than 0"),
        (("--max-cost", "-3"), "more than 0"),
        (("--load", "60"), "--load"),
        (("--load", "2h"), "--load"),
    ],
)
def test_a_trial_that_is_asked_for_wrongly_says_what_is_allowed(
    tmp_path: Path, words: tuple[str, str], says: str
) -> None:
    options = {"--max-cost": "2", "--load": "60s", words[0]: words[1]}
    with pytest.raises(ConfigError, match=says):
        read_settings(tmp_path / "p.toml", options["--max-cost"], options["--load"], None)


def test_a_closed_terminal_keeps_nothing_from_going_on() -> None:
    def closed(line: str) -> None:
        raise BrokenPipeError(line)

    told_safely(closed)("giving it back")
