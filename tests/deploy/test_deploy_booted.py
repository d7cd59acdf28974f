"""The units under a real systemd: mounts, users and credentials as it makes them, and a reload that cuts nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(150)
def test_under_a_real_systemd_all_units_run_and_a_reload_cuts_no_stream() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can boot a systemd in namespaces of its own")
    booted = Path(__file__).with_name("booted.py")

    ended = subprocess.run(
        (sys.executable, str(booted)), capture_output=True, text=True, timeout=140, check=False
    )

    assert ended.returncode in (0, 77), ended.stderr
    said = json.loads(ended.stdout)
    if ended.returncode == 77:
        pytest.skip(f"no systemd can be booted here: {said['why']}")
    assert "failed" not in said, said
    assert (said["whole"], said["refused"]) == (16, 0)
    assert said["answered"] > 0
    assert {(one["ActiveState"], one["NRestarts"]) for one in said["services"].values()} == {
        ("active", "0")
    }
