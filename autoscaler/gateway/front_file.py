"""What the gateway reads of config.toml: `[front]`, and its socket. The rest of the file is the daemon's affair."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from autoscaler.front import FrontSettings, parse_address
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.toml_file import read_toml


class _Driven(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    control: Path | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    front: FrontSettings = FrontSettings()
    gateway: _Driven = _Driven()
    runtime_dir: Path = Path("/run/autoscaler")


def read_front(path: Path) -> GatewaySettings:
    """Read what `[front]` of a config says; relative paths are relative to the file.

    Raises:
        ConfigError: a line per mistake.
    """
    file = read_toml(path, _File)
    folder = path.resolve().parent
    front = file.front.beside(folder)
    return GatewaySettings(
        listen=tuple(parse_address(address) for address in front.listen),
        control=folder / (file.gateway.control or file.runtime_dir / "gateway.sock"),
        tls=front.tls,
        tls_key=front.tls_key,
        client_keys=front.client_keys,
        behind_proxy=front.behind_proxy,
        paths=front.paths,
        max_body_bytes=front.max_body,
        max_connections=front.max_connections,
    )
