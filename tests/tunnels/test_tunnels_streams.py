"""Streams through a tunnel, and what becomes of them when something on the way ends."""

from __future__ import annotations

import asyncio

import asyncssh
import pytest

from tests.tunnels.conftest import Connect, Start
from tests.tunnels.tunnel_parts import Client, Node, Wire, public, until


async def test_bytes_go_both_ways_and_each_connection_is_a_way_of_its_own(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")

    first = await connect(tunnel.local_port)
    second = await connect(tunnel.local_port)
    await first.says(b"one", hears=b"hello one")
    await second.says(b"two", hears=b"hello two")

    assert (await running.client.listing())["n1"].streams == 2
    assert node.logins == 1  # one SSH connection carries both
    await first.close()
    await second.close()
    await second.close()

    async def are_over() -> bool | None:
        return not (await running.client.listing())["n1"].streams or None

    await until(are_over, "both streams have ended")


async def test_each_connection_begins_a_session_so_that_sshd_sends_each_token_at_once(
    node: Node, start: Start
) -> None:
    running = await start()
    await running.client.put(node.wish("n1"))
    await running.client.put(node.wish("n1.1"))
    await running.in_state("up", "n1")  # although this node lets nobody run anything
    await running.in_state("up", "n1.1")

    assert node.sessions == 1


async def test_a_large_answer_waits_for_a_slow_client_and_arrives_whole(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")
    sent = bytes(range(256)) * 4096 * 12  # 12 MiB: more than every buffer on the way together

    client = await connect(tunnel.local_port)
    await client.says(b"", hears=b"hello ")
    writing = asyncio.create_task(_write_all(client, sent))
    received = bytearray()
    while len(received) < len(sent):
        received += await client.reader.read(100_000)
    await writing

    assert received == sent


async def _write_all(client: Client, data: bytes) -> None:
    client.writer.write(data)
    await client.writer.drain()
    client.writer.write_eof()


async def test_what_the_client_ended_is_still_answered(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")

    client = await connect(tunnel.local_port)
    client.writer.write(b"the end")
    client.writer.write_eof()

    assert await client.rest() == b"hello the end"


async def test_a_client_that_goes_ends_its_request_at_the_node(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")
    client = await connect(tunnel.local_port)
    await client.says(b"x", hears=b"hello x")
    ended = node.server.ended

    client.writer.transport.abort()

    async def is_over() -> bool | None:
        return node.server.ended > ended or None

    await until(is_over, "the model server sees the end")


async def test_a_node_that_is_cut_off_resets_its_streams_and_leaves_no_clean_end(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")
    client = await connect(tunnel.local_port)
    await client.says(b"x", hears=b"hello x")

    node.cut()

    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_port_whose_node_is_away_refuses_at_once_and_takes_again_when_it_is_back(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")

    node.cut()
    await running.in_state("connecting")
    with pytest.raises(ConnectionRefusedError):
        await connect(tunnel.local_port)
    await node.listen()
    back = await running.in_state("up")

    assert back.local_port == tunnel.local_port
    client = await connect(back.local_port)
    await client.says(b"again", hears=b"hello again")


async def test_while_the_model_server_loads_its_port_refuses_and_says_that_ssh_works(
    node: Node, start: Start, connect: Connect
) -> None:
    await node.server.stop()
    running = await start()

    tunnel = await running.client.put(node.wish())

    down = await running.in_state("down")
    assert f"SSH works, port {node.server.port} on the node does not answer" in down.why
    with pytest.raises(ConnectionRefusedError):
        await connect(tunnel.local_port)
    await node.server.listen()
    await running.in_state("up")


async def test_the_first_who_meets_a_dead_server_spares_the_others(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")

    await node.server.stop()
    first = await connect(tunnel.local_port)
    with pytest.raises(ConnectionResetError):
        await first.rest()

    await running.in_state("down", why="SSH works")
    with pytest.raises(ConnectionRefusedError):
        await connect(tunnel.local_port)


async def test_a_node_that_opens_no_way_is_given_up_in_time(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start(open_timeout_s=0.2)
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")

    node.opens.clear()
    client = await connect(tunnel.local_port)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await running.in_state("down", why="within 0.2 s")

    node.opens.set()
    await running.in_state("up")
    assert node.logins == 1  # the connection itself was never at fault


async def test_a_node_that_falls_silent_is_given_up_and_its_streams_with_it(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start(keepalive_s=0.2)
    async with Wire(node).laid() as wire:
        tunnel = await running.client.put(node.wish(port=wire.port))
        await running.in_state("up")
        client = await connect(tunnel.local_port)
        await client.says(b"x", hears=b"hello x")

        wire.is_silent = True

        with pytest.raises(ConnectionResetError):
            await client.rest()
        await running.in_state("connecting")
        wire.is_silent = False
        await running.in_state("up")


async def test_another_host_key_than_the_proven_one_is_never_led_to(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start()
    other = public(asyncssh.generate_private_key("ssh-ed25519"))

    tunnel = await running.client.put(node.wish(host_key=other))

    refused = await running.in_state("connecting", why="another host key")
    assert "nothing was sent" in refused.why
    assert node.logins == 0
    with pytest.raises(ConnectionRefusedError):
        await connect(tunnel.local_port)


async def test_one_stream_more_than_a_tunnel_may_have_is_reset(
    node: Node, start: Start, connect: Connect
) -> None:
    running = await start(max_streams=1)
    tunnel = await running.client.put(node.wish())
    await running.in_state("up")
    kept = await connect(tunnel.local_port)
    await kept.says(b"x", hears=b"hello x")

    surplus = await connect(tunnel.local_port)
    with pytest.raises(ConnectionResetError):
        await surplus.rest()

    await kept.says(b"y", hears=b"y")
