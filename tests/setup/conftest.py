"""An emulated cloud in this process, and the program beside it as an operator runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoscaler.cli.app import app
from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.server import serving
from autoscaler.emulator.settings import Project, Settings
from tests.emulator.rig import ACCESS_KEY, AirMachines, ManualClock

PROJECTS = (
    Project(),
    Project("5b1e7f80-7c53-4c43-8f0e-2a4d0c0f2b03", "dev", "88aa0c5e-3333-4d0e-9c55-1b2f3a4d6607"),
)


@dataclass
class Desk:
    """Where an operator sits: a directory, a key, a cloud."""

    path: Path
    url: str

    @property
    def key_file(self) -> Path:
        return self.path / "key"

    async def type(self, *words: str, answers: str = "") -> Result:
        """Run `autoscaler …`, and answer what it asks."""
        command = list(map(str, words))
        return await asyncio.to_thread(CliRunner().invoke, app, command, input=answers)

    async def init(self, *words: str, answers: str = "", key: bool = True) -> Result:
        options = ["--url", self.url, *(("--key-file", str(self.key_file)) if key else ())]
        return await self.type("init", str(self.path / "new"), *options, *words, answers=answers)

    def left(self) -> list[str]:
        """Every file in the new directory."""
        new = self.path / "new"
        return sorted(str(p.relative_to(new)) for p in new.rglob("*") if p.is_file())


@pytest.fixture
async def desk(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    """With the projects that a test's parameter says, one by default."""
    projects = getattr(request, "param", PROJECTS[:1])
    settings = Settings(access_key=ACCESS_KEY, projects=projects)
    emulator = Emulator(settings, AirMachines(), ManualClock())
    await emulator.start()
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_text(ACCESS_KEY + "\n")
    async with serving(emulator, "127.0.0.1", 0) as base:
        yield Desk(tmp_path, f"{base}/v0.1")
    await emulator.close()
