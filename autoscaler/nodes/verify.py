"""Proves that a node is what was ordered and really serves, before it may take a request.

One look reads how far the node is and goes as deep as it can: the startup script's stages, the machine, each server,
one real request to each. Every step may be repeated; nothing is remembered between looks but what the node itself
keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from autoscaler.cloud.secret import Secret
from autoscaler.domain.node import Endpoint, Node
from autoscaler.domain.offer import Offer
from autoscaler.errors import NodeUnreachable, ReachUnavailable, VerificationFailed
from autoscaler.nodes.gpus import Gpu
from autoscaler.nodes.reach_trouble import Rules, Server, explain
from autoscaler.nodes.shell import NodeShell
from autoscaler.nodes.verify_boot import (
    FINISHED,
    BootReport,
    StageTime,
    check_boot,
    read_boot,
)
from autoscaler.nodes.verify_http import Asker, Door
from autoscaler.nodes.verify_machine import (
    check_gpus,
    check_machine,
    check_xids,
    read_gpus,
    read_machine,
)
from autoscaler.nodes.verify_server import check_health, check_served_name, try_request
from autoscaler.policy import Policy

TOKEN_FILE = "/run/autoscaler/secrets/hub_token"


@dataclass(frozen=True, slots=True)
class Progress:
    """Not there yet, and nothing is wrong.

    Attributes:
        stage: the startup script's stage, or what verification waits for.
        stages: those of the script so far, with their times.
    """

    stage: str
    stages: tuple[StageTime, ...] = ()


@dataclass(frozen=True, slots=True)
class Verified:
    """The node serves.

    Attributes:
        tokens_per_s: of the slowest replica's answer; None for embeddings.
        driver: None on machines without GPUs.
        image_digest: of the container image that serves, 64 hex digits; None for a server without one.
    """

    tokens_per_s: float | None
    gpus: tuple[Gpu, ...]
    driver: str | None
    has_nvlink: bool
    stages: tuple[StageTime, ...]
    image_digest: str | None = None

    def describe(self) -> str:
        """One line for the node's story."""
        parts = []
        if self.gpus:
            link = "NVLink" if self.has_nvlink else "no NVLink"
            parts.append(f"{len(self.gpus)} x {self.gpus[0].name}, {link}, driver {self.driver}")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        if self.image_digest is not None:
            parts.append(f"image sha256:{self.image_digest}")
        parts.append(" ".join(f"{stage.name} {stage.seconds:.1f}s" for stage in self.stages))
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Balancing:
    """How clients' requests will come, which the warm-up takes the way of.

    Attributes:
        door: makes requests to an endpoint set out from the balancer; None where it is on this host and sends as we do.
    """

    rules: Rules
    door: Callable[[Endpoint], Door] | None = None


def serving_urls(node: Node, policy: Policy) -> tuple[str, ...]:
    """Where the node's replicas serve."""
    if node.endpoints:
        return tuple(endpoint.url for endpoint in node.endpoints)
    host = f"[{node.address}]" if ":" in (node.address or "") else node.address
    return tuple(f"http://{host}:{policy.server.port + i}" for i in range(node.replicas))


async def verify(
    shell: NodeShell,
    policy: Policy,
    offer: Offer | None,
    node: Node,
    http: aiohttp.ClientSession,
    token: Secret | None = None,
    balancing: Balancing | None = None,
) -> Progress | Verified:
    """Look how far a node is, and deliver the token for the weights when its script waits for it.

    Args:
        shell: a session pinned to the node's host key.
        offer: what was ordered; None when nobody remembers more of it than its name.
        balancing: from where the warm-up sets out; without it, from here.

    Raises:
        VerificationFailed: it will never serve; the message says why and, of the script, shows the log's end.
        NodeUnreachable: no answer over SSH now.
    """
    boot = await read_boot(shell)
    await check_boot(shell, boot, policy.deadlines)
    offer = offer or _unlisted(node, policy, len(boot.gpus))
    if boot.gpus and offer.gpus:
        check_gpus(boot.gpus, offer)
    await deliver_token(shell, boot, token)
    if boot.stage != FINISHED and not (node.is_by_hand and boot.stage is None):
        return Progress(boot.stage or "boot", boot.stages)
    facts = await read_machine(shell, has_gpus=offer.gpus > 0)
    check_machine(facts, policy, offer)
    speeds: list[float] = []
    for index, url in enumerate(serving_urls(node, policy)):
        door: Asker = http
        if balancing is not None and balancing.door is not None and node.endpoints:
            door = balancing.door(node.endpoints[index])
        try:
            await check_health(http, url, policy)
            await check_served_name(http, url, policy)
            speech = await try_request(door, url, policy)
        except ReachUnavailable as exc:
            return Progress(f"warm-up: {exc}", boot.stages)
        except NodeUnreachable as exc:
            why = str(exc)
            if balancing is not None:
                server = Server(url, policy.server.port + index, policy.server.health_path)
                why = await explain(shell, server, exc, balancing.rules)
            return Progress(f"server: {why}", boot.stages)
        if speech.tokens_per_s is not None:
            speeds.append(speech.tokens_per_s)
    return Verified(
        tokens_per_s=min(speeds, default=None),
        gpus=facts.gpus,
        driver=facts.gpus[0].driver if facts.gpus else None,
        has_nvlink=facts.has_nvlink,
        stages=boot.stages,
        image_digest=boot.image_digest,
    )


async def deliver_token(shell: NodeShell, boot: BootReport, token: Secret | None) -> None:
    """Give the script the token for the weights if that is what it waits for.

    Raises:
        NodeUnreachable: not known to be delivered.
    """
    if boot.stage == "token" and boot.failure is None and token is not None:
        await shell.put_secret(TOKEN_FILE, token.reveal().encode())


def _unlisted(node: Node, policy: Policy, found: int) -> Offer:
    """The least that an offer must have been which the market no longer lists: enough GPUs."""
    needed = node.replicas * node.tensor_parallel if policy.hardware.gpus else 0
    return Offer(
        key=node.offer,
        price_per_hour=None,
        gpu=None,
        gpus=max(needed, found),
        gpu_memory_gb=0,
        vcpu=0,
        ram_gb=0,
        disk_gb=0,
        in_stock=False,
    )


async def liveness(http: aiohttp.ClientSession, node: Node, policy: Policy) -> str | None:
    """What is wrong with a ready node's servers as seen from here; None when each is healthy."""
    for url in serving_urls(node, policy):
        try:
            await check_health(http, url, policy)
        except NodeUnreachable as exc:
            return str(exc)
        except VerificationFailed as exc:
            return str(exc)
    return None


async def recheck(shell: NodeShell, offer: Offer) -> str | None:
    """Look at a ready node's GPUs again; what is wrong with them, or None.

    Raises:
        NodeUnreachable: no answer.
    """
    if not offer.gpus:
        return None
    facts = await read_gpus(shell)
    try:
        check_gpus(facts.gpus, offer, facts.complaint)
        check_xids(facts.xids)
    except VerificationFailed as exc:
        return str(exc)
    return None
