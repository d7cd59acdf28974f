"""The wheel alone, installed in an empty place without a clone, does what a first visitor tries."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.parties import Party, running_emulator

ROOT = Path(__file__).parents[2]
NOT_THERE = ("matplotlib", "gguf", "xllamacpp", "autoscaler")  # the demo's extra, and the clone

pytestmark = pytest.mark.xdist_group("wheel")


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel in it, and an empty directory to work in."""

    wheel: Path
    bin: Path
    empty: Path

    def run(self, *words: str, timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (str(self.bin / "autoscaler"), *words),
            cwd=self.empty,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.empty)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )  # fmt: skip


def run(*command: str) -> None:
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    there = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(there))
    (wheel,) = there.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", str(there / "venv"))
    python = there / "venv/bin/python"
    run(
        *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"),
        *("--no-deps", "--no-index", "--no-cache-dir", "--no-compile", str(wheel)),
    )
    # what it depends on, without fetching it anew
    site = there / "venv/lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        ours = path.name.startswith(NOT_THERE) or path.suffix == ".pth" or "mkinf" in path.name
        if not ours and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    (there / "empty").mkdir()
    return Installed(wheel, python.parent, there / "empty")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Party]:
    with running_emulator(tmp_path_factory.mktemp("cloud")) as party:
        yield party


def test_everything_that_it_reads_at_run_time_is_in_it(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("autoscaler/")}

    tracked = subprocess.run(
        ("git", "ls-files", "--cached", "--others", "--exclude-standard", "autoscaler"),
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert set(tracked.stdout.split()) <= packed | {
        name for name in tracked.stdout.split() if not (ROOT / name).exists()
    }
    assert {"autoscaler/setup/config.toml.j2", "autoscaler/data/gpu_profiles.toml"} <= packed


def test_init_and_doctor_work_in_an_empty_directory(installed: Installed, cloud: Party) -> None:
    options = ("--url", cloud.url, "--key-file", str(cloud.key_file), "--yes")

    made = installed.run("init", "here", *options)
    looked = installed.run("doctor", "--config", "here/config.toml", "--json")
    valid = installed.run("validate", "--config", "here/config.toml")

    assert made.returncode == 0, made.stderr
    assert (installed.empty / "here/policies/qwen3-8b.toml").is_file()
    found = {each["check"]: each["verdict"] for each in json.loads(looked.stdout)["findings"]}
    assert (found["config"], found["key"], found["ssh key"]) == ("ok", "ok", "ok")
    assert valid.returncode == 0, valid.stderr


def test_schemas_and_scripts_are_printed_without_a_clone(installed: Installed) -> None:
    (installed.empty / "chat.toml").write_text('model = "Qwen/Qwen3-8B"\nengine = "vllm"\n')

    schema = installed.run("schema", "policy")
    script = installed.run("render-script", "chat.toml", "l40s-48gb.1x")

    assert json.loads(schema.stdout)["title"].startswith("autoscaler")
    assert script.returncode == 0, script.stderr
    assert script.stdout.startswith("#!/bin/bash")


@pytest.mark.e2e
def test_the_demo_plays_without_its_extra_and_draws_no_picture(installed: Installed) -> None:
    shown = installed.run("demo", "--help")
    options = ("--traffic", "10", "--peak", "3", "--time-factor", "100", "--no-faults")

    played = installed.run("demo", *options, "--report", "report")

    assert "Watch the whole job" in shown.stdout
    assert played.returncode == 0, played.stdout + played.stderr
    assert "no picture: pip install 'mkinf-autoscaler[demo]'" in " ".join(played.stdout.split())
    assert [path.name for path in (installed.empty / "report").iterdir()] == ["report.json"]
