"""The simulated machines: hosts that boot, run the startup script, serve, lie, stall and die.

The emulator rents them out (`Machines` is its backend); the daemon looks at them through `HostProber`, which stands
where SSH and HTTP are and satisfies the same Protocol.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from autoscaler.domain.node import Node
from autoscaler.domain.offer import Offer
from autoscaler.emulator.machine import MachineSpec
from autoscaler.errors import HostKeyMismatch, NodeUnreachable, VerificationFailed
from autoscaler.nodes.hostkey import is_proven, proof_of
from autoscaler.nodes.protocol import Ailment, Coming, Proven
from autoscaler.policy import Policy
from tests.faults.lives import Life
from tests.faults.virtual import WorldTime

SSH_TIMEOUT_S = 10.0
_NONCE = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(slots=True)
class Host:
    """One machine's processes.

    Attributes:
        nonce: what its startup script holds; "" for somebody else's machine.
        ssh_at_s, script_at_s, serves_at_s: when SSH answers, the script has ended, the server is up.
        stalls_until_s: SSH accepts and says nothing until then.
        hangs: the server accepts and no token comes.
        relayed: somebody in the middle shows a key of his own.
        gpu_sick: its own nvidia-smi says so.
        dark_until_s: the daemon alone cannot reach it until then.
        fails: the server answers every request at once with an error, and its health check with OK.
        babbles: what it says over SSH is noise without end.
        throws: looking at it breaks the daemon's own code.
    """

    spec: MachineSpec
    host_key: str
    nonce: str
    booted_at_s: float
    ssh_at_s: float
    script_at_s: float
    serves_at_s: float
    running: bool = True
    stalls_until_s: float = 0.0
    hangs: bool = False
    relayed: bool = False
    gpu_sick: bool = False
    dark_until_s: float = 0.0
    flaps_until_s: float = 0.0
    fails: bool = False
    babbles: bool = False
    throws: bool = False
    boots: int = 1
    was_ill: bool = False

    @property
    def is_ill(self) -> bool:
        """Whether anything was ever wrong with it that may be a reason to give it up."""
        return self.was_ill or self.boots > 1 or bool(self.spec.boot_faults)

    def serves(self, at_s: float) -> bool:
        """Whether its model server answers a request."""
        return self.running and at_s >= self.serves_at_s and not self.hangs

    def is_up(self, at_s: float) -> bool:
        """Whether its model server answers a health check: one that hangs does.

        One that fails is taken out by its balancer for as long as it has just been in, over and over.
        """
        if (at_s < self.flaps_until_s or self.fails) and int(at_s / 20) % 2:
            return False
        return self.running and at_s >= self.serves_at_s


@dataclass
class Boots:
    """How hosts boot: bounds of the seconds that each stage takes."""

    script_s: tuple[float, float] = (40.0, 150.0)
    load_s: tuple[float, float] = (20.0, 90.0)


class Machines:
    """The emulator's backend: one host for each machine that runs. Satisfies `MachineBackend`."""

    def __init__(self, time: WorldTime, rng: random.Random) -> None:
        self._time = time
        self._rng = rng
        self.boots = Boots()
        self.hosts: dict[str, Host] = {}
        self.by_address: dict[str, Host] = {}
        self.died: Callable[[Host], None] = lambda host: None

    async def boot(self, spec: MachineSpec, ssh_after_s: float) -> str:
        before = self.hosts.get(spec.vm_id)
        now_s = self._time.seconds()
        faults = spec.boot_faults
        found = _NONCE.search(spec.startup_script)
        key = before.host_key if before else _key(f"{spec.vm_id}")
        if "host_key_changed" in faults:
            key = _key(f"{spec.vm_id}/{now_s}")
        ssh_s = float("inf") if "no_ssh" in faults else now_s + ssh_after_s
        script_s = now_s + self._rng.uniform(*self.boots.script_s)
        load_s = self._rng.uniform(*self.boots.load_s)
        if faults & {"script_hangs", "script_exits_1"}:
            script_s = float("inf")
        host = Host(
            spec=spec,
            host_key=key,
            nonce=found.group() if found else "",
            booted_at_s=now_s,
            ssh_at_s=ssh_s,
            script_at_s=script_s,
            serves_at_s=script_s + load_s,
            boots=before.boots + 1 if before else 1,
        )
        self.hosts[spec.vm_id] = host
        self.by_address[spec.address] = host
        return key

    async def power_off(self, vm_id: str, timeout_s: float) -> None:
        self._off(vm_id)

    async def kill(self, vm_id: str) -> None:
        self._off(vm_id)

    async def destroy(self, vm_id: str) -> None:
        self._off(vm_id)

    def is_running(self, vm_id: str) -> bool:
        host = self.hosts.get(vm_id)
        return host is not None and host.running

    async def close(self) -> None:
        self.hosts.clear()

    def _off(self, vm_id: str) -> None:
        host = self.hosts.get(vm_id)
        if host is None or not host.running:
            return
        host.running = False
        self.died(host)
        if self.by_address.get(host.spec.address) is host:
            del self.by_address[host.spec.address]

    def at(self, address: str | None) -> Host | None:
        """The host that answers at an address now, whoever's it is."""
        return self.by_address.get(address or "")


def _key(seed: str) -> str:
    return f"ssh-ed25519 AAAA{hashlib.sha256(seed.encode()).hexdigest()[:40]}"


