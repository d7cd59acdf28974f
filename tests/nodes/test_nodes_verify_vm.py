"""The rendered script on an emulated VM, from its boot to a verified node, over real SSH and HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from autoscaler.domain.node import Endpoint
from autoscaler.domain.offer import Offer
from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.local import LocalMachines
from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.reach_trouble import Rules, Server, explain
from autoscaler.nodes.verify import (
    Balancing,
    Progress,
    Verified,
    liveness,
    recheck,
    verify,
)
from autoscaler.nodes.verify_http import PortClosed, TlsRefused, node_session
from autoscaler.policy import Policy
from tests.nodes.vm_parts import NONCE, access, machine, node, offer, policy, script, until

URL = "http://203.0.113.24:8000"


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

    with pytest.raises(VerificationFailed, match=r"1 (GPUs )?found"):
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


@pytest.mark.parametrize("engine", ["sglang", "llama.cpp", "embedding"])
async def test_every_kind_of_server_is_started_and_verified(
    machines: LocalMachines, http: aiohttp.ClientSession, engine: str
) -> None:
    weights = {"embedding": "BAAI/bge-m3", "llama.cpp": "Qwen/Qwen3-0.6B-GGUF"}
    model = policy(engine, model=weights.get(engine, "Qwen/Qwen3-0.6B"))
    vm = machine(script(model, offer()).text, offer())

    await machines.boot(vm, 0.05)
    seen = await verified(vm, model, offer(), http)

    assert (seen.tokens_per_s is None) == (engine == "embedding")
    assert f"image sha256:{seen.image_digest}" in seen.describe()


async def test_a_driver_too_old_for_the_image_fails_before_the_pull_and_names_what_fits(
    machines: LocalMachines, http: aiohttp.ClientSession
) -> None:
    model = policy(server={"image": "vllm/vllm-openai:v0.10.2"})
    vm = machine(script(model, offer()).text, offer())

    await machines.boot(vm, 0.05)

    with pytest.raises(VerificationFailed) as failed:
        await verified(vm, model, offer(), http)
    assert "driver 535.161.08 is older than 570.26, which vllm/vllm-openai:v0.10.2" in str(
        failed.value
    )
    assert "fits driver 535.161.08: preset vllm-0.8.5 (vllm/vllm-openai:v0.8.5@sha256:" in str(
        failed.value
    )
    assert "[pull]" not in str(failed.value)  # the end of the script's log


async def test_a_custom_script_serves_on_a_vm_without_gpus(
    machines: LocalMachines, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    serve = tmp_path / "serve.sh"
    serve.write_text(
        'docker run -d --name mine -p "$AUTOSCALER_PORT:$AUTOSCALER_PORT" vllm/vllm-openai:v0.8.5 '
        '--model "$AUTOSCALER_WEIGHTS" --port "$AUTOSCALER_PORT"\n'
    )
    model = policy("custom", server={"script": str(serve)}, hardware={"gpus": False})
    vm = machine(script(model, offer(0)).text, offer(0))

    await machines.boot(vm, 0.05)
    seen = await verified(vm, model, offer(0), http)

    assert seen.gpus == ()
    assert seen.driver is None


async def test_a_script_that_hangs_fails_at_its_stages_deadline(
    machines: LocalMachines, http: aiohttp.ClientSession
) -> None:
    model = policy(deadlines={"pull": "1s"})
    faults = frozenset({"script_hangs"})
    vm = machine(script(model, offer()).text, offer(), boot_faults=faults)

    await machines.boot(vm, 0.05)

    with pytest.raises(VerificationFailed, match="stage docker: docker is not up after 1 s"):
        await verified(vm, model, offer(), http)


async def test_a_node_that_boots_again_is_verified_again(
    machines: LocalMachines, http: aiohttp.ClientSession
) -> None:
    model = policy()
    vm = machine(script(model, offer()).text, offer())
    await machines.boot(vm, 0.05)
    await verified(vm, model, offer(), http)

    await machines.kill(vm.vm_id)
    await machines.boot(vm, 0.05)
    seen = await verified(vm, model, offer(), http)

    assert seen.stages[0].name == "host_key"


async def test_a_server_that_cannot_be_reached_from_here_points_at_the_firewall(
    machines: LocalMachines, http: aiohttp.ClientSession
) -> None:
    model = policy()
    vm = machine(script(model, offer()).text, offer())
    await machines.boot(vm, 0.05)
    await verified(vm, model, offer(), http)
    closed = Endpoint("n", f"http://{vm.address}:9999", capacity=1, weight=1)
    row = node(model, offer(), vm.address, endpoints=(closed,))
    balancing = Balancing(Rules("public-plain", ("198.51.100.7/32",), managed=True))

    async with access().connect(vm.address, await pin(vm.address)) as shell:
        seen = await verify(shell, model, offer(), row, http, None, balancing)

    assert isinstance(seen, Progress)
    assert seen.stage == (
        f"server: SSH works, port {model.server.port} is closed from 127.0.0.1: the firewall rule covers "
        "198.51.100.7; put it into firewall.sources"
    )


async def test_what_keeps_a_running_server_out_of_reach_is_told_in_a_line(
    machines: LocalMachines, http: aiohttp.ClientSession
) -> None:
    vm = machine(script(policy(), offer()).text, offer())
    await machines.boot(vm, 0.05)
    await verified(vm, policy(), offer(), http)
    port = policy().server.port
    key = await pin(vm.address)
    closed = PortClosed(f"{URL}: no connection in time")

    async def said(failed: NodeUnreachable, rules: Rules, at: int = port) -> str:
        async with access().connect(vm.address, key) as shell:
            return await explain(shell, Server(URL, at, "/health"), failed, rules)

    far = Rules("public-plain", ("198.51.100.7/32",), managed=True)
    assert await said(closed, far) == (
        f"SSH works, port {port} is closed from 127.0.0.1: the firewall rule covers 198.51.100.7; "
        "put it into firewall.sources"
    )
    near = Rules("public-plain", ("127.0.0.0/8",), managed=True)
    assert "is closed from 127.0.0.1: the firewall rule covers it, so something" in await said(
        closed, near
    )
    own = Rules("public-plain", (), managed=False)
    assert "firewall.manage is false" in await said(closed, own)
    private = Rules("private", (), managed=True)
    assert "is this host in the cloud's network, where 203.0.113.24 is?" in await said(
        closed, private
    )
    tunnel = Rules("tunnel", (), managed=True)
    assert "the tunnel to it is closed" in await said(closed, tunnel)
    tls = TlsRefused(f"{URL}: its certificate has expired")
    assert (await said(tls, far)).endswith("its certificate has expired")
    assert (await said(tls, far)).startswith(f"SSH works, port {port} answers on the node itself")
    assert await said(closed, far, at=9) == (
        f"SSH works, port 9 does not answer on the node itself: {closed}"
    )
    busy = NodeUnreachable(f"{URL}: answers 503")
    assert (await said(busy, far)).endswith(
        "and not from here: http://203.0.113.24:8000: answers 503"
    )


async def test_a_ready_nodes_gpus_are_looked_at_again(machines: LocalMachines) -> None:
    model, on = policy(), offer(2)
    vm = machine(script(model, on).text, on)

    await machines.boot(vm, 0.05)
    key = await pin(vm.address)

    async with access().connect(vm.address, key) as shell:
        assert await recheck(shell, on) is None
        assert await recheck(shell, offer(4)) == "gpus: l40s-48gb.4x has 4, 2 found"
