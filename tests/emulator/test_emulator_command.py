"""The emulator as a program: what it says, what it refuses, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import typer
from typer.testing import CliRunner

from autoscaler.emulator import command
from autoscaler.emulator.server import ListenFailed, claimed_block, parse_listen
from tests.emulator.rig import order

SECONDS = 30.0


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Any]]]:
    """Starts emulators with a directory of their own for temporary files, and ends them."""
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "tmp").mkdir()

    def launch(*arguments: str) -> tuple[subprocess.Popen[str], Any]:
        ready = tmp_path / f"ready-{len(started)}"
        process = subprocess.Popen(
            [sys.executable, "-m", "autoscaler.emulator", "--ready-file", str(ready), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        )
        started.append(process)
        wait_until(lambda: ready.exists() or process.poll() is not None)
        return process, json.loads(ready.read_text()) if ready.exists() else None

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def call(facts: Any, method: str, path: str, body: object = None) -> Any:
    key = Path(facts["key_file"]).read_text().strip()
    request = Request(
        f"{facts['url']}/projects/{facts['project_id']}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_it_runs_real_machines_and_ends_without_a_trace(
    launch: Callable[..., tuple[subprocess.Popen[str], Any]], tmp_path: Path
) -> None:
    process, facts = launch("--time-factor", "600", "--switch", "list=paged")
    nap = f"sleep 300.{os.getpid()}"  # told from every other sleep on this machine

    key_file = Path(facts["key_file"])
    mode = stat.S_IMODE(key_file.stat().st_mode)
    key = key_file.read_text().strip()
    call(facts, "POST", "/vms", order(startup_script=f"#!/bin/bash\n{nap}\n"))
    wait_until(lambda: nap in command_lines())
    page = call(facts, "GET", "/vms")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)

    assert process.returncode == 0
    assert mode == 0o600
    assert page["next_page_token"] == ""
    assert facts["url"] in output
    assert facts["project_id"] in output
    assert "curl" in output
    assert key not in output
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not list(tmp_path.glob("ready-*"))
    assert nap not in command_lines()


def command_lines() -> list[str]:
    """Those of all processes that may be read."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip())
    return lines


def test_a_killed_emulator_leaves_no_process_and_its_files_are_swept_by_the_next(
    launch: Callable[..., tuple[subprocess.Popen[str], Any]], tmp_path: Path
) -> None:
    nap = f"sleep 301.{os.getpid()}"
    first, facts = launch("--time-factor", "600")
    living, _ = launch()
    call(facts, "POST", "/vms", order(startup_script=f"#!/bin/bash\n{nap}\n"))
    wait_until(lambda: nap in command_lines())
    first.kill()
    first.communicate(timeout=SECONDS)
    wait_until(lambda: nap not in command_lines())
    left = set((tmp_path / "tmp").iterdir())

    launch()

    now = set((tmp_path / "tmp").iterdir())
    assert len(left) == 2
    assert len(now) == 2
    assert len(left & now) == 1
    assert living.poll() is None


# -- refusals


def run(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command.emulator)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "0.0.0.0:0"), ("loopback", "127.0.0.1")),
        (("--listen", "example.com:80"), ("loopback",)),
        (("--listen", "127.0.0.1:99999"), ("--listen",)),
        (("--listen", "soon"), ("--listen", "port")),
        (("--time-factor", "0"), ("--time-factor",)),
        (("--switch", "meter=never"), ("meter", "running", "existence")),
        (("--switch", "colour=red"), ("colour", "delete_running")),
        (("--engine", "steam"), ("steam", "emulated", "llama.cpp")),
        (("--fault", "explode"), ("explode", "drop_before")),
        (("--fault", "crash:rate=7"), ("rate",)),
        (("--address-block", "10.0.0.0/8"), ("loopback",)),
        (("--catalogue", "/nowhere.toml"), ("/nowhere.toml",)),
    ],
)
def test_a_bad_flag_is_refused_with_what_is_allowed(
    arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    status, output = run(*arguments)

    assert status == 2
    for word in words:
        assert word in output


def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, output = run("--listen", str(port))

    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}" in output


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("made-up\n")
    key_file.chmod(0o644)

    status, output = run("--access-key-file", str(key_file))

    assert status == 2
    assert "chmod 600" in output
    assert "made-up" not in output


def test_an_empty_key_file_is_refused(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.touch(mode=0o600)

    assert "is empty" in run("--access-key-file", str(key_file))[1]


def test_listen_takes_a_port_or_an_address() -> None:
    assert parse_listen("8080") == ("127.0.0.1", 8080)
    assert parse_listen("127.0.0.2:0") == ("127.0.0.2", 0)
    with pytest.raises(ListenFailed):
        parse_listen("127.0.0.1")


def test_two_emulators_never_share_an_address_block() -> None:
    with claimed_block() as first, claimed_block() as second:
        assert first != second
