"""What `reach = "tunnel"` asks of the rest of config.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from autoscaler.config import Config
from autoscaler.config_file import read_config
from tests.world.files import merged, toml

BASE: dict[str, Any] = {
    "schema": 1,
    "reach": "tunnel",
    "cloud": {"owner": "abcdefgh", "key_file": "/k"},
    "limits": {"usd_per_hour": "1", "usd_per_month": "100"},
}


def config(**edits: Any) -> Config:
    return Config.model_validate(merged(BASE, edits))


def test_no_source_has_to_be_named_since_no_serving_port_is_opened() -> None:
    nobody: dict[str, list[str]] = {"sources": []}

    assert config(firewall=nobody).way == "tunnel"
    with pytest.raises(ValidationError, match=r"firewall\.sources is empty"):
        config(firewall=nobody, reach="tls")


def test_a_balancer_on_another_host_is_refused_since_the_ports_are_on_this_one() -> None:
    far = {
        "name": "far",
        "socket": "/run/haproxy.sock",
        "ssh": "autoscaler@10.0.0.5",
        "ssh_host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdDn7Yu9zHWzaCjJPGnpJUnbM3wmHtMN8wX1ZuL6xqV",
    }

    with pytest.raises(ValidationError, match=r'found "tunnel".*\'far\' on another host'):
        config(balancer="haproxy", haproxy=[far])
    assert config(balancer="haproxy", haproxy=[far], reach="tls").haproxy


def test_the_control_socket_is_beside_the_daemons_or_where_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"

    file.write_text(toml(BASE | {"runtime_dir": "run"}))
    left_out = read_config(file).tunnels_control
    file.write_text(toml(BASE | {"tunnels": {"control": "there/control.sock"}}))
    named = read_config(file).tunnels_control

    assert left_out == tmp_path / "run" / "tunnels.sock"
    assert named == tmp_path / "there" / "control.sock"
