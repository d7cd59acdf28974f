"""The node's life looks at nodes through this: SSH and HTTP, joined to the `Prober` that the runner needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import aiohttp
import asyncssh

from autoscaler.clock import Clock
from autoscaler.cloud.secret import Secret
from autoscaler.config import Config
from autoscaler.domain.ids import NodeName
from autoscaler.domain.node import Endpoint, Node
from autoscaler.domain.offer import Offer, OfferKey
from autoscaler.errors import ConfigError, HostKeyMismatch, NodeUnreachable, ReachUnavailable
from autoscaler.nodes.diagnostics import collect
from autoscaler.nodes.engine_load import requests_in
from autoscaler.nodes.keys import read_token
from autoscaler.nodes.protocol import Ailment, Coming, Proven
from autoscaler.nodes.reach import Reach
from autoscaler.nodes.reach_trouble import Rules
from autoscaler.nodes.shell import NodeAccess, NodeShell
from autoscaler.nodes.ssh import SshAccess
from autoscaler.nodes.startup.pins import ImagePins
from autoscaler.nodes.startup.presets import server_image
from autoscaler.nodes.verify import (
    Balancing,
    Progress,
    deliver_token,
    liveness,
    recheck,
    serving_urls,
    verify,
)
from autoscaler.nodes.verify_boot import read_boot
from autoscaler.nodes.verify_http import Door
from autoscaler.nodes.vouching import Voucher
from autoscaler.policy import Policy

T = TypeVar("T")

_REMEMBERED = 4096


@dataclass(slots=True)
class _Recheck:
    """When a node's GPUs were looked at last, and what was wrong with them."""

    at_s: float
    found: Ailment | None


