"""The container file, read as a builder reads it: pinned, hashed, nobody's root, and what it copies suffices."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "container" / "Containerfile"
KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "STOPSIGNAL", "USER", "VOLUME"}


@dataclass(frozen=True)
class Step:
    word: str
    rest: str


def steps() -> list[Step]:
    """Its instructions: comments left out, continued lines joined."""
    text = "\n".join(
        line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    lines = text.replace("\\\n", " ").splitlines()
    return [
        Step(*(re.sub(r"\s+", " ", line).strip().split(" ", 1))) for line in lines if line.strip()
    ]


def copied() -> list[str]:
    """What is copied from the repository, not from an earlier stage."""
    sources = []
    for step in steps():
        if step.word == "COPY" and "--from=" not in step.rest:
            sources += shlex.split(step.rest)[:-1]
    return sources


def test_it_has_instructions_that_builders_know_and_two_stages() -> None:
    found = steps()

    assert {step.word for step in found} - {"WORKDIR"} <= KNOWN
    assert [step.word for step in found if step.word in ("ARG", "FROM")] == ["ARG", "FROM", "FROM"]


def test_its_base_is_pinned_to_a_version() -> None:
    found = steps()
    base = next(step.rest for step in found if step.word == "ARG").removeprefix("BASE=")
    stages = [step.rest for step in found if step.word == "FROM"]

    name, _, tag = base.partition("@")[0].rpartition(":")
    assert re.fullmatch(r"docker\.io/library/python", name)
    assert re.fullmatch(r"3\.11\.\d+-slim-bookworm", tag)
    assert stages == ["${BASE} AS build", "${BASE}"]
    assert ":latest" not in FILE.read_text()


def test_every_package_is_installed_by_hash_or_was_built_here() -> None:
    commands = " && ".join(step.rest for step in steps() if step.word == "RUN").split("&&")
    installs = [command for command in commands if "pip install" in command]

    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-deps /wheels/" in command
    assert "curl" not in FILE.read_text()
    assert "apt-get" not in FILE.read_text()


def test_it_runs_as_nobody_special_and_keeps_its_state_outside() -> None:
    last = [step for step in steps() if step.word in ("USER", "VOLUME", "ENTRYPOINT", "CMD")]

    assert [step.word for step in last] == ["USER", "VOLUME", "ENTRYPOINT", "CMD"]
    assert last[0].rest == "10001:10001"
    assert last[2].rest == '["autoscaler"]'
    assert not any("key" in step.rest.lower() for step in steps() if step.word in ("ENV", "ARG"))


def test_what_it_copies_exists_and_is_kept_in_the_repository() -> None:
    for source in copied():
        assert (ROOT / source).exists(), source
        listed = subprocess.run(
            ("git", "-C", str(ROOT), "ls-files", "--", source),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert listed.stdout, f"{source} is not in git, so a clone cannot build this"


def test_the_backend_that_it_takes_from_the_lock_is_complete() -> None:
    (pattern,) = re.findall(r"keep = /\^\(([^)]+)\)==/", FILE.read_text())
    lock = (ROOT / "requirements-dev.lock").read_text()
    wanted = set(pattern.split("|"))

    blocks = re.split(r"\n(?=[a-z0-9])", lock)
    of_hatchling = {
        b.split("==")[0]
        for b in blocks
        if re.search(r"#\s+(via\s+)?hatchling$", b, flags=re.MULTILINE)
    }

    assert wanted == {"hatchling"} | of_hatchling


def test_what_it_copies_is_enough_to_build_the_package_with_all_its_data(tmp_path: Path) -> None:
    context = tmp_path / "src"
    for source in copied():
        goal = context / source
        goal.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, goal, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, goal)

    built = subprocess.run(
        (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)),
        cwd=context,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    if built.returncode != 0:
        pytest.fail(built.stderr)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    package = {
        str(path.relative_to(context))
        for path in (context / "autoscaler").rglob("*")
        if path.is_file()
    }
    assert package <= inside
    assert any(name.endswith("entry_points.txt") for name in inside)
