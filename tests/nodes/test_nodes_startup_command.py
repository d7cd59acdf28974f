"""`autoscaler render-script`."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from autoscaler.cli.render_script import render_script

APP = typer.Typer()
APP.command()(render_script)
POLICY = 'schema = 1\nmodel = "Qwen/Qwen3-8B"\nengine = "vllm"\n'


@pytest.fixture
def policy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # no config.toml here: its defaults are enough to render
    (tmp_path / "chat.toml").write_text(POLICY)
    return "chat.toml"


def test_the_exact_script_is_printed_without_asking_any_cloud(policy_file: str) -> None:
    said = CliRunner().invoke(APP, [policy_file, "a100-80gb.2x@us-east1-a"])

    assert said.exit_code == 0
    assert said.stdout.startswith("#!/bin/bash\n")
    assert "GPUS=2\n" in said.stdout
    assert f"NONCE='{'0' * 64}'" in said.stdout


def test_the_shutdown_script_is_printed_on_demand(policy_file: str) -> None:
    said = CliRunner().invoke(APP, [policy_file, "a40.1x", "--shutdown"])

    assert "docker stop" in said.stdout


def test_an_unknown_type_is_answered_with_those_that_have_a_price(policy_file: str) -> None:
    said = CliRunner().invoke(APP, [policy_file, "h100.1x"])

    assert said.exit_code != 0
    assert "'h100.1x' is not in" in said.stderr
    assert "l40s-48gb.1x" in said.stderr
