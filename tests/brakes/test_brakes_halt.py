"""Before it deletes, panic tells a daemon that it can reach to launch no more, and sees that it did."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from autoscaler.brakes.witness import Address
from autoscaler.cli.halt import halt_daemon
from autoscaler.cli.marked import Marked
from autoscaler.config import CloudSettings
from autoscaler.timings import Timings


@dataclass
class House:
    """A daemon as far as its API goes."""

    socket: Path
    modes: dict[str, str] = field(default_factory=lambda: {"a": "active", "b": "shadow"})
    owner: str = "testtest"
    obeys: bool = True
    paused: list[str] = field(default_factory=list)

    async def inventory(self, request: web.Request) -> web.Response:
        row = {"name": "n1", "machine_id": None, "state": "creating"}
        told = {
            "owner": self.owner, "prefix": "as1", "project": "p1", "swept_age_s": 1.0,
            "sweep_s": 60.0, "nodes": [row],
        }  # fmt: skip
        return web.json_response(told)

    async def status(self, request: web.Request) -> web.Response:
        models = [{"model": name, "mode": mode} for name, mode in self.modes.items()]
        return web.json_response({"models": models})

    async def pause(self, request: web.Request) -> web.Response:
        body: dict[str, Any] = await request.json()  # Any: JSON of the command
        self.paused.append(body["model"])
        if self.obeys:
            self.modes[body["model"]] = "paused"
        return web.json_response({})


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short: Unix sockets allow about a hundred characters."""
    path = Path(tempfile.mkdtemp(prefix="halt-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def house(directory: Path) -> AsyncIterator[House]:
    found = House(directory / "daemon.sock")
    app = web.Application()
    app.router.add_get("/api/v1/inventory", found.inventory)
    app.router.add_get("/api/v1/status", found.status)
    app.router.add_post("/api/v1/pause", found.pause)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, found.socket).start()
    yield found
    await runner.cleanup()


def whose(socket: Path | None, at: Path) -> Marked:
    cloud = CloudSettings(key_file=Path("key"), owner="testtest")
    return Marked(cloud, Timings(), (Address("http://daemon", at),), socket)


async def test_every_model_that_may_launch_is_paused(house: House) -> None:
    house.modes |= {"c": "paused", "d": "retired", "orphans": "no policy"}

    halt = await halt_daemon(whose(house.socket, house.socket), "p1")

    assert house.paused == ["a", "b"]
    assert (halt.lives, halt.paused) == (True, ("a", "b"))
    assert halt.creating == {"n1"}
    assert halt.notes == ("the daemon launches no more: paused a, b",)


async def test_a_daemon_of_another_mark_is_left_alone(house: House) -> None:
    house.owner = "somebody"

    halt = await halt_daemon(whose(house.socket, house.socket), "p1")

    assert house.paused == []
    assert not halt.lives
    assert "left alone" in " ".join(halt.notes)


async def test_a_daemon_that_does_not_obey_is_told_of(house: House) -> None:
    house.obeys = False

    halt = await halt_daemon(whose(house.socket, house.socket), "p1")

    assert halt.paused == ()
    assert "still not paused" in " ".join(halt.notes)
    assert "would rent again" in " ".join(halt.notes)


async def test_a_daemon_that_can_only_be_read_is_told_of(house: House) -> None:
    halt = await halt_daemon(whose(None, house.socket), "p1")

    assert house.paused == []
    assert halt.lives
    assert "takes no orders from here" in " ".join(halt.notes)


async def test_nobody_there_is_said_in_two_lines(directory: Path) -> None:
    nowhere = directory / "daemon.sock"

    halt = await halt_daemon(whose(nowhere, nowhere), "p1")

    assert not halt.lives
    assert len(halt.notes) == 2
    assert "No such file" in halt.notes[0]
