"""Ask a daemon what it accounts for, and doubt the answer: only a living one, of this very mark and project, counts.

A daemon of another deployment would disown everything, one that has not swept for long would vouch for what it cannot
know. Both are no witness: then what is there is unknown, which is another exit status than disowned.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from autoscaler.domain.ids import MachineId
from autoscaler.domain.node import State
from autoscaler.errors import AutoscalerError, ConfigError
from autoscaler.nodes.inventory import Owner

_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)
_MOST_BYTES = 32 * 1024 * 1024  # 10,000 nodes with their closed rows, and to spare
_LEAST_FRESH_S = 180.0
_MOST_FRESH_S = 900.0  # whatever interval a daemon claims: older is no inventory


class NoWitness(AutoscalerError):
    """No living daemon of this mark and project answered: why, for each that was asked."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon may answer: its Unix socket, or a URL."""

    url: str
    socket: Path | None = None

    def __str__(self) -> str:
        return str(self.socket) if self.socket is not None else self.url


@dataclass(frozen=True, slots=True)
class Witness:
    """What a living daemon of ours accounts for.

    Attributes:
        nodes: names in its open rows, each with its VM's id where that is known.
        closed: VMs of rows that it has closed lately.
        orphans: VMs that it has seen and that no row of its own names, with their first sight.
        creating: names whose create call may be under way.
        held: why it acts on no listing now, None when it does.
    """

    where: str
    swept_age_s: float
    held: str | None
    nodes: Mapping[str, MachineId | None]
    closed: Mapping[MachineId, str]
    orphans: Mapping[MachineId, datetime | None]
    rules: frozenset[str]
    creating: frozenset[str] = frozenset()

    def accounts_for(self, name: str, machine_id: str) -> bool:
        """Whether an open row is this VM: by its id, else by a name whose VM is not known yet."""
        if machine_id in self.nodes.values():
            return True
        return name in self.nodes and self.nodes[name] is None


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    name: str
    machine_id: str | None = None
    state: str = ""
    first_seen: AwareDatetime | None = None


class _Told(BaseModel):
    """The daemon's answer; newer ones may tell more."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    owner: str
    prefix: str
    project: str | None
    swept_age_s: float | None
    sweep_s: float
    held: str | None = None
    nodes: tuple[_Row, ...]
    closed: tuple[_Row, ...] = ()
    orphans: tuple[_Row, ...] = ()
    firewall_rules: tuple[str, ...] = ()


def daemon_url(text: str) -> Address:
    """Check a `--daemon URL`.

    Raises:
        ConfigError: it is no http or https URL, holds more than a root, or is plain http to another host.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as exc:
        raise ConfigError(f"--daemon: {text!r} is not a URL: {exc}") from None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise ConfigError(
            f"--daemon: found {text!r}, allowed: http://127.0.0.1:9110 or https://host, no user in it"
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"--daemon: found {text!r}: leave out what follows ? or #")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigError(
            f"--daemon: {host} is another host and http is not proven: use https, or a tunnel "
            "(ssh -L 9110:127.0.0.1:9110 HOST) and --daemon http://127.0.0.1:9110"
        )
    return Address(text.rstrip("/"))


async def ask(addresses: Sequence[Address], owner: Owner, project: str) -> Witness:
    """The first daemon of these that is alive and of this mark and project.

    Raises:
        NoWitness: none is.
    """
    reasons = []
    for address in addresses:
        try:
            return _believed(await _told(address), address, owner, project)
        except NoWitness as exc:
            reasons.append(f"{address}: {exc}")
    raise NoWitness("; ".join(reasons) or "no address of a daemon is known: name one with --daemon")


async def _told(address: Address) -> _Told:
    connector = aiohttp.UnixConnector(str(address.socket)) if address.socket is not None else None
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=_TIMEOUT, trust_env=False
            ) as session,
            session.get(f"{address.url}/api/v1/inventory", allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise NoWitness(f"answers {answer.status}: is this an autoscaler of this version?")
            return _Told.model_validate_json(await _capped(answer))
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise NoWitness(f"no daemon answers ({_reason(exc)})") from None
    except ValidationError:
        raise NoWitness("what answers there is no autoscaler of this version") from None


async def _capped(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > _MOST_BYTES:
            raise NoWitness(f"its answer is larger than {_MOST_BYTES} bytes")
    return bytes(body)


def _believed(told: _Told, address: Address, owner: Owner, project: str) -> Witness:
    if (told.prefix, told.owner) != (owner.prefix, owner.owner):
        raise NoWitness(
            f"its daemon is of {told.prefix}-{told.owner}, asked about {owner.prefix}-{owner.owner}"
        )
    if told.project is None or told.project != project:
        raise NoWitness(f"its daemon works in project {told.project}, the key reaches {project}")
    limit = min(max(3 * told.sweep_s, _LEAST_FRESH_S), _MOST_FRESH_S)
    if told.swept_age_s is None or not abs(told.swept_age_s) <= limit:
        age = "never" if told.swept_age_s is None else f"{told.swept_age_s:.0f} s ago"
        raise NoWitness(f"its inventory is stale: swept {age}, at most {limit:.0f} s are believed")
    return Witness(
        where=str(address),
        swept_age_s=told.swept_age_s,
        held=told.held,
        nodes={
            row.name: MachineId(row.machine_id) if row.machine_id else None for row in told.nodes
        },
        closed={MachineId(row.machine_id): row.name for row in told.closed if row.machine_id},
        orphans={
            MachineId(row.machine_id): row.first_seen for row in told.orphans if row.machine_id
        },
        rules=frozenset(told.firewall_rules),
        creating=frozenset(
            row.name for row in told.nodes if row.state == State.CREATING and not row.machine_id
        ),
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "timed out"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return exc.os_error.strerror or "no connection"
    return (str(exc) or type(exc).__name__)[:200]
