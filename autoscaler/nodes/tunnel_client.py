"""The tunnels' process as the daemon drives it: JSON over its Unix socket, each call bounded and repeatable."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoscaler.errors import ReachUnavailable

_ANSWER_TIME = timedelta(seconds=3)
_ANSWER_LIMIT = 16 * 1024 * 1024


class _LeadsElsewhere(ReachUnavailable):
    """The process has a tunnel of this id to another place."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class TunnelState(_Answer):
    """One tunnel as the process has it.

    Attributes:
        state: "up": connections to the local port are taken; else they are refused, and `why` says why.
        streams: connections open through it.
    """

    id: str
    address: str
    port: int
    user: str
    host_key: str
    remote_port: int
    local_port: int
    state: Literal["up", "connecting", "down"]
    why: str
    streams: int = Field(ge=0)


class _Listing(_Answer):
    boot_id: str
    tunnels: list[TunnelState]


class _Put(_Answer):
    tunnel: TunnelState


_Kind = TypeVar("_Kind", bound=_Answer)


@dataclass(frozen=True, slots=True)
class TunnelWish:
    """A tunnel that is wanted.

    Attributes:
        id: the endpoint's.
        host_key: the node's pinned key; nothing else is connected to.
        remote_port: where the model server listens on the node.
        local_port: the one that balancers know already; None takes any.
    """

    id: str
    address: str
    port: int
    user: str
    host_key: str
    remote_port: int
    local_port: int | None = None

    def is_met_by(self, state: TunnelState) -> bool:
        """Whether this is the tunnel, on the local port that it must have."""
        return (
            self.address == state.address
            and self.port == state.port
            and self.user == state.user
            and self.host_key == state.host_key
            and self.remote_port == state.remote_port
            and self.local_port in (None, state.local_port)
        )


class TunnelClient:
    """Every method may raise `ReachUnavailable`: the process did not answer, and says nothing of any node."""

    def __init__(self, control: Path, answer_time: timedelta = _ANSWER_TIME) -> None:
        self._control = control
        self._answer_time = answer_time

    async def listing(self) -> Mapping[str, TunnelState]:
        """All tunnels, by id."""
        found = self._parsed(_Listing, await self._call("GET", "/v1/tunnels"))
        return MappingProxyType({tunnel.id: tunnel for tunnel in found.tunnels})

    async def put(self, wish: TunnelWish) -> TunnelState:
        """Have this tunnel, in place of one of its id that leads elsewhere."""
        body: dict[str, object] = {
            "id": wish.id,
            "address": wish.address,
            "port": wish.port,
            "user": wish.user,
            "host_key": wish.host_key,
            "remote_port": wish.remote_port,
            "local_port": wish.local_port,
        }
        try:
            raw = await self._call("POST", "/v1/tunnels/put", body)
        except _LeadsElsewhere:
            await self.remove(wish.id)
            raw = await self._call("POST", "/v1/tunnels/put", body)
        return self._parsed(_Put, raw).tunnel

    async def remove(self, tunnel_id: str) -> None:
        """Have it no more; unknown is no error."""
        await self._call("POST", "/v1/tunnels/remove", {"id": tunnel_id})

    async def _call(self, method: str, path: str, body: dict[str, object] | None = None) -> bytes:
        connector = aiohttp.UnixConnector(str(self._control), force_close=True)
        try:
            async with (
                asyncio.timeout(self._answer_time.total_seconds()),
                aiohttp.ClientSession(connector=connector, trust_env=False) as session,
                session.request(method, f"http://tunnels{path}", json=body) as answer,
            ):
                raw = await _read(answer)
        except TimeoutError as exc:
            raise ReachUnavailable(
                f"the tunnels' process did not answer on {self._control} within"
                f" {self._answer_time.total_seconds():g} s: systemctl status autoscaler-tunnels"
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise ReachUnavailable(
                f"the tunnels' process cannot be asked on {self._control} ({_reason(exc)}):"
                " systemctl start autoscaler-tunnels, or `autoscaler tunnels --control"
                f" {self._control}`"
            ) from exc
        if answer.status != 200:
            kind = _LeadsElsewhere if answer.status == 409 else ReachUnavailable
            raise kind(
                f"the tunnels' process refused {path}: HTTP {answer.status}"
                f" {raw[:300].decode('utf-8', 'replace')}"
            )
        return raw

    def _parsed(self, kind: type[_Kind], raw: bytes) -> _Kind:
        try:
            return kind.model_validate_json(raw)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ReachUnavailable(
                f"what answers on {self._control} is no process of tunnels: {where}: {first['msg']};"
                " do it and the daemon have the same version?"
            ) from exc


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in answer.content.iter_any():
        raw += chunk
        if len(raw) > _ANSWER_LIMIT:
            raise aiohttp.ClientPayloadError(f"an answer of more than {_ANSWER_LIMIT} bytes")
    return bytes(raw)


def _reason(exc: Exception) -> str:
    cause = getattr(exc, "os_error", exc)
    return getattr(cause, "strerror", None) or str(exc) or type(exc).__name__
