"""How a remedy names a command of ours: so that it can be pasted, with the config that was looked at."""

from __future__ import annotations

import shlex
from pathlib import Path

from autoscaler.config import Config

_DEFAULT = Path("config.toml")
_SYSTEM = Path("/etc")


def with_config(command: str, path: Path) -> str:
    """`autoscaler COMMAND`, with --config where another file than ./config.toml is meant."""
    return f"autoscaler {command}" + ("" if path == _DEFAULT else f" --config {_quoted(path)}")


def start_daemon(path: Path) -> str:
    """How the daemon is started: as a service of the system's, or by hand."""
    return "systemctl start autoscaler" if _is_system(path) else with_config("run", path)


def start_gateway(path: Path) -> str:
    """How the gateway is started; the config names its socket."""
    if _is_system(path):
        return "systemctl start autoscaler-gateway"
    return f"autoscaler gateway --config {_quoted(path)}"


def start_tunnels(path: Path, config: Config) -> str:
    """How the tunnels are started, which read no config."""
    if _is_system(path):
        return "systemctl start autoscaler-tunnels"
    options = (
        f"--control {_quoted(config.tunnels_control)} --key-file {_quoted(config.ssh_key_file)}"
    )
    return f"autoscaler tunnels {options}"


def _is_system(path: Path) -> bool:
    return path.resolve().is_relative_to(_SYSTEM)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