def _noise(at_s: float) -> str:
    """Another one each time, as long as a reader of output allows."""
    return f"{at_s:.3f} " + "\N{FULL BLOCK}\t\n" * 5000


class Bug(Exception):
    """What no part of the daemon expects, put in on purpose: it is to be isolated and backed off."""


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that the daemon asked of a host over SSH or HTTP.

    Attributes:
        showed: the host key that answered; `pinned`: the row's, None at first contact.
    """

    at_s: float
    kind: str
    node: str
    vm_id: str
    showed: str
    pinned: str | None


class HostProber:
    """Looks at hosts for one life. Satisfies `Prober`."""

    def __init__(
        self,
        life: Life,
        machines: Machines,
        time: WorldTime,
        rng: random.Random,
        told: Callable[[Command], None],
        in_flight: Callable[[Host], int],
    ) -> None:
        self._life = life
        self._machines = machines
        self._time = time
        self._rng = rng
        self._told = told
        self._in_flight = in_flight
        self.is_cut: Callable[[], bool] = lambda: False

    async def contact(self, node: Node) -> str:
        host = await self._reach("contact", node)
        showed = "ssh-ed25519 AAAArelay" if host.relayed else host.host_key
        self._told(self._command("contact", node, host, showed))
        if not host.nonce:
            raise NodeUnreachable(f"{node.name}: no proof is written yet")
        proof = proof_of(host.nonce, host.host_key)
        if not is_proven(proof, node.nonce or "", showed):
            raise HostKeyMismatch(f"{node.name}: the proof does not fit the key shown")
        await self._back("contact", node)
        return showed

    async def verify(self, node: Node, policy: Policy, offer: Offer | None) -> Coming | Proven:
        host = await self._pinned("verify", node)
        now_s = self._time.seconds()
        faults = host.spec.boot_faults
        if "script_exits_1" in faults:
            raise VerificationFailed(f"{node.name}: the startup script ended with status 1")
        if now_s < host.script_at_s:
            return Coming("script: pulling")
        if "wrong_gpus" in faults or host.gpu_sick:
            raise VerificationFailed(f"{node.name}: a GPU too few")
        if host.babbles:
            return Coming(f"script: {_noise(now_s)}")
        if now_s < host.serves_at_s or host.hangs:
            return Coming("server: loading")
        if host.fails:
            raise VerificationFailed(f"{node.name}: the warm-up was answered 500")
        if "health_ok_generation_garbage" in faults:
            raise VerificationFailed(f"{node.name}: the warm-up answered nonsense")
        await self._back("verify", node)
        return Proven(40.0, "1 GPU, driver 580")

    async def ailment(
        self, node: Node, policy: Policy, offer: Offer | None = None
    ) -> Ailment | None:
        try:
            host = await self._pinned("ailment", node)
        except (NodeUnreachable, HostKeyMismatch) as exc:
            return Ailment(str(exc))
        now_s = self._time.seconds()
        if host.gpu_sick:
            return Ailment("a GPU fell off the bus", reached=True, gpus=True)
        if not host.is_up(now_s):
            return Ailment("its server does not answer", reached=True)
        if host.hangs:
            return Ailment("no token came", reached=True)
        return Ailment(_noise(now_s), reached=True) if host.babbles else None

    async def in_flight(self, node: Node, policy: Policy) -> int | None:
        try:
            host = await self._pinned("in_flight", node)
        except (NodeUnreachable, HostKeyMismatch):
            return None
        return self._in_flight(host) if host.is_up(self._time.seconds()) else None

    async def diagnostics(self, node: Node, policy: Policy | None) -> str:
        try:
            host = await self._pinned("diagnostics", node)
        except (NodeUnreachable, HostKeyMismatch) as exc:
            return f"nothing: {exc}"
        return _noise(self._time.seconds()) if host.babbles else "the log's last lines"

    async def _pinned(self, kind: str, node: Node) -> Host:
        """A host by its pinned key: a session with another key ends before any command."""
        host = await self._reach(kind, node)
        showed = "ssh-ed25519 AAAArelay" if host.relayed else host.host_key
        if showed != node.host_key:
            raise HostKeyMismatch(f"{node.name}: shows another key than the one pinned")
        self._told(self._command(kind, node, host, showed))
        return host

    async def _reach(self, kind: str, node: Node) -> Host:
        await self._life.cross("node", f"{kind} {node.name}")
        await asyncio.sleep(self._rng.uniform(0.05, 0.3))
        host, now_s = self._machines.at(node.address), self._time.seconds()
        is_away = host is None or not host.running or now_s < host.ssh_at_s
        if is_away or self.is_cut() or host is None or now_s < host.dark_until_s:
            await asyncio.sleep(2.0)
            raise NodeUnreachable(f"{node.name}: no answer at {node.address}")
        if now_s < host.stalls_until_s:
            await asyncio.sleep(SSH_TIMEOUT_S)
            raise NodeUnreachable(f"{node.name}: SSH accepts and says nothing")
        if host.throws:
            raise Bug(f"{node.name}: nobody thought of this")
        return host

    async def _back(self, kind: str, node: Node) -> None:
        await self._life.cross("node answered", f"{kind} {node.name}")

    def _command(self, kind: str, node: Node, host: Host, showed: str) -> Command:
        return Command(
            self._time.seconds(), kind, node.name, host.spec.vm_id, showed, node.host_key
        )
