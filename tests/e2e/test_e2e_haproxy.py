"""A real HAProxy in front, configured as we ship it: it forgets, it is away, it comes back, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from autoscaler.nodes.pki import make_authority
from tests.balance.far_host import HOST_KEY, KEY, RemoteHost, public
from tests.balance.parts import HaproxyProcess
from tests.balance.tls_parts import TlsServer
from tests.e2e.test_e2e_reach_tunnel import start_tunnels
from tests.e2e.world import CLOSED, World, seconds
from tests.tunnels.tunnel_parts import free_range
from tests.world.files import Table, merged

pytestmark = pytest.mark.e2e

SHIPPED_MODEL = "Qwen/Qwen3-8B"  # the one that the shipped configuration has a backend for
BACKEND = "qwen-qwen3-8b"


async def test_nodes_serve_through_haproxy_over_a_reload_and_leave_it_without_a_loss(
    cloud: World,
) -> None:
    """And HAProxy asks them over TLS, and nobody who shows another certificate."""
    async with _haproxies(cloud, "one", reach="tls") as (haproxy,):
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 0, "max": 2})
        await cloud.start_daemon()

        held = await cloud.ask(SHIPPED_MODEL, base=haproxy.url)
        assert held.whole, (held, cloud.logs())
        (node,) = await cloud.ready()
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 1, "max": 2})
        await _is_listed(cloud, haproxy, node["name"])

        await haproxy.forget()
        await _is_listed(cloud, haproxy, node["name"])
        assert node["endpoints"][0].startswith("https://")
        await _nobody_in_its_place_is_asked(cloud, haproxy, node)
        passed = await asyncio.gather(
            *(cloud.ask(SHIPPED_MODEL, base=haproxy.url) for _ in range(10))
        )
        assert all(answer.whole for answer in passed)

        streams = await cloud.streams(4, tokens=500, base=haproxy.url, model=SHIPPED_MODEL)
        assert (await cloud.command("retire", SHIPPED_MODEL, "--yes")).code == 0
        answers = await asyncio.gather(*streams)
        assert [(a.whole, a.tokens) for a in answers] == [(True, 500)] * 4, answers
        await cloud.is_empty()
        assert node["name"] not in await _servers(haproxy)


async def test_streams_through_haproxy_and_a_tunnel_outlive_the_daemon(cloud: World) -> None:
    async with _haproxies(cloud, "one") as (haproxy,):
        cloud.config_edits = merged(cloud.config_edits, {"reach": "tunnel"})
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 1, "max": 2})
        await cloud.start_daemon()
        first = free_range(8)
        await start_tunnels(cloud, f"{first}-{first + 7}")
        (node,) = await cloud.ready()
        await _is_listed(cloud, haproxy, node["name"])

        streams = await cloud.streams(8, tokens=200, base=haproxy.url, model=SHIPPED_MODEL)
        await cloud.end("daemon", signal.SIGKILL)
        answers = await asyncio.gather(*streams)

        assert node["endpoints"][0].startswith("http://127.0.0.1:")
        assert all(answer.whole for answer in answers), (answers, cloud.logs())


async def test_while_haproxy_is_down_nothing_is_drained_and_a_launch_waits_until_it_is_back(
    cloud: World,
) -> None:
    # shorter than what passes below: the only way in is waited for, however long it is away
    patience = {"balancer_grace": "200ms", "balancer_absent_after": "500ms"}
    async with _haproxies(cloud, "one", timings=patience) as (haproxy,):
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 1, "max": 2})
        await cloud.start_daemon()
        (first,) = await cloud.ready()
        await _is_listed(cloud, haproxy, first["name"])

        await haproxy.stop()
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 0, "max": 0})
        await cloud.until(lambda: _says(cloud, "is kept for now: the balancer one"), "it is kept")
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 2, "max": 2})
        second = await _waits_for_haproxy(cloud, first["name"])
        assert [n["name"] for n in await cloud.nodes("ready")] == [first["name"]]
        assert await cloud.nodes("draining", "failed", "terminating", "gone") == []
        assert await cloud.calls("delete_vm") == []
        assert "autoscaler_absent_balancers 1.0" in await cloud.metrics()
        trouble = " ".join((await cloud.get("/api/v1/status"))["trouble"])
        assert f"HAProxy cannot be asked on {haproxy.socket_path}" in trouble

        await haproxy.start()
        answers = [await cloud.ask(SHIPPED_MODEL, base=haproxy.url) for _ in range(5)]
        for name in (first["name"], second):
            await _is_listed(cloud, haproxy, name)
        await cloud.ready(2)
        streams = await cloud.streams(4, tokens=100, base=haproxy.url, model=SHIPPED_MODEL)
        answers += await asyncio.gather(*streams)
        assert all(answer.whole for answer in answers), (answers, cloud.logs())

        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 0, "max": 0})
        await cloud.is_empty()


async def test_with_one_of_two_haproxies_away_scale_out_goes_on_and_scale_in_after_a_while(
    cloud: World,
) -> None:
    """And one of them is on another host, driven over SSH."""
    patience = {"balancer_grace": "500ms", "balancer_absent_after": "3s"}
    async with (
        _haproxies(cloud, "one", "two", timings=patience) as (one, two),
        _on_another_host(cloud) as far,
    ):
        cloud.config_edits = _with_ssh(cloud.config_edits, far)
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 1, "max": 2})
        await cloud.start_daemon()
        (first,) = await cloud.ready()
        await _is_listed(cloud, two, first["name"])

        two.hide()
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 2, "max": 2})
        nodes = await cloud.ready(2)
        answers = [await cloud.ask(SHIPPED_MODEL, base=one.url) for _ in range(4)]
        cloud.write_policy(model=SHIPPED_MODEL, nodes={"min": 1, "max": 1})
        await cloud.until(lambda: _is_left(cloud, 1), "one node is given back")
        (kept,) = await cloud.nodes("ready")
        (left,) = [node["name"] for node in nodes if node["name"] != kept["name"]]
        (drained,) = [e for e in await cloud.events(node=left) if e["state"] == "draining"]
        assert seconds(drained["at"]) - _absent_since(cloud, "two") >= 2.9  # clocks are rounded

        two.show()
        await _is_listed(cloud, two, kept["name"])
        await cloud.until(lambda: _forgot(two, left), "HAProxy two forgets the node that is gone")
        answers += [await cloud.ask(SHIPPED_MODEL, base=two.url) for _ in range(4)]
        assert all(answer.whole for answer in answers), (answers, cloud.logs())
        assert {answer.node for answer in answers[4:]} == {""}  # not by way of the activator
        assert str(two.socket_path) in far.asked


async def _nobody_in_its_place_is_asked(
    there: World, haproxy: HaproxyProcess, node: dict[str, Any]
) -> None:
    """Lead HAProxy to a server with a certificate of another authority; the next daemon leads it back."""
    now = datetime.now(UTC)
    host_name = f"{node['name']}.autoscaler.internal"
    await there.end("daemon", signal.SIGKILL)
    with TlsServer.of(make_authority(now), host_name, now) as thief:
        host, _, port = thief.url.removeprefix("https://").rpartition(":")
        await _tell(haproxy, f"set server {BACKEND}/as-{node['name']} addr {host} port {port}")

        async def is_met() -> bool:
            answer = await there.ask(SHIPPED_MODEL, base=haproxy.url)
            return answer.whole and thief.met > 1

        await there.until(is_met, "HAProxy tries the server in the node's place")
        await there.start_daemon()
        right = node["endpoints"][0].removeprefix("https://")
        await there.until(lambda: _leads_to(haproxy, node["name"], right), "it is led back")
        assert thief.served == 0


@asynccontextmanager
async def _on_another_host(there: World) -> AsyncIterator[RemoteHost]:
    """An SSH server, and the key that it lets in as a file."""
    key = there.directory / "haproxy_key"
    key.touch(mode=0o600)
    key.write_bytes(KEY.export_private_key("openssh"))
    host = RemoteHost()
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


def _with_ssh(edits: Table, host: RemoteHost) -> Table:
    """The last HAProxy of the config on that host."""
    *others, last = edits["haproxy"]
    far = {
        "ssh": f"autoscaler@127.0.0.1:{host.port}",
        "ssh_host_key": public(HOST_KEY),
        "ssh_key_file": "haproxy_key",
    }
    return {**edits, "haproxy": [*others, {**last, **far}]}


async def _is_left(there: World, count: int) -> bool:
    open_nodes = [node for node in await there.nodes() if node["state"] not in CLOSED]
    return len(open_nodes) == count


def _absent_since(there: World, balancer: str) -> float:
    """When the daemon last began to miss a balancer; what was under way just then may have ended well."""
    lines = [json.loads(line) for line in there.log_of("daemon").splitlines() if line[:1] == "{"]
    return max(
        seconds(line["timestamp"])
        for line in lines
        if line.get("event") == "balancer_absent" and line["balancer"] == balancer
    )


async def _forgot(haproxy: HaproxyProcess, name: str) -> bool:
    return name not in await _servers(haproxy)


async def _waits_for_haproxy(there: World, but: str) -> str:
    """Wait until another node is verified, and waits for the balancer for several steps; its name."""

    async def waits() -> bool:
        return any(
            node["name"] != but and "one does not answer" in (node["stage"] or "")
            for node in await there.nodes("verifying")
        )

    await there.until(waits, "a verified node waits for HAProxy")
    (node,) = await there.nodes("verifying")
    return str(node["name"])


async def _says(there: World, words: str) -> bool:
    """Whether the plan that would be carried out now says so."""
    return words in str(await there.get(f"/api/v1/plan?model={SHIPPED_MODEL}"))


@asynccontextmanager
async def _haproxies(
    there: World, *names: str, **edits: Any
) -> AsyncIterator[list[HaproxyProcess]]:
    """Start real HAProxies as the balancers of a world's daemon."""
    processes = []
    try:
        for name in names:
            folder = there.directory / name
            folder.mkdir()
            process = HaproxyProcess(folder, there.gateway)
            processes.append(process)
            await process.start()
        there.config_edits = {
            "balancer": "haproxy",
            "haproxy": [
                {
                    "name": name,
                    "socket": str(process.socket_path),
                    "master_socket": str(process.master_path),
                }
                for name, process in zip(names, processes, strict=True)
            ],
            **edits,
        }
        yield processes
    finally:
        for process in processes:
            await process.stop()


async def _is_listed(there: World, haproxy: HaproxyProcess, name: str) -> None:
    async def listed() -> bool:
        return name in await _servers(haproxy)

    await there.until(listed, f"HAProxy has {name}")


async def _leads_to(haproxy: HaproxyProcess, name: str, address: str) -> bool:
    lines = [line.split() for line in (await _servers(haproxy)).splitlines() if name in line]
    return [f"{line[4]}:{line[18]}" for line in lines] == [address]


async def _servers(haproxy: HaproxyProcess) -> str:
    return await _tell(haproxy, "show servers state")


async def _tell(haproxy: HaproxyProcess, command: str) -> str:
    reader, writer = await asyncio.open_unix_connection(str(haproxy.socket_path))
    writer.write(f"{command}\n".encode())
    await writer.drain()
    text = (await reader.read()).decode()
    writer.close()
    return text
