"""The prober that the runner uses, against emulated VMs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autoscaler.clock import SystemClock
from autoscaler.domain.node import Node
from autoscaler.domain.offer import Offer
from autoscaler.emulator.machines.local import LocalMachines
from autoscaler.errors import HostKeyMismatch, NodeUnreachable, VerificationFailed
from autoscaler.nodes.prober import NodeProber
from autoscaler.nodes.protocol import Coming, Proven
from autoscaler.nodes.reach import PlainReach
from autoscaler.nodes.startup.pins import ImagePins
from autoscaler.nodes.startup.presets import server_image
from autoscaler.nodes.verify_http import node_session
from autoscaler.policy import Policy
from tests.nodes.vm_parts import (
    CLIENT_KEY,
    CONFIG,
    NONCE,
    SSH_PORT,
    Kept,
    machine,
    node,
    offer,
    policy,
    script,
    until,
)

TOKEN = "hf_canaryCanaryCanary"
GATED = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[LocalMachines]:
    backend = LocalMachines(tmp_path / "machines")
    yield backend
    await backend.close()


@pytest.fixture
async def prober() -> AsyncIterator[NodeProber]:
    ssh = CONFIG.ssh.model_copy(update={"port": SSH_PORT})
    async with node_session() as session:
        made = NodeProber(
            CONFIG.model_copy(update={"ssh": ssh}), session, SystemClock(), PlainReach()
        )
        made.use(CLIENT_KEY)
        yield made


async def pinned(prober: NodeProber, row: Node, model: Policy, on: Offer) -> Node:
    """The row once the host key is proven and pinned."""

    async def look() -> Node | None:
        try:
            key = await prober.contact(row)
        except NodeUnreachable:
            return None
        return node(model, on, row.address or "", host_key=key, nonce=None)

    return await until(look)


async def proven(prober: NodeProber, row: Node, model: Policy, on: Offer | None) -> Proven:
    """What verification says in the end."""

    async def look() -> Proven | None:
        seen = await prober.verify(row, model, on)
        return seen if isinstance(seen, Proven) else None

    return await until(look)


def token_file(directory: Path) -> str:
    path = directory / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return str(path)


async def test_a_token_reaches_the_server_over_ssh_and_is_seen_nowhere_else(
    machines: LocalMachines, prober: NodeProber, tmp_path: Path
) -> None:
    model = policy(model=GATED, server={"token_file": token_file(tmp_path)})
    on = offer()
    vm = machine(script(model, on).text, on)
    await machines.boot(vm, 0.05)

    row = await pinned(prober, node(model, on, vm.address), model, on)
    seen = await proven(prober, row, model, on)
    said = await prober.diagnostics(row, model)

    assert seen.tokens_per_s is not None
    root = tmp_path / "machines" / vm.vm_id
    holders = [p for p in root.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert holders == [root / "run/autoscaler/secrets/hub_token"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    assert "== startup log" in said
    assert TOKEN not in said


async def test_the_first_node_pins_the_image_of_those_that_follow(
    machines: LocalMachines, prober: NodeProber
) -> None:
    model, on = policy("sglang"), offer()
    tagged = server_image(model, on).image
    assert tagged is not None
    prober.pins = ImagePins(Kept())
    vm = machine(script(model, on).text, on)
    await machines.boot(vm, 0.05)

    row = await pinned(prober, node(model, on, vm.address), model, on)
    await proven(prober, row, model, on)

    (digest,) = prober.pins.known.values()
    text = script(model, on, pins=prober.pins.known).text
    assert f"IMAGE='{tagged}@sha256:{digest}'" in text


async def test_a_ready_node_that_booted_again_gets_its_token_again(
    machines: LocalMachines, prober: NodeProber, tmp_path: Path
) -> None:
    model = policy(model=GATED, server={"token_file": token_file(tmp_path)})
    on = offer()
    vm = machine(script(model, on).text, on)
    await machines.boot(vm, 0.05)
    row = await pinned(prober, node(model, on, vm.address), model, on)
    await proven(prober, row, model, on)

    await machines.kill(vm.vm_id)
    ailing = await prober.ailment(row, model)
    await machines.boot(vm, 0.05)

    async def well() -> bool | None:
        return await prober.ailment(row, model) is None or None

    await until(well)
    assert ailing is not None
    assert "ssh: " in ailing.what
    assert not ailing.reached
    assert (tmp_path / "machines" / vm.vm_id / "run/autoscaler/secrets/hub_token").exists()


async def test_a_token_that_others_may_read_is_not_sent_and_the_stage_says_so(
    machines: LocalMachines, prober: NodeProber, tmp_path: Path
) -> None:
    model = policy(model=GATED, server={"token_file": token_file(tmp_path)})
    (tmp_path / "token").chmod(0o644)
    on = offer()
    vm = machine(script(model, on).text, on)
    await machines.boot(vm, 0.05)

    row = await pinned(prober, node(model, on, vm.address), model, on)
    seen = await prober.verify(row, model, on)

    assert isinstance(seen, Coming)
    assert "chmod 0600" in seen.stage


async def test_a_host_whose_key_changed_after_the_pin_is_sent_nothing(
    machines: LocalMachines, prober: NodeProber, tmp_path: Path
) -> None:
    model, on = policy(), offer()
    vm = machine(script(model, on).text, on, boot_faults=frozenset({"host_key_changed"}))
    proof = tmp_path / "machines" / vm.vm_id / "run/autoscaler/host_key_proof"
    await machines.boot(vm, 0.05)

    async def look() -> bool | None:
        return proof.exists() or None

    await until(look)
    row = await pinned(prober, node(model, on, vm.address), model, on)

    with pytest.raises(HostKeyMismatch, match="after the pin"):
        await prober.verify(row, model, on)
    assert "after the pin" in await prober.diagnostics(row, model)


async def test_a_script_that_cannot_go_on_fails_with_the_end_of_its_log(
    machines: LocalMachines, prober: NodeProber
) -> None:
    model, on = policy(), offer()
    vm = machine(script(model, on).text, on, boot_faults=frozenset({"script_exits_1"}))
    await machines.boot(vm, 0.05)

    row = await pinned(prober, node(model, on, vm.address), model, on)

    with pytest.raises(VerificationFailed, match=r"(?s)stage docker: .*last lines of its log"):
        await proven(prober, row, model, on)


async def test_a_ready_node_ails_from_the_moment_its_servers_stop(
    machines: LocalMachines, prober: NodeProber
) -> None:
    model, on = policy(), offer()
    vm = machine(script(model, on).text, on)
    await machines.boot(vm, 0.05)
    row = await pinned(prober, node(model, on, vm.address), model, on)
    # the market may have stopped listing the offer since it was ordered
    await proven(prober, row, model, None)

    well, held = await prober.ailment(row, model), await prober.in_flight(row, model)
    await machines.kill(vm.vm_id)

    assert well is None
    assert held == 0
    assert await prober.ailment(row, model) is not None
    assert await prober.in_flight(row, model) is None
    assert NONCE not in await prober.diagnostics(row, model)
