"""The dead-man's switch: the real script, look by look, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

import autoscaler.nodes.startup
from autoscaler.config import Config
from autoscaler.emulator.machines.local import LocalMachines
from autoscaler.nodes.host_authority import open_host_authority
from autoscaler.nodes.vouching import Voucher
from tests.nodes import vm_parts
from tests.nodes.adopt_parts import AirHost
from tests.nodes.vm_parts import CONFIG, machine, offer, policy, script, until

LOOK = Path(autoscaler.nodes.startup.__file__).with_name("dead_man.sh")
HOURS = 3600
AFTER = 12 * HOURS
IDLE = 'vllm:prompt_tokens_total{model_name="m"} 7.0\n'
COMMAND = '#!/bin/sh\necho "${0##*/} $*" >>"$ROOT/calls"\n'


@dataclass
class Node:
    """A directory that stands for a node, and what its server counts."""

    root: Path
    port: int
    page: str = IDLE
    tls: bool = False

    async def look(self, at_s: int, clock: str | None = None) -> list[str]:
        """Let the switch look once, so many seconds after the boot; the commands that it ran."""
        (self.root / "uptime").write_text(f"{at_s}.25 1.00\n" if clock is None else clock)
        process = await asyncio.create_subprocess_exec(
            *("bash", str(LOOK)),
            env={
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "DEAD_MAN_CLOCK": str(self.root / "uptime"),
                "ROOT": str(self.root),
                "RUN": str(self.root / "run/autoscaler"),
                "HERE": "127.0.0.1",
                "PORTS": f" {self.port}",
                "METRICS_PATH": "/metrics",
                "WANTS_TLS": str(int(self.tls)),
                "REPLICAS": "1",
                "DEADMAN_S": str(AFTER),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await process.communicate()
        calls = self.root / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def visited(self, mark: str) -> None:
        (self.root / "run/autoscaler/secrets/visited").write_text(f"{mark}\n")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    for folder in ("bin", "run/autoscaler/secrets"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("docker", "poweroff"):
        (tmp_path / "bin" / name).write_text(COMMAND)
        (tmp_path / "bin" / name).chmod(0o755)

    async def figures(request: web.Request) -> web.Response:
        return web.Response(text=made.page)

    app = web.Application()
    app.router.add_get("/metrics", figures)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made = Node(tmp_path, runner.addresses[0][1])
    yield made
    await runner.cleanup()


OFF = ["docker stop --time 60 autoscaler-0", "poweroff "]


async def test_unvisited_and_idle_it_stops_the_server_and_then_powers_off(node: Node) -> None:
    assert await node.look(60) == []
    assert await node.look(60 + AFTER - 1) == []
    assert await node.look(60 + AFTER) == OFF


async def test_each_visit_begins_the_wait_anew(node: Node) -> None:
    await node.look(60)
    node.visited("1001")
    assert await node.look(60 + AFTER - 1) == []
    assert await node.look(60 + 2 * AFTER - 2) == []
    node.visited("1002")
    assert await node.look(60 + 2 * AFTER) == []
    assert await node.look(60 + 3 * AFTER) == OFF


async def test_the_daemons_own_visit_is_one(node: Node) -> None:
    voucher = Voucher(open_host_authority(node.root / "authority"), "as1-abcdefgh")
    host = AirHost(node.root)
    row = vm_parts.node(policy(), offer(), "127.0.0.1", host_key=host.host_key)
    await node.look(60)

    await voucher.visit(host, row)

    assert await node.look(60 + AFTER) == []
    assert await node.look(60 + 2 * AFTER) == OFF


async def test_a_request_in_the_last_hour_keeps_it_on(node: Node) -> None:
    await node.look(60)
    node.page = IDLE.replace("7.0", "9.0")
    last = 60 + AFTER + 5 * HOURS  # nobody visits any more, and it is used all the same

    assert await node.look(last) == []
    assert await node.look(last + HOURS - 1) == []
    assert await node.look(last + HOURS) == OFF


@pytest.mark.parametrize(
    "page", ["", "http_requests_total 5\n", "vllm:prompt_tokens_created 1\n", "\x00"]
)
async def test_a_server_that_answers_and_does_not_count_requests_keeps_it_on(
    node: Node, page: str
) -> None:
    node.page = page

    for at_s in (60, 60 + AFTER, 60 + 9 * AFTER):
        assert await node.look(at_s) == []


async def test_a_server_that_is_gone_has_no_requests(node: Node) -> None:
    node.port = 9  # discard: nobody listens there

    await node.look(60)

    assert await node.look(60 + AFTER) == OFF


@pytest.mark.parametrize("state", ["", "x y z", "999999999 5 a b", "\n\n"])
async def test_what_it_remembers_wrongly_makes_it_wait_and_never_act(
    node: Node, state: str
) -> None:
    (node.root / "run/autoscaler/dead_man").write_text(state)

    assert await node.look(60 + AFTER) == []
    assert await node.look(60 + 2 * AFTER - 1) == []


async def test_a_clock_that_cannot_be_read_makes_it_wait(node: Node) -> None:
    (node.root / "run/autoscaler/dead_man").write_text("0 0 x\n")

    assert await node.look(60, clock="") == await node.look(60, clock="late\n") == []


async def test_over_tls_it_asks_curl(node: Node) -> None:
    (node.root / "bin/curl").write_text('#!/bin/sh\ncat "$ROOT/page" 2>/dev/null || exit 7\n')
    (node.root / "bin/curl").chmod(0o755)
    node.tls = True
    (node.root / "page").write_text(IDLE)

    assert await node.look(60) == []
    (node.root / "page").write_text(IDLE.replace("7", "8"))
    assert await node.look(60 + AFTER) == []
    (node.root / "page").unlink()
    assert await node.look(60 + 2 * AFTER) == []  # that it went is news too
    assert await node.look(60 + 2 * AFTER + HOURS) == OFF


def switched(after: str | None) -> Config:
    recheck = {"recheck": timedelta(milliseconds=500), "deadman_after": after}
    timings = type(CONFIG.timings).model_validate(recheck)
    return CONFIG.model_copy(update={"timings": timings})


def words(folder: Path) -> str:
    return next(folder.rglob("dead_man.log")).read_text()


async def test_the_startup_script_arms_it_when_the_config_says_so(tmp_path: Path) -> None:
    machines = LocalMachines(tmp_path)
    armed = script(policy(), offer(), config=switched("2s"))
    vm = machine(armed.text, offer())
    try:
        await machines.boot(vm, 0.05)

        async def is_off() -> bool | None:
            return None if machines.is_running(vm.vm_id) else True

        assert await until(is_off)
        said = words(tmp_path)
    finally:
        await machines.close()
    assert "no daemon for" in said
    assert said.endswith("powering off\n")


def test_without_the_config_there_is_no_switch() -> None:
    assert "DEADMAN" not in script(policy(), offer()).text
    assert "\nDEADMAN_S=43200\n" in script(policy(), offer(), config=switched("12h")).text


def test_shellcheck_finds_nothing_in_it(tmp_path: Path) -> None:
    given = "ROOT=a RUN=b HERE=c PORTS=d METRICS_PATH=e WANTS_TLS=1 REPLICAS=2 DEADMAN_S=3\n"
    (tmp_path / "look.sh").write_text(given + LOOK.read_text())
    (tmp_path / "armed.sh").write_text(script(policy(), offer(), config=switched("12h")).text)

    found = subprocess.run(
        ["shellcheck", "--shell=bash", *tmp_path.glob("*.sh")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (found.stdout, found.returncode) == ("", 0)
