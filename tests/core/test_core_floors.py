"""Durations have floors, which only an emulator on loopback may undercut."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from autoscaler.config_file import read_policies
from autoscaler.errors import ConfigError
from autoscaler.form import below_floor
from autoscaler.policy import Policy
from autoscaler.quantity import show_duration

FAST = """schema = 1
model = "org/chat"
engine = "vllm"
[scaling]
stabilization = "1ms"
[deadlines]
booting = "1s"
[drain]
deadline = "0s"
"""


def test_a_real_cloud_refuses_durations_below_their_floors(tmp_path: Path) -> None:
    (tmp_path / "fast.toml").write_text(FAST)

    with pytest.raises(ConfigError) as refused:
        read_policies(tmp_path, emulated=False)

    said = str(refused.value)
    assert "scaling.stabilization: found 1ms, the least is 1m" in said
    assert "deadlines.booting: found 1s, the least is 1m" in said
    assert "drain.deadline: found 0s, the least is 1m" in said
    assert "only an emulator on loopback" in said


def test_an_emulator_may_be_fast(tmp_path: Path) -> None:
    (tmp_path / "fast.toml").write_text(FAST)

    assert len(read_policies(tmp_path, emulated=True).policies) == 1


def test_the_shipped_policies_are_fit_for_a_real_cloud() -> None:
    shipped = Path(__file__).parents[2] / "policies"

    assert len(read_policies(shipped, emulated=False).policies) == 5


def test_the_docs_name_every_floor() -> None:
    text = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    usual = Policy.model_validate({"schema": 1, "model": "org/chat", "engine": "vllm"})
    instant = {
        table: getattr(usual, table).model_copy(
            update={
                name: timedelta(0)
                for name, value in getattr(usual, table)
                if isinstance(value, timedelta)
            }
        )
        for table in ("scaling", "deadlines", "retries", "drain", "signals")
    }

    low = below_floor(usual.model_copy(update=instant))

    assert len(low) > 20
    for key, _, least in low:
        assert f"| `{key}` | {show_duration(least)} |" in text
