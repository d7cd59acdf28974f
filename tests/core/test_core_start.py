"""Commands that start alone are the very commands of the whole program."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from autoscaler.__main__ import ALONE
from autoscaler.cli.app import app

_LOADED = """
import sys
from autoscaler.__main__ import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def test_each_command_that_starts_alone_is_found_where_the_whole_program_has_it() -> None:
    whole = {
        command.name: command.callback.__module__
        for command in app.registered_commands
        if command.callback
    }
    assert {name: whole.get(name) for name in ALONE} == ALONE


@pytest.mark.parametrize("name", ["emulator", "scale"])
def test_it_explains_itself_as_the_whole_program_does(name: str) -> None:
    width = {"COLUMNS": "100", "TERM": "dumb"}
    whole = CliRunner().invoke(app, [name, "--help"], prog_name="autoscaler", env=width)
    alone = subprocess.run(
        [sys.executable, "-m", "autoscaler", name, "--help"],
        env=width, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert alone.stdout == whole.stdout


def test_one_that_starts_alone_loads_no_other() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", _LOADED, "emulator", "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stderr.split()  # fmt: skip
    assert "autoscaler.emulator.command" in loaded
    assert {"autoscaler.cli.app", "autoscaler.daemon"}.isdisjoint(loaded)
