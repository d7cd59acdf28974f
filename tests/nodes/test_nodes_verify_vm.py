"""The rendered script on an emulated VM, from its boot to a verified node, over real SSH and HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from autoscaler.domain.offer import Offer
from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.local import LocalMachines
from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.verify import Verified, liveness, recheck, verify
from autoscaler.nodes.verify_http import node_session
from autoscaler.policy import Policy
from tests.nodes.vm_parts import NONCE, access, machine, node, offer, policy, script, until


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[LocalMachines]:
    backend = LocalMachines(tmp_path / "machines")
    yield backend
    await backend.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with node_session() as session:
        yield session


async def pin(address: str) -> str:
    """First contact, as often as it takes."""

    async def look() -> str | None:
        try:
            return await access().first_contact(address, NONCE)
        except NodeUnreachable:
            return None

    return await until(look)


async def verified(
    vm: MachineSpec, model: Policy, on: Offer, http: aiohttp.ClientSession
) -> Verified:
    """Look again and again until the node is verified, as the daemon does."""
    row = node(model, on, vm.address)
    async with access().connect(vm.address, await pin(vm.address)) as shell:

        async def look() -> Verified | None:
            seen = await verify(shell, model, on, row, http)
            return seen if isinstance(seen, Verified) else None

        return await until(look)


async def test_a_vm_with_two_gpus_serves_two_replicas_after_its_script(
    machines: LocalMachines, http: aiohttp.ClientSession
) -> None:
    model, on = policy(), offer(2)
    vm = machine(script(model, on).text, on)

    await machines.boot(vm, 0.05)
    seen = await verified(vm, model, on, http)

    assert [gpu.name for gpu in seen.gpus] == ["NVIDIA L40S", "NVIDIA L40S"]
    assert seen.driver == "535.161.08"
    assert seen.tokens_per_s is not None
    assert seen.tokens_per_s > 0
    assert [stage.name for stage in seen.stages][:3] == ["host_key", "driver", "disks"]
    assert await liveness(http, node(model, on, vm.address), model) is None


async def test_a_vm_with_fewer_gpus_than_ordered_fails_at_once(
    machines: LocalMachines, http: aiohttp.ClientSession
) -> None:
    model, on = policy(), offer(2)
    vm = machine(script(model, on).text, on, boot_faults=frozenset({"wrong_gpus"}))

    await machines.boot(vm, 0.05)

    with pytest.raises(VerificationFailed, match="1 GPUs found, the offer has 2"):
        await verified(vm, model, on, http)


async def test_a_server_that_is_healthy_and_talks_garbage_is_refused(
    machines: LocalMachines, http: aiohttp.ClientSession
) -> None:
    model, on = policy(), offer()
    faults = frozenset({"health_ok_generation_garbage"})
    vm = machine(script(model, on).text, on, boot_faults=faults)

    await machines.boot(vm, 0.05)

    with pytest.raises(VerificationFailed):
        await verified(vm, model, on, http)


async def test_a_ready_nodes_gpus_are_looked_at_again(machines: LocalMachines) -> None:
    model, on = policy(), offer(2)
    vm = machine(script(model, on).text, on)

    await machines.boot(vm, 0.05)
    key = await pin(vm.address)

    async with access().connect(vm.address, key) as shell:
        assert await recheck(shell, on) is None
        assert await recheck(shell, offer(4)) == "gpus: l40s-48gb.4x has 4, 2 found"
