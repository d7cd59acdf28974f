"""`autoscaler demo`: the whole job, its report, and a Ctrl-C that leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.world import die_with_parent, processes_below

pytestmark = pytest.mark.e2e


def _traces() -> list[str]:
    """What to replay: the first trace of $TRACES, else nothing, which generates one."""
    folder = os.environ.get("TRACES")
    found = sorted(Path(folder).glob("*.csv*")) if folder else []
    return ["--trace", str(found[0])] if found else []


async def _start(directory: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autoscaler", "demo", "--report", "report", "--keep", "kept"),
        *arguments,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=die_with_parent,
    )


async def test_the_demo_plays_the_whole_job_and_reports_it(directory: Path) -> None:
    demo = await _start(directory, "--traffic", "25", "--peak", "6", *_traces())
    async with asyncio.timeout(110):
        out, _ = await demo.communicate()

    assert demo.returncode == 0, out.decode()
    report = json.loads((directory / "report" / "report.json").read_text())
    assert "answered" in json.dumps(report)
    assert list((directory / "report").glob("*.png")) or list((directory / "report").glob("*.svg"))
    assert processes_below(directory) == []


async def test_a_demo_that_is_interrupted_leaves_no_process_and_no_machine(directory: Path) -> None:
    demo = await _start(directory, "--traffic", "60", "--peak", "6")
    machines = directory / "kept" / "machines"
    async with asyncio.timeout(80):
        while not (machines.is_dir() and any(machines.iterdir())):
            assert demo.returncode is None
            await asyncio.sleep(0.1)

    demo.send_signal(signal.SIGINT)
    async with asyncio.timeout(40):
        out, _ = await demo.communicate()

    assert demo.returncode == 130, out.decode()
    assert processes_below(directory) == []
    assert not (machines.is_dir() and any(machines.iterdir()))
