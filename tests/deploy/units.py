"""The units as text, and what they let their services do."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
SERVICES = ("autoscaler", "autoscaler-gateway", "autoscaler-tunnels")


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.fail("no systemd-analyze here: apt-get install systemd")
    return subprocess.run(
        (program, "--no-pager", *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=dict(os.environ) | {"LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
    )


def setting(unit: str, key: str) -> list[str]:
    """Every value of a key, continued lines joined."""
    text = (UNITS / unit).read_text().replace("\\\n", " ")
    return re.findall(rf"^{key}=(.*)$", text, flags=re.MULTILINE)


def calls_of(group: str) -> set[str]:
    """The system calls of a group, groups within it opened."""
    listed = systemd_analyze("syscall-filter", group).stdout.splitlines()
    names = {line.strip() for line in listed if line.startswith(" ") and "#" not in line}
    inner = {name for name in names if name.startswith("@")}
    return (names - inner).union(*(calls_of(name) for name in inner))


def confinement(service: str) -> str:
    """What a unit lets its service do, as `confined.py` takes it."""
    allowed: set[str] = set()
    for line in setting(f"{service}.service", "SystemCallFilter"):
        named = set().union(*(calls_of(group) for group in line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    families = setting(f"{service}.service", "RestrictAddressFamilies")[0].split()
    assert setting(f"{service}.service", "MemoryDenyWriteExecute") == ["yes"]
    assert setting(f"{service}.service", "SystemCallErrorNumber") == ["EPERM"]
    return json.dumps(
        {
            "syscalls": sorted(allowed),
            "families": [int(getattr(socket, family)) for family in families],
        }
    )


def unconfinable(status: int | None, said: str) -> None:
    """Say so where the kernel is too old to prove it (before Linux 6.3)."""
    if status == 77:
        pytest.skip(f"this kernel has no PR_SET_MDWE, so W^X is not proven here: {said}")
