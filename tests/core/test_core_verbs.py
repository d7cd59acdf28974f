"""The commands that change something: they show, they ask, and a brake holds also while nothing can be foreseen."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

from autoscaler.cli.app import app

CONFIG = """\
schema = 1
state_dir = "state"
runtime_dir = "."
[cloud]
url = "http://127.0.0.1:1/v0.1"
key_file = "key"
owner = "testtest"
"""


@dataclass
class Stub:
    """A daemon as far as its verbs go."""

    directory: Path
    foresees: tuple[int, dict[str, object]] = (200, {"text": ["chat: 2 nodes -> 0 nodes"]})
    told: list[str] = field(default_factory=list)

    async def preview(self, request: web.Request) -> web.Response:
        status, body = self.foresees
        return web.json_response(body, status=status)

    async def verb(self, request: web.Request) -> web.Response:
        self.told.append(request.path)
        return web.json_response({"model": "chat", "mode": "paused"})

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command in a thread of its own: it has its own loop."""
        config = ("--config", str(self.directory / "config.toml"))
        said = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, *config])
        return said.exit_code, said.output


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    directory = Path(tempfile.mkdtemp(prefix="verbs-"))  # short: a socket's path is bounded
    (directory / "config.toml").write_text(CONFIG)
    found = Stub(directory)
    served = web.Application()
    served.router.add_post("/api/v1/preview", found.preview)
    served.router.add_post("/api/v1/{verb}", found.verb)
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, directory / "daemon.sock").start()
    yield found
    await runner.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("verb", ["pause", "resume", "retire", "promote", "demote"])
async def test_the_consequence_is_shown_and_nothing_is_told_without_a_yes(
    stub: Stub, verb: str
) -> None:
    code, said = await stub.run(verb, "chat")

    assert code == 2
    assert "chat: 2 nodes -> 0 nodes" in said
    assert "say --yes" in said
    assert stub.told == []


async def test_with_a_yes_it_is_told(stub: Stub) -> None:
    code, said = await stub.run("pause", "chat", "--yes")

    assert (code, stub.told) == (0, ["/api/v1/pause"])
    assert "chat: 2 nodes -> 0 nodes" in said


async def test_a_brake_holds_while_the_cloud_cannot_be_read(stub: Stub) -> None:
    stub.foresees = (503, {"error": "CloudUnavailable: the market was not read yet"})

    code, said = await stub.run("retire", "chat", "--yes")

    assert (code, stub.told) == (0, ["/api/v1/retire"])
    assert "cannot be foreseen now: CloudUnavailable" in said


async def test_what_the_daemon_refuses_beforehand_is_not_told(stub: Stub) -> None:
    stub.foresees = (400, {"error": "chat is not in shadow: it rents already"})

    code, said = await stub.run("promote", "chat", "--yes")

    assert (code, stub.told) == (2, [])
    assert "it rents already" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--nodes N and --for TIME"),
        (("--nodes", "2"), "--nodes N and --for TIME"),
        (("--nodes", "2", "--for", "soon"), "--for: found 'soon'"),
        (("--clear", "--nodes", "2"), "leave out --nodes"),
    ],
)
async def test_a_scale_that_is_not_whole_says_what_to_write(
    stub: Stub, arguments: tuple[str, ...], said: str
) -> None:
    code, shown = await stub.run("scale", "chat", *arguments, "--yes")

    assert (code, stub.told) == (2, [])
    assert said in shown
