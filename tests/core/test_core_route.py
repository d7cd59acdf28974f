"""How requests are routed is a policy's to say, as far as the balancer can do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoscaler.config_file import read_policies
from autoscaler.errors import ConfigError

POLICY = """
schema = 1
model = "Qwen/Qwen3-8B"
engine = "vllm"
"""


def test_affinity_is_the_gateways_alone(tmp_path: Path) -> None:
    (tmp_path / "chat.toml").write_text(POLICY + 'route = "affinity"\n')

    assert read_policies(tmp_path, balancer="gateway").policies
    with pytest.raises(ConfigError, match=r"chat\.toml: route: .*hash-balance-factor"):
        read_policies(tmp_path, balancer="haproxy")


def test_a_table_of_affinity_without_the_route_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "chat.toml").write_text(POLICY + '[affinity]\nheader = "x-session-id"\n')

    with pytest.raises(ConfigError, match=r'affinity is for route = "affinity" only'):
        read_policies(tmp_path)
