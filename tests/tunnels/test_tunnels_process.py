"""The process of tunnels: what it is told, what outlives it, and how it ends."""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from autoscaler.errors import ConfigError, ReachUnavailable
from autoscaler.nodes.tunnel_client import TunnelClient
from autoscaler.tunnels.values import TunnelsSettings
from tests.tunnels.conftest import Connect, Start
from tests.tunnels.tunnel_parts import HERE, Node, until

FIELDS = ("id", "address", "port", "user", "host_key", "remote_port", "local_port")


async def test_the_same_tunnel_put_twice_is_one_on_one_port(node: Node, start: Start) -> None:
    running = await start()

    first = await running.client.put(node.wish())
    second = await running.client.put(node.wish())

    assert first.local_port == second.local_port
    assert list(await running.client.listing()) == ["n1"]


async def test_a_tunnel_of_its_id_to_elsewhere_makes_way(node: Node, start: Start) -> None:
    running = await start()
    await running.client.put(node.wish())

    await running.client.put(node.wish(remote_port=9))

    assert (await running.client.listing())["n1"].remote_port == 9


async def test_a_tunnel_that_is_removed_cuts_its_streams_and_gives_its_ssh_connection_back(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")
    client = await connect(tunnel.local_port)
    await client.says(b"x", hears=b"hello x")

    await running.client.remove("n1")
    await running.client.remove("n1")

    assert not await running.client.listing()
    with pytest.raises(ConnectionResetError):
        await client.rest()

    async def is_logged_out() -> bool | None:
        return not node.connections or None

    await until(is_logged_out, "the SSH connection is closed")


async def test_two_replicas_of_a_node_share_its_connection_and_each_has_a_port(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()

    first = await running.client.put(node.wish("n1"))
    second = await running.client.put(node.wish("n1.1"))
    await running.in_state("up", "n1")
    await running.in_state("up", "n1.1")

    assert first.local_port != second.local_port
    assert node.logins == 1
    await running.client.remove("n1")
    client = await connect(second.local_port)
    await client.says(b"x", hears=b"hello x")


async def test_a_restart_leads_on_at_the_same_ports_with_no_daemon_around(
    node: Node, start: Start, connect: Connect
) -> None:
    before = await start()
    ports = {name: (await before.client.put(node.wish(name))).local_port for name in ("n1", "n1.1")}
    await before.in_state("up")
    await before.kill()

    after = await start()

    assert {name: t.local_port for name, t in (await after.client.listing()).items()} == ports
    await after.in_state("up")
    client = await connect(ports["n1"])
    await client.says(b"x", hears=b"hello x")


async def test_a_state_file_that_cannot_be_read_is_set_aside_and_the_daemon_tells_anew(
    node: Node, start: Start, settings: TunnelsSettings
) -> None:
    assert settings.state_file is not None
    settings.state_file.write_text('{"tunnels": [{"id": 1')

    running = await start()

    assert not await running.client.listing()
    assert list(settings.state_file.parent.glob("tunnels.json.bad-*"))
    told = await running.client.put(node.wish(local_port=settings.last_port))
    assert told.local_port == settings.last_port


async def test_a_port_that_somebody_else_took_meanwhile_is_another_one(
    node: Node, start: Start, settings: TunnelsSettings
) -> None:
    running = await start()
    with socket.socket() as other:
        other.bind((HERE, settings.first_port))
        other.listen()

        told = await running.client.put(node.wish(local_port=settings.first_port))

    assert settings.first_port < told.local_port <= settings.last_port


async def test_more_tunnels_than_ports_are_refused_with_what_to_do(
    node: Node, start: Start, settings: TunnelsSettings
) -> None:
    running = await start(last_port=settings.first_port)
    await running.client.put(node.wish("n1"))

    with pytest.raises(ReachUnavailable, match="--ports"):
        await running.client.put(node.wish("n2"))


async def test_a_port_is_reserved_while_its_tunnel_does_not_stand(node: Node, start: Start) -> None:
    running = await start()
    await node.server.stop()
    tunnel = await running.client.put(node.wish())
    await running.in_state("down")

    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind((HERE, tunnel.local_port))


async def test_told_to_stop_it_refuses_new_streams_and_lets_open_ones_end(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")
    client = await connect(tunnel.local_port)
    await client.says(b"x", hears=b"hello x")

    running.process.stop()

    await running.in_state("down", why="ending")
    with pytest.raises(ConnectionRefusedError):
        await connect(tunnel.local_port)
    await client.says(b"y", hears=b"y")
    await client.close()
    await running.ended()


async def test_told_twice_it_waits_no_longer(node: Node, start: Start, connect: Connect) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")
    client = await connect(tunnel.local_port)
    await client.says(b"x", hears=b"hello x")

    running.process.stop()
    running.process.stop()
    await running.ended()

    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_the_control_socket_is_ours_alone_and_one_process_serves_it(
    start: Start, settings: TunnelsSettings
) -> None:
    await start()

    assert settings.control.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match=f"already serves {settings.control}"):
        await start()


async def test_a_key_that_others_may_read_is_refused(
    start: Start, settings: TunnelsSettings
) -> None:
    settings.key_file.chmod(0o644)

    with pytest.raises(ConfigError, match="chmod 600"):
        await start()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("address", "node.example", "IP address"),
        ("address", "169.254.169.254", "link-local"),
        ("host_key", "ssh-rsa AAAA", "ssh-ed25519"),
        ("host_key", "ssh-ed25519 AAAA", "not a public key"),
        ("remote_port", 0, "greater than or equal to 1"),
        ("user", "root; reboot", "pattern"),
        ("surprise", 1, "Extra inputs"),
    ],
)
async def test_a_wrong_tunnel_is_refused_by_the_name_of_its_field(
    field: str, value: object, said: str, node: Node, start: Start, settings: TunnelsSettings
) -> None:
    await start()
    wish = node.wish()
    body = {name: getattr(wish, name) for name in FIELDS} | {field: value}

    connector = aiohttp.UnixConnector(str(settings.control))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post("http://tunnels/v1/tunnels/put", json=body) as answer,
    ):
        status, text = answer.status, await answer.text()

    assert status == 400
    assert field in json.loads(text)["error"]["message"]
    assert said in text


async def test_no_process_is_said_with_the_unit_to_start(folder: Path, node: Node) -> None:
    with pytest.raises(ReachUnavailable, match="systemctl start autoscaler-tunnels"):
        await TunnelClient(folder / "tunnels.sock").listing()


async def test_a_process_that_does_not_answer_is_given_up_in_time(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(folder / "mute.sock"))
        mute.listen()
        client = TunnelClient(folder / "mute.sock", timedelta(milliseconds=100))

        with pytest.raises(ReachUnavailable, match="did not answer"):
            async with asyncio.timeout(20):
                await client.listing()
