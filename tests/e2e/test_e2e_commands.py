"""The command line as an operator uses it, with a daemon and without one."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import MODEL

pytestmark = pytest.mark.e2e


async def test_every_command_that_looks_answers_people_and_programs(world: Build) -> None:
    there = await world(nodes={"min": 1, "max": 2})
    (node,) = await there.ready()
    await there.ask()

    for arguments, shown in (
        (("status",), "chat"),
        (("nodes",), node["name"].split("-")[2]),
        (("nodes", "--all"), node["name"].split("-")[2]),
        (("events",), "ready"),
        (("events", node["name"]), "verifying"),
        (("events", MODEL), "booting"),
        (("explain", "chat"), "1 wanted"),
        (("plan", "chat"), "rents nothing"),
        (("cost",), "all nodes"),
        (("offers",), "l40s-48gb.1x"),
        (("cloud", "vms"), node["name"]),
        (("cloud", "firewall", "list"), "as1-testtest-serve"),
    ):
        people = await there.command(*arguments)
        assert (people.code, people.err) == (0, ""), (arguments, people)
        programs = await there.command(*arguments, "--json")
        assert programs.code == 0, (arguments, programs)
        assert shown in people.out, (arguments, people.out)
        assert json.loads(programs.out)
    assert (await there.command("validate")).code == 0


async def test_without_a_daemon_what_it_left_can_be_read_and_nothing_can_be_changed(
    world: Build,
) -> None:
    there = await world(nodes={"min": 1, "max": 2})
    (node,) = await there.ready()
    await there.end("daemon")

    status = await there.command("status", "--json")
    nodes = await there.command("nodes")
    events = await there.command("events", node["name"])
    explain = await there.command("explain", "chat")
    drain = await there.command("drain", node["name"], "--yes")

    assert status.code == 0, status
    assert "no daemon runs" in " ".join(status.json["trouble"])
    assert node["name"].split("-")[2] in nodes.out, nodes.out
    assert "node_ready" in events.out
    for said in (explain, drain):
        assert said.code != 0
        assert "no daemon answers" in said.err
        assert "autoscaler run" in said.err
    assert (await there.command("validate")).code == 0
    assert (await there.command("offers")).code == 0


async def test_a_verb_for_what_is_not_there_says_what_there_is(world: Build) -> None:
    there = await world()

    drain = await there.command("drain", "no-such-node", "--yes")
    pause = await there.command("pause", "no-such-model")

    assert drain.code != 0
    assert "autoscaler nodes" in drain.err
    assert pause.code != 0
    assert MODEL in pause.err


async def test_nothing_can_be_changed_over_tcp_nor_read_under_another_name(world: Build) -> None:
    there = await world()

    async with there.session.post(f"{there.serve}/api/v1/pause", json={"model": MODEL}) as answer:
        assert answer.status in (404, 405)
    async with there.session.get(
        f"{there.serve}/api/v1/status", headers={"Host": "evil.example"}
    ) as a:
        assert a.status == 421
    assert (await there.model())["mode"] == "active"
