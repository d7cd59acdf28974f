"""The smallest config and policy that a person would write are whole ones: everything else has a default."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoscaler.cli.app import app
from autoscaler.config_file import derived_owner, read_config, read_policies
from autoscaler.errors import CloudUnavailable, ConfigError
from autoscaler.nodes.firewall import FirewallGate
from autoscaler.policy import Engine, Mode
from tests.docs.test_docs_schema import mistakes

CONFIG = """\
schema = 1
[cloud]
project = "prod-llm"
key_file = "/etc/autoscaler/mkinf.key"
[limits]
usd_per_hour = 12
usd_per_month = 1500
[front]
listen = "0.0.0.0:443"
tls = "/etc/autoscaler/tls"
client_keys = "/etc/autoscaler/clients"
"""
POLICY = """\
model = "Qwen/Qwen3-8B"
engine = "vllm"            # pinned preset; args = [...] is the way out
slo = "95% of first tokens within 2s"
nodes = { min = 0, max = 6 }
limit = "$4/h"
mode = "shadow"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "policies/chat-8b.toml").write_text(POLICY)
    return tmp_path


def test_a_config_and_a_policy_of_a_few_lines_are_accepted(folder: Path) -> None:
    config = read_config(folder / "config.toml")
    (policy,) = read_policies(config.policies, emulated=False).policies.values()
    said = CliRunner().invoke(app, ["validate", "--config", str(folder / "config.toml")])

    assert said.exit_code == 0, said.output
    assert mistakes("config", CONFIG) == mistakes("policy", POLICY) == []
    assert config.cloud.project == "prod-llm"
    assert config.limits.nodes == 10
    assert (policy.engine, policy.mode, policy.nodes.max) == (Engine.VLLM, Mode.SHADOW, 6)
    assert (policy.slo.goal, str(policy.hourly_limit)) == (0.95, "$4.00")


def test_a_config_that_names_no_owner_gets_the_same_mark_every_time(folder: Path) -> None:
    first = read_config(folder / "config.toml").cloud.owner
    again = read_config(folder / "config.toml").cloud.owner

    assert len(first) == 8
    assert first == again


def test_the_mark_differs_by_machine_and_by_state(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name * 32 + "\n")

    marks = {
        derived_owner(Path("config.toml"), Path(state), tmp_path / machine)
        for state in ("/var/lib/one", "/var/lib/two")
        for machine in "ab"
    }

    assert len(marks) == 4


@pytest.mark.parametrize("text", [None, "", "uninitialized\n"])
def test_a_machine_without_an_id_must_name_an_owner(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "id").write_text(text)

    with pytest.raises(ConfigError, match=r"cloud\.owner: is missing") as refused:
        derived_owner(Path("config.toml"), Path("/var/lib/x"), tmp_path / "id")

    assert "token_hex(4)" in str(refused.value)


async def test_nothing_is_rented_while_nobody_could_reach_its_ports() -> None:
    class NoCloud:
        """Asked for nothing."""

    gate = FirewallGate(NoCloud(), "as1-0example-serve", (), manage=True)  # type: ignore[arg-type]  # unused
    gate.want([8000])

    with pytest.raises(CloudUnavailable, match="name the CIDRs of the balancers"):
        await gate.ready()
