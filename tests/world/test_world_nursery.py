"""What the nursery forks is a process like any other."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.world.processes import Processes


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    there = Processes(tmp_path, forked=True)
    yield there
    await there.stop()


async def emulator(processes: Processes) -> int:
    """The pid of a forked emulator that has said that it is up."""
    await processes.spawn("emulator", "emulator", "--ready-file", "cloud.json")
    async with asyncio.timeout(30):
        while not (processes.directory / "cloud.json").exists():
            assert processes.has_ended("emulator") is None, processes.logs()
            await asyncio.sleep(0.02)
    return processes.pid("emulator")


async def test_it_has_its_own_session_directory_output_and_end(processes: Processes) -> None:
    pid = await emulator(processes)

    proc = Path(f"/proc/{pid}")
    assert b"nursery.py" in (proc / "cmdline").read_bytes()
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert (proc / "cwd").readlink() == processes.directory
    said, wrong = ((proc / "fd" / fd).readlink().name for fd in "12")
    assert said == wrong != os.readlink("/proc/self/fd/1")
    assert await processes.end("emulator") == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert processes.log_of("emulator")


async def test_its_end_by_a_signal_is_told_as_a_childs_is(processes: Processes) -> None:
    await emulator(processes)

    assert await processes.end("emulator", signal.SIGKILL) == -signal.SIGKILL


async def test_a_wrong_argument_ends_it_with_the_commands_own_status_and_words(
    processes: Processes,
) -> None:
    await processes.spawn("gateway", "gateway", "--no-such-option")

    assert await processes.exit_code("gateway") == 2
    await processes.copied("gateway")
    assert "No such option" in processes.log_of("gateway")
