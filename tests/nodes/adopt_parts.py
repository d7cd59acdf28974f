"""Machines that a lost store left behind: each a home directory, a host key, and a shell at the edge of the network."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import cast

import asyncssh

from autoscaler.balance.group import BalancerGroup
from autoscaler.domain.machine import Machine
from autoscaler.domain.node import Node, State
from autoscaler.errors import NodeUnreachable
from autoscaler.nodes.adopt import Adopter, Size
from autoscaler.nodes.host_authority import HostAuthority, open_host_authority
from autoscaler.nodes.introductions import Introductions
from autoscaler.nodes.inventory import Owner
from autoscaler.nodes.reach import PlainReach
from autoscaler.nodes.shell import OUTPUT_BYTES, CommandOutput
from autoscaler.nodes.ssh import SshAccess
from autoscaler.nodes.sweep import Sweeper
from autoscaler.nodes.vouching import Voucher
from tests.nodes.life_parts import OWNER, TIMINGS, Life, intent_id, node

MARK = f"as1-{OWNER}"
PUBLIC_LINE = "ssh-ed25519 AAAAfresh autoscaler"
SIZE = Size(units=1.0, replicas=1, concurrency=8)


def new_host_key() -> str:
    key = asyncssh.generate_private_key("ssh-ed25519")
    return " ".join(key.export_public_key().decode().split()[:2])


@dataclass
class AirHost:
    """One machine's sshd: its key, and a home in which commands really run."""

    home: Path
    host_key: str = field(default_factory=new_host_key)
    lets_in: bool = True

    async def run(
        self,
        command: str,
        *,
        timeout_s: float,
        max_bytes: int = OUTPUT_BYTES,
        input: bytes | None = None,
    ) -> CommandOutput:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", command),
            env={"HOME": str(self.home), "VM_ROOT": str(self.home), "PATH": os.environ["PATH"]},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(input or b"")
        return CommandOutput(process.returncode or 0, out.decode(), err.decode())

    async def put_secret(self, path: str, content: bytes) -> None:
        raise NotImplementedError

    @property
    def certificate(self) -> Path:
        return self.home / ".autoscaler/host_certificate"


@dataclass
class AirAccess:
    """Ways to hosts by their addresses."""

    hosts: dict[str, AirHost] = field(default_factory=dict)
    timeout_s: float = 5.0

    async def shown_key(self, address: str) -> str:
        if address not in self.hosts:
            raise NodeUnreachable(f"{address}: refused: sshd is not up")
        return self.hosts[address].host_key

    @asynccontextmanager
    async def connect(self, address: str, host_key: str) -> AsyncIterator[AirHost]:
        host = self.hosts[address]
        assert host.host_key == host_key
        if not host.lets_in:
            raise NodeUnreachable(f"{address}: does not accept our key (yet)")
        yield host


@dataclass
class Waiting:
    """The world's clock, whose waits renew the leases and let things happen."""

    life: Life
    meanwhile: list[Callable[[], None]] = field(default_factory=list)

    def now(self) -> datetime:
        return self.life.clock.now()

    def boot_s(self) -> float:
        return self.life.clock.boot_s()

    async def sleep(self, seconds: float) -> None:
        for happens in self.meanwhile:
            happens()
        self.life.clock.move(seconds)
        await self.life.leases.renew_all()


@dataclass
class Abandoned:
    """A fresh daemon on an empty store, and machines of ours that serve."""

    life: Life
    folder: Path
    authority: HostAuthority
    sweeper: Sweeper
    adopter: Adopter
    access: AirAccess
    waiting: Waiting

    async def machine(
        self, number: int, signed: HostAuthority | None = None, **changes: object
    ) -> tuple[Machine, AirHost]:
        """A machine that an earlier daemon made, and signed at its pin."""
        made = node(State.PLANNED, intent=intent_id(number), **changes)
        address = f"203.0.113.{number}"
        listed = replace(self.life.cloud.add(made.name), address=address)
        self.life.cloud.vms[listed.id] = listed
        host = self.access.hosts[address] = AirHost(self.folder / f"home-{number}")
        host.home.mkdir()
        await self.sign(host, replace(made, machine_id=listed.id), signed)
        return listed, host

    async def sign(self, host: AirHost, row: Node, by: HostAuthority | None = None) -> None:
        """Leave on a host what is left on this node."""
        pinned = replace(row, host_key=host.host_key, sent_at=row.created_at)
        await Voucher(by or self.authority, MARK).visit(host, pinned)

    def stranger(self, name: str, number: int = 99) -> tuple[Machine, AirHost]:
        """A VM that a person rented."""
        listed = replace(self.life.cloud.add(name, f"id-{number}"), address=f"203.0.113.{number}")
        self.life.cloud.vms[listed.id] = listed
        assert listed.address is not None
        host = self.access.hosts[listed.address] = AirHost(self.folder / f"home-{number}")
        host.home.mkdir()
        return listed, host

    async def rows(self) -> tuple[Node, ...]:
        return await self.life.store.nodes()


def abandoned(life: Life, folder: Path) -> Abandoned:
    """Begin with nothing but the authority."""
    authority = open_host_authority(folder / "authority")
    access, waiting = AirAccess(), Waiting(life)
    mark = Owner("as1", OWNER)
    sweeper = Sweeper(
        life.store,
        life.cloud,
        life.inventory,
        life.leases,
        life.clock,
        TIMINGS,
        mark,
        BalancerGroup([life.balancer], life.clock.boot_s).in_traffic,
    )
    adopter = Adopter(
        store=life.store,
        inventory=life.inventory,
        leases=life.leases,
        sweeper=sweeper,
        introductions=Introductions(authority, lambda: cast(SshAccess, access), PUBLIC_LINE),
        prober=life.prober,
        reach=PlainReach(public=True),
        clock=waiting,
        mark=mark,
        policies=lambda: life.policies,
        market=lambda: life.markets[0],
        sizes=lambda policy, offer: SIZE,
    )
    return Abandoned(life, folder, authority, sweeper, adopter, access, waiting)
