"""Ctrl-C leaves no process and no machine, and what cannot be played is refused before anything starts."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoscaler.cli.app import app
from autoscaler.demo.processes import Processes


@pytest.mark.e2e
@pytest.mark.parametrize("until", ["starting the emulated cloud", "in flight"])
async def test_ctrl_c_leaves_no_process_and_no_machine(tmp_path: Path, until: str) -> None:
    keep = tmp_path / "run"
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "autoscaler", "demo", "--report", str(tmp_path), "--keep", str(keep),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert demo.stdout is not None
    async with asyncio.timeout(90):
        while until not in (await demo.stdout.readline()).decode():
            assert demo.returncode is None
        processes = Processes()
        processes.scan()
        demo.send_signal(signal.SIGINT)
        said = (await demo.stdout.read()).decode()
        status = await demo.wait()

    assert status == 130
    assert "stopped: no process and no machine is left" in said
    assert Processes().end(keep) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--trace", "{tmp}/no.csv"], "no.csv: cannot be read as a trace"),
        (["--trace", "{tmp}/bad.csv"], "bad.csv:1: no column arrival_s"),
        (["--report", "{tmp}/bad.csv"], "no report can be written there"),
        (["--keep", "{tmp}"], "--keep names a new directory"),
    ],
)
def test_what_cannot_be_played_is_refused_at_once(
    tmp_path: Path, words: list[str], says: str
) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n")
    given = [word.format(tmp=tmp_path) for word in words]
    report = [] if "--report" in given else ["--report", str(tmp_path / "report")]

    result = CliRunner().invoke(app, ["demo", *given, *report])

    assert result.exit_code == 2
    assert says in result.output
