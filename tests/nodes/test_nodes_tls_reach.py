"""A node with a certificate of its own, on an emulated VM: from the stage that waits for it to a verified server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autoscaler.clock import SystemClock
from autoscaler.domain.machine import Machine, PowerState
from autoscaler.domain.node import Node
from autoscaler.emulator.machines.local import LocalMachines
from autoscaler.errors import NodeUnreachable
from autoscaler.nodes.pki import Authority, make_authority
from autoscaler.nodes.prober import NodeProber
from autoscaler.nodes.protocol import Proven
from autoscaler.nodes.tls_reach import TlsReach
from autoscaler.nodes.verify_http import node_session
from tests.nodes.vm_parts import (
    CLIENT_KEY,
    SSH_PORT,
    TLS,
    machine,
    node,
    offer,
    policy,
    script,
    until,
)


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[LocalMachines]:
    backend = LocalMachines(tmp_path / "machines")
    yield backend
    await backend.close()


@pytest.fixture
def authority() -> Authority:
    return make_authority(datetime.now(UTC))


@pytest.fixture
async def prober(authority: Authority) -> AsyncIterator[NodeProber]:
    ssh = TLS.ssh.model_copy(update={"port": SSH_PORT})
    clock = SystemClock()
    async with node_session(authority.pem) as session:
        reach = TlsReach(authority, clock)
        made = NodeProber(TLS.model_copy(update={"ssh": ssh}), session, clock, reach)
        made.use(CLIENT_KEY)
        yield made


async def test_a_node_serves_with_its_own_certificate_and_gets_another_after_a_reboot(
    machines: LocalMachines, prober: NodeProber, tmp_path: Path
) -> None:
    model, on = policy(), offer(2)
    vm = machine(script(model, on, config=TLS).text, on)
    held = tmp_path / "machines" / vm.vm_id / "run/autoscaler/secrets/tls.pem"
    await machines.boot(vm, 0.05)
    row = await _pinned(prober, node(model, on, vm.address, replicas=2))

    async def verified() -> Proven | None:
        seen = await prober.verify(row, model, on)
        return seen if isinstance(seen, Proven) else None

    proven = await until(verified)
    first = held.read_text()
    await machines.kill(vm.vm_id)
    await machines.boot(vm, 0.05)

    async def well() -> bool | None:
        return await prober.ailment(row, model) is None or None

    await until(well)
    assert [endpoint.url[:8] for endpoint in row.endpoints] == ["https://"] * 2
    assert "tls " in proven.detail
    assert held.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" in first
    assert held.read_text() != first
    assert "PRIVATE" not in vm.startup_script


async def _pinned(prober: NodeProber, row: Node) -> Node:
    """The row as it is once its host key is proven, with its endpoints."""

    async def look() -> str | None:
        try:
            return await prober.contact(row)
        except NodeUnreachable:
            return None

    there = replace(row, host_key=await until(look), nonce=None)
    listed = Machine(
        id=there.machine_id or there.name,  # type: ignore[arg-type]  # any id will do
        name=there.name,
        type=there.offer.type,
        location=there.offer.location,
        power=PowerState.RUNNING,
        raw_state="RUNNING",
        address=there.address,
    )
    endpoints = await prober.reach.endpoints(there, listed, policy())
    return replace(there, endpoints=endpoints)
