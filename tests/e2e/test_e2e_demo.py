"""`autoscaler demo`: the whole job, its report, and a Ctrl-C that leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from autoscaler.traces.reader import read_trace
from tests.e2e.world import CLOSED
from tests.world.processes import die_with_parent, processes_below

pytestmark = pytest.mark.e2e

# The smallest run in which a third machine serves while there are still requests to answer.
TRAFFIC_S, PEAK_PER_S = 28, 12
LONG_PROMPT_TOKENS, LONG_PEAK_PER_S = 4000, 3  # a few of those are a load
SHORT_S, SHORT_PEAK_PER_S = 10, 2  # up from zero and back, with no time for a story


def traces() -> tuple[list[Path | None], list[Path]]:
    """Of $TRACES the first of each kind (`azure…`, `mooncake…`), for the whole story, and the others, for a short one.

    None stands for a generated one.
    """
    folder = os.environ.get("TRACES")
    found = sorted(Path(folder).glob("*.csv*")) if folder else []
    kinds: dict[str, Path] = {}
    for path in found:
        kinds.setdefault(re.split(r"[\d_.]", path.name)[0], path)
    whole = list(kinds.values())
    return [*whole] or [None], [path for path in found if path not in whole]


WHOLE, SHORT = traces()


def knobs(trace: Path | None, *, is_short: bool) -> list[str]:
    peak = PEAK_PER_S
    if trace is not None and mean(r.prompt_tokens for r in read_trace(trace)) > LONG_PROMPT_TOKENS:
        peak = LONG_PEAK_PER_S
    replay = ["--trace", str(trace)] if trace else []
    if is_short:
        return ["--no-faults", "--traffic", str(SHORT_S), "--peak", str(SHORT_PEAK_PER_S), *replay]
    return ["--traffic", str(TRAFFIC_S), "--peak", str(peak), *replay]


async def _start(directory: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autoscaler", "demo", "--report", "report", "--keep", "kept"),
        *arguments,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=die_with_parent,
    )


@pytest.mark.timeout(200)
@pytest.mark.parametrize("trace", WHOLE, ids=lambda t: t.name if t else "generated")
async def test_the_demo_goes_from_zero_over_two_types_a_stock_out_and_a_death_to_zero(
    directory: Path, trace: Path | None
) -> None:
    summary, said = await _played(directory, *knobs(trace, is_short=False))

    assert len(summary["offer_types"]) >= 2, said
    assert summary["stock_outs"] >= 1, said
    assert summary["machines_killed"] == 1, said


if SHORT:  # without it the whole story says the same

    @pytest.mark.timeout(200)
    @pytest.mark.parametrize("trace", SHORT, ids=lambda t: t.name)
    async def test_the_demo_without_faults_goes_from_zero_to_zero_and_fails_nobody(
        directory: Path, trace: Path
    ) -> None:
        summary, said = await _played(directory, *knobs(trace, is_short=True))

        assert (summary["machines_killed"], summary["failed"]) == (0, 0), said


async def _played(directory: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Play a demo to its end and hold it against what each must show; its summary and what it printed."""
    demo = await _start(directory, *arguments)
    async with asyncio.timeout(180):
        out, _ = await demo.communicate()

    said = out.decode()
    assert demo.returncode == 0, said
    report = json.loads((directory / "report" / "report.json").read_text())
    summary, nodes = report["summary"], report["nodes"]
    assert summary["problems"] == []
    assert summary["held"] >= 1, said  # from zero: somebody waited for the first node
    assert summary["answered"] + summary["failed"] == summary["requests"]
    assert summary["failed"] == summary["excused"]
    assert {node["state"] for node in nodes} <= set(CLOSED)
    assert report["samples"][-1]["usd_per_hour"] == 0.0
    assert_verified_first(report)
    assert (directory / "report" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert processes_below(directory) == []
    return summary, said


def assert_verified_first(report: dict[str, Any]) -> None:
    verified = {node["name"]: node["verified_at"] for node in report["nodes"]}
    assert report["first_token_at"]
    for name, at in report["first_token_at"].items():
        assert datetime.fromisoformat(verified[name]) <= datetime.fromisoformat(at), name


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
