"""The way to nodes: with `reach = "tls"` every byte to a model server goes over a connection that was verified."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from autoscaler.tls_words import trusting
from tests.e2e.conftest import Build
from tests.e2e.world import World

pytestmark = pytest.mark.e2e


async def test_requests_checks_and_figures_go_over_tls_that_is_verified(world: Build) -> None:
    there = await world(
        config={"reach": "tls"},
        nodes={"min": 1, "max": 2},
        signals={
            "sources": [{"kind": "engine"}]
        },  # while none of its pages is read, capacity is held
    )
    (node,) = await there.ready()

    answers = await asyncio.gather(*(there.ask(stream=True) for _ in range(4)))

    assert all(answer.whole for answer in answers), there.logs()
    (url,) = node["endpoints"]
    assert url.startswith("https://")
    authority = (there.directory / "state" / "ca.pem").read_text()
    assert await _peer(there, url, trusting(authority)) == f"{node['name']}.autoscaler.internal"
    with pytest.raises(ssl.SSLCertVerificationError):
        await _peer(there, url, ssl.create_default_context())
    await there.until(lambda: _engine_is_read(there), "the engine's page is read over TLS")
    (target,) = await there.get("/sd")
    assert target["labels"]["__scheme__"] == "https"


async def test_a_nodes_private_key_is_in_memory_alone(world: Build) -> None:
    there = await world(config={"reach": "tls"}, nodes={"min": 1, "max": 1})
    (node,) = await there.ready()

    holders = [
        path.relative_to(there.directory)
        for path in there.directory.rglob("*")
        if path.is_file() and b"PRIVATE KEY-----" in path.read_bytes()[:65536]
    ]

    ours = {"state/ca-key.pem", "state/host_authority", "state/ssh_key"}
    nodes = [str(path) for path in holders if str(path).startswith("machines/")]
    secrets = [path for path in nodes if not path.endswith("ssh_host_ed25519_key")]
    assert [path.endswith("/run/autoscaler/secrets/tls.pem") for path in secrets] == [True]
    mode = (there.directory / secrets[0]).stat().st_mode & 0o777
    assert mode == 0o600
    rest = {str(path) for path in holders if not str(path).startswith("machines/")}
    assert rest <= ours, rest
    scripts = [str(call) for call in await there.calls("create_vm")]
    assert node["name"] in str(scripts)
    assert "PRIVATE KEY" not in str(scripts)


async def test_the_warm_up_sets_out_from_the_gateway(bare: World) -> None:
    await bare.start_emulator()
    bare.config_edits = {"reach": "tls"}
    bare.write_policy(nodes={"min": 1, "max": 1})
    await bare.start_daemon()

    async def waits() -> bool:
        return any("waits for the gateway" in str(node["stage"]) for node in await bare.nodes())

    async def is_told() -> bool:
        trouble = " ".join((await bare.get("/api/v1/status"))["trouble"])
        return f"{node['name']}: waits for the gateway" in trouble

    await bare.until(waits, "a node that runs waits for the gateway")
    (node,) = await bare.nodes()
    await bare.until(is_told, "the status says so")
    assert node["state"] == "verifying"

    await bare.start_gateway()
    await bare.ready()
    assert (await bare.get("/api/v1/status"))["trouble"] == []


async def _engine_is_read(there: World) -> bool:
    return str((await there.model())["verdict"]) == "keep"


async def _peer(there: World, url: str, context: ssl.SSLContext) -> str:
    """The name in the certificate that a server shows to who trusts as `context` does."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown: Any = writer.get_extra_info("peercert")
    writer.close()
    return str(dict(shown["subjectAltName"])["DNS"])
