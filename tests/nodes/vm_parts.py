"""Builders for what a node is: policy, offer, script, and a VM of the emulator that runs it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar

import asyncssh

from autoscaler.config import Config
from autoscaler.domain.ids import DecisionId, IntentId, ModelName, NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import Node, State
from autoscaler.domain.offer import Offer, OfferKey
from autoscaler.emulator.machine import MachineSpec
from autoscaler.nodes.keys import public_line
from autoscaler.nodes.ssh import SshAccess
from autoscaler.nodes.startup import StartupScript, render, replicas_of
from autoscaler.policy import Policy

T = TypeVar("T")
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NONCE = "5a" * 32
SSH_PORT = 2222
CLIENT_KEY = asyncssh.generate_private_key("ssh-ed25519")
CONFIG = Config.model_validate(
    {"schema": 1, "cloud": {"owner": "abcdefgh", "url": "http://127.0.0.1:1", "key_file": "/k"}}
)
TLS = CONFIG.model_copy(update={"reach": "tls"})
_octets = random.Random(os.getpid())


def policy(engine: str = "vllm", **changes: object) -> Policy:
    """A small chat model's policy."""
    table: dict[str, object] = {"schema": 1, "model": "Qwen/Qwen3-0.6B", "engine": engine}
    return Policy.model_validate(table | changes)


def offer(gpus: int = 1, gpu: str | None = "l40s") -> Offer:
    """An offer of L40S."""
    return Offer(
        key=OfferKey(f"l40s-48gb.{gpus}x" if gpus else "c1a.8x", "us-east1-a"),
        price_per_hour=Money(Decimal("1.25")),
        gpu=gpu if gpus else None,
        gpus=gpus,
        gpu_memory_gb=48 if gpus else 0,
        vcpu=8,
        ram_gb=147,
        disk_gb=128,
        in_stock=True,
    )


class Kept:
    """The facts of a store."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}

    async def meta(self, key: str) -> str | None:
        return self.facts.get(key)

    async def set_meta(self, key: str, value: str) -> None:
        self.facts[key] = value


def script(
    rendered: Policy,
    on: Offer,
    nonce: str = NONCE,
    pins: Mapping[str, str] | None = None,
    config: Config = CONFIG,
) -> StartupScript:
    """The script of a node with as many replicas as fit."""
    replicas = replicas_of(rendered, on)
    return render(rendered, on, nonce=nonce, replicas=replicas, config=config, pins=pins or {})


def machine(text: str, on: Offer, **changes: object) -> MachineSpec:
    """A VM of this offer on a loopback address of this test process's own."""
    facts: dict[str, object] = {
        "vm_id": "vm-1",
        "name": "as1-abcdefgh-1",
        "location": on.key.location,
        "gpu": on.gpu,
        "gpus": on.gpus,
        "vcpu": on.vcpu,
        "ram_gb": on.ram_gb,
        "disk_gb": on.disk_gb,
        "address": f"127.{_octets.randint(30, 250)}.{_octets.randint(1, 250)}.7",
        "ssh_port": SSH_PORT,
        "authorized_key": public_line(CLIENT_KEY),
        "startup_script": text,
        "shutdown_script": "",
        "time_factor": 600.0,
        "boot_faults": frozenset(),
    }
    return MachineSpec(**(facts | changes))  # type: ignore[arg-type] # a builder's keywords


def node(model: Policy, on: Offer, address: str, **changes: object) -> Node:
    """The store's row of a booted node."""
    facts: dict[str, object] = {
        "name": NodeName("as1-abcdefgh-aaaaaaaaaaaaa-1-qwen"),
        "model": ModelName(model.model),
        "intent": IntentId("aaaaaaaaaaaaa"),
        "attempt": 1,
        "offer": on.key,
        "price_per_hour": Money(Decimal("1.25")),
        "state": State.VERIFYING,
        "since": NOON,
        "created_at": NOON,
        "epoch": 1,
        "decision": DecisionId("d1"),
        "reason": "test",
        "units": 1.0,
        "replicas": replicas_of(model, on),
        "concurrency": 32,
        "tensor_parallel": model.hardware.tensor_parallel,
        "spec_hash": model.spec_hash(),
        "address": address,
        "nonce": NONCE,
    }
    return Node(**(facts | changes))  # type: ignore[arg-type] # a builder's keywords


def access(port: int = SSH_PORT, timeout_s: float = 5.0) -> SshAccess:
    """SSH as the daemon uses it."""
    return SshAccess(CLIENT_KEY, "ubuntu", port, timeout_s)


async def until(look: Callable[[], Awaitable[T | None]], within_s: float = 90.0) -> T:
    """Look again until there is something to see."""
    async with asyncio.timeout(within_s):
        while True:
            found = await look()
            if found is not None:
                return found
            await asyncio.sleep(0.05)
