"""The control API's requests and the state file, validated; turned into plain values at once."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import asyncssh
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from autoscaler.tunnels.link import HOST_KEY_ALGORITHM
from autoscaler.tunnels.values import Login, TunnelSpec


def _address(text: str) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError as exc:
        raise ValueError("want an IP address, as the cloud lists it") from exc
    if found.is_link_local or found.is_multicast or found.is_unspecified:
        raise ValueError("no node has a link-local, multicast or unspecified address")
    return str(found)


def _host_key(text: str) -> str:
    words = text.split()
    if len(words) != 2 or words[0] != HOST_KEY_ALGORITHM:
        raise ValueError(f"want `{HOST_KEY_ALGORITHM} AAAA…`, the key that the node has proven")
    try:
        asyncssh.import_public_key(text)
    except asyncssh.KeyImportError as exc:
        raise ValueError("not a public key") from exc
    return " ".join(words)


Id = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TunnelBody(_Body):
    """A tunnel as it is wanted. `local_port` is the one it had; left out, or not to be had, it gets another."""

    id: Id
    address: Annotated[str, Field(max_length=64), AfterValidator(_address)]
    port: Port
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
    host_key: Annotated[str, Field(max_length=1024), AfterValidator(_host_key)]
    remote_port: Port
    local_port: Port | None = None

    @classmethod
    def of(cls, spec: TunnelSpec, local_port: int) -> TunnelBody:
        login = spec.login
        return cls(
            id=spec.id,
            address=login.address,
            port=login.port,
            user=login.user,
            host_key=login.host_key,
            remote_port=spec.remote_port,
            local_port=local_port,
        )

    def value(self) -> TunnelSpec:
        login = Login(self.address, self.port, self.user, self.host_key)
        return TunnelSpec(self.id, login, self.remote_port)


class TunnelName(_Body):
    """Names a tunnel."""

    id: Id


class SavedState(_Body):
    """The state file."""

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    tunnels: list[TunnelBody] = Field(default_factory=list)