@dataclass(slots=True)
class NodeProber:
    """Looks at nodes (`Prober`).

    Attributes:
        http: a session for nodes, as `verify_http.node_session` makes it.
        reach: the way to their model servers.
        door: makes the warm-up set out from the balancer (`Balancing`).
        access: how nodes are reached; `use` makes it SSH.
        pins: told which image each verified node serves with; None where nobody keeps it.
        voucher: leaves our word on each node; None where there is no authority.
    """

    config: Config
    http: aiohttp.ClientSession
    clock: Clock
    reach: Reach
    door: Callable[[Endpoint], Door] | None = None
    access: NodeAccess | None = None
    pins: ImagePins | None = None
    voucher: Voucher | None = None
    _offers: dict[OfferKey, Offer] = field(default_factory=dict)
    _rechecks: dict[NodeName, _Recheck] = field(default_factory=dict)
    _visits: dict[NodeName, float] = field(default_factory=dict)

    def use(self, key: asyncssh.SSHKey) -> None:
        """Reach nodes over SSH with this client key."""
        ssh = self.config.ssh
        timings = self.config.timings
        self.access = SshAccess(
            key,
            ssh.user,
            ssh.port,
            timings.ssh_timeout.total_seconds(),
            timings.ssh_keepalive.total_seconds(),
        )

    async def contact(self, node: Node) -> str:
        """Prove and return the host key (`Prober`)."""
        if node.address is None or node.nonce is None:
            raise NodeUnreachable(f"{node.name}: no address or no nonce to prove it by")
        return await self._ssh().first_contact(node.address, node.nonce)

    async def verify(self, node: Node, policy: Policy, offer: Offer | None) -> Coming | Proven:
        """Look how far the node is (`Prober`)."""
        address, host_key = _pinned(node)
        if offer is not None:
            self._offers[offer.key] = offer
        else:  # a listing leaves out what is sold out
            offer = self._offers.get(node.offer)
        try:
            token = _token(policy)
        except ConfigError as exc:
            return Coming(f"token: {exc}")
        await self.reach.keep(node)
        async with self._ssh().connect(address, host_key) as shell:
            await self._visit(shell, node)
            balancing = Balancing(Rules.of(self.config), self.door)
            seen = await verify(shell, policy, offer, node, self.http, token, balancing)
            if isinstance(seen, Progress):
                await self.reach.prepare(shell, seen.stage, node)
        if isinstance(seen, Progress):
            return Coming(seen.stage)
        if offer is not None and seen.image_digest is not None and self.pins is not None:
            image = server_image(policy, offer).image
            if image is not None:
                await self.pins.learn(image, seen.image_digest)
        return Proven(seen.tokens_per_s, seen.describe())

    async def ailment(
        self, node: Node, policy: Policy, offer: Offer | None = None
    ) -> Ailment | None:
        """What is wrong with a ready node, by HTTP and, once an hour, by its GPUs (`Prober`)."""
        if offer is not None:
            self._offers[offer.key] = offer
        try:
            problem = await self._away(node) or await liveness(self.http, node, policy)
        except ReachUnavailable:
            # What is away is ours, so nothing is known of the node, and nobody replaces it.
            return None
        if problem is None:
            return await self._sick_gpus(node)
        reached, script = await self._script_of(node, policy)
        return Ailment(f"{problem}; {script}", reached=reached)

    async def in_flight(self, node: Node, policy: Policy) -> int | None:
        """Requests in its model servers (`Prober`)."""
        return await requests_in(self.http, serving_urls(node, policy), policy)

    async def diagnostics(self, node: Node, policy: Policy | None) -> str:
        """What can still be saved (`Prober`)."""
        secrets = [node.nonce or ""]
        try:
            token = _token(policy) if policy is not None else None
            secrets.append(token.reveal() if token else "")
        except ConfigError:
            pass  # unreadable by us, so never sent there
        try:
            address, host_key = _pinned(node)
            async with self._ssh().connect(address, host_key) as shell:
                return await collect(shell, secrets)
        except (NodeUnreachable, HostKeyMismatch) as exc:
            return f"nothing could be read: {exc}"

    async def _away(self, node: Node) -> str | None:
        """Why the way to it is not open; None when it is."""
        try:
            await self.reach.keep(node)
        except ReachUnavailable:
            raise
        except NodeUnreachable as exc:
            return str(exc)
        return None

    async def _script_of(self, node: Node, policy: Policy) -> tuple[bool, str]:
        """Whether SSH reaches an ailing node, and where its startup script is.

        After a reboot that runs again, and wants again what it cannot keep.
        """
        try:
            address, host_key = _pinned(node)
            async with self._ssh().connect(address, host_key) as shell:
                boot = await read_boot(shell)
                await deliver_token(shell, boot, _token(policy))
                await self.reach.prepare(shell, boot.stage, node)
        except (NodeUnreachable, HostKeyMismatch, ConfigError) as exc:
            return False, f"ssh: {exc}"
        return True, f"startup script: {boot.failure or boot.stage or 'not begun'}"

    def _ssh(self) -> NodeAccess:
        if self.access is None:
            raise NodeUnreachable("no SSH key yet")
        if isinstance(self.access, SshAccess) and self.voucher is not None:
            return replace(self.access, certificate=self.voucher.login(self.clock.now()))
        return self.access

    async def _sick_gpus(self, node: Node) -> Ailment | None:
        now_s = self.clock.boot_s()
        last = self._rechecks.get(node.name)
        is_due = (
            last is None
            or last.found is not None
            or now_s - last.at_s >= self.config.timings.recheck.total_seconds()
        )
        offer = self._offers.get(node.offer)
        is_due = (is_due and offer is not None) or self._is_visit_due(node.name)
        if not is_due or node.host_key is None or node.address is None:
            return last.found if last else None
        try:
            async with self._ssh().connect(node.address, node.host_key) as shell:
                await self._visit(shell, node)
                if offer is None:
                    return last.found if last else None
                sick = await recheck(shell, offer)
            found = Ailment(sick, reached=True, gpus=True) if sick is not None else None
        except NodeUnreachable:
            return None  # its servers answer; SSH alone condemns nothing
        except HostKeyMismatch as exc:
            found = Ailment(str(exc))
        _remember(self._rechecks, node.name, _Recheck(now_s, found))
        return found

    async def _visit(self, shell: NodeShell, node: Node) -> None:
        """Leave our word on it, as often as its GPUs are looked at."""
        if self.voucher is None or not self._is_visit_due(node.name):
            return
        await self.voucher.visit(shell, node)
        _remember(self._visits, node.name, self.clock.boot_s())

    def _is_visit_due(self, name: NodeName) -> bool:
        if self.voucher is None:
            return False
        at_s = self._visits.get(name)
        every = self.config.timings.recheck.total_seconds()
        return at_s is None or self.clock.boot_s() - at_s >= every


def _remember(known: dict[NodeName, T], name: NodeName, what: T) -> None:
    if len(known) >= _REMEMBERED:
        del known[next(iter(known))]
    known[name] = what


def _pinned(node: Node) -> tuple[str, str]:
    if node.address is None or node.host_key is None:
        raise NodeUnreachable(f"{node.name}: no pinned host key, so nothing is sent to it")
    return node.address, node.host_key


def _token(policy: Policy) -> Secret | None:
    return read_token(Path(policy.server.token_file)) if policy.server.token_file else None
