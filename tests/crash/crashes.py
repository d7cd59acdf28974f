"""A world whose daemon is killed again and again, and what must hold of it each time."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from autoscaler.crashpoints import VARIABLE, Point
from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import CLOSED, Node
from autoscaler.store.rows import node_of
from tests.e2e.world import World
from tests.faults.invariants import Booked, Inspector, Invariant, Rules, Scene, Violation
from tests.world.files import Json

MARK = "as1-testtest-"
QUICK = {
    "safe_mode_starts": 10_000,
    "settling_time": "1500ms",
    "orphan_grace": "1s",
    "start_caution": "200ms",
    "gone_after": "300ms",
    "sweep": "400ms",
    "step": "100ms",
    "reconcile": "300ms",
}


@dataclass
class Crashes:
    """Kills the daemon of a world and looks at what is left.

    Attributes:
        reached: the points at which it died.
    """

    world: World
    reached: list[Point] = field(default_factory=list)
    inspector: Inspector = field(default_factory=lambda: Inspector(Rules(MARK)))
    _ever: set[NodeName] = field(default_factory=set)  # a store may be lost on the way

    async def die_at(self, point: Point, times: int = 1, say: Say | None = None) -> None:
        """Start the daemon armed, say something to it when it listens, and wait until it has died there."""
        await self.start({VARIABLE: f"{point}:{times}"})
        if say is not None:
            await self.world.until(self._listens, f"the daemon listens, armed with {point}")
            with suppress(aiohttp.ClientError, OSError):  # it dies of it
                await say()
        code = await self.world.exit_code("daemon")
        assert code == -signal.SIGKILL, f"{point}: it ended with {code}\n{self.world.logs()}"
        self.reached.append(point)
        await self.look()

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the daemon, and do not wait."""
        self.world.write_config()
        self.world.socket.unlink(missing_ok=True)
        await self.world.spawn("daemon", "run", "--config", "config.toml", environment=environment)

    async def kill(self) -> None:
        """SIGKILL it wherever it is, and look at what is left."""
        await self.world.end("daemon", signal.SIGKILL)
        await self.look()

    async def look(self) -> Mapping[NodeName, Node]:
        """Hold the store's file, as the dead daemon left it, against the cloud's books."""
        rows = rows_of(self.world.directory / "state")
        booked = await booked_of(self.world)
        now, none = datetime.now(UTC), timedelta(0)
        self.inspector.look(Scene(now, rows, booked, able=none, may_delete=none))
        names = await self.world.created_names()
        for name in {each for each in names if names.count(each) > 1}:
            self._violated(Invariant.ONE_PER_INTENT, name, f"{name} was sent twice")
        self._ever |= rows.keys()
        for name in names:
            if NodeName(name) not in self._ever and name.startswith(MARK):
                self._violated(Invariant.INTENT_FIRST, name, f"create of {name} without a row")
        for call in await self.world.calls("delete_vm"):
            if call["name"] and not str(call["name"]).startswith(MARK):
                self._violated(Invariant.ONLY_OURS, str(call), f"delete of {call['name']}")
        assert self.violations == [], self.world.logs()
        return rows

    @property
    def violations(self) -> list[Violation]:
        return self.inspector.violations

    async def settled(self, ready: int) -> list[Json]:
        """Wait until so many nodes are ready, every other row is closed, and just they bill (1, 18)."""

        async def is_settled() -> bool:
            nodes = await self.world.nodes()
            open_ = [node for node in nodes if node["state"] not in CLOSED]
            bills = {item["name"] for item in await self.world.billing() if item["kind"] == "vm"}
            up = {node["name"] for node in nodes if node["state"] == "ready"}
            return len(up) == len(open_) == ready and bills == up

        await self.world.until(is_settled, f"{ready} nodes are ready and nothing else bills")
        return await self.world.nodes("ready") if ready else []

    def _violated(self, invariant: Invariant, subject: str, what: str) -> None:
        self.inspector.violated(invariant, datetime.now(UTC), subject, what)

    async def _listens(self) -> bool:
        code = self.world.processes.has_ended("daemon")
        if code is not None:
            pytest.fail(f"the daemon ended with {code} before it was told anything")
        return bool(await self.world.get("/api/v1/status"))


Say = Callable[[], Awaitable[None]]


@dataclass
class Clients:
    """Requests all the while, one after the other.

    Attributes:
        failed: what each that was not answered to its end saw.
    """

    world: World
    whole: int = 0
    failed: list[str] = field(default_factory=list)

    async def ask(self) -> None:
        """Ask until cancelled."""
        while True:
            answer = await self.world.ask(stream=True, tokens=6)
            if answer.whole:
                self.whole += 1
            else:
                self.failed.append(str(answer))
            await asyncio.sleep(0.02)


def rows_of(state: Path) -> dict[NodeName, Node]:
    """Every row of a store that nobody has open, read from a copy: looking must not mend anything."""
    with tempfile.TemporaryDirectory() as folder:
        for path in state.glob("autoscaler.db*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder) / "autoscaler.db")) as db:
            db.row_factory = sqlite3.Row
            try:
                found = [node_of(row) for row in db.execute("SELECT doc FROM nodes")]
            except sqlite3.OperationalError:
                return {}  # it died before there was a table
    return {node.name: node for node in found}


async def booked_of(world: World) -> list[Booked]:
    """The machines that exist."""
    now = datetime.now(UTC)
    return [
        Booked(str(vm["id"]), str(vm["name"]), now, None, Decimal(0), Decimal(0))
        for vm in await world.machines()
    ]
