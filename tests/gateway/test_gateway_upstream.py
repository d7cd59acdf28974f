"""Connections to nodes that are kept between two requests."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator

import pytest

from autoscaler.gateway import upstream
from autoscaler.gateway.upstream import Upstreams

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.settimeout(10)
        yield opened


async def _served_once(upstreams: Upstreams, listener: socket.socket) -> tuple[str, socket.socket]:
    """A node that has answered one request and kept the connection."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    connection = await upstreams.connect(url, 5.0)
    node, _ = listener.accept()
    head = connection.send(b"POST / HTTP/1.1\r\n\r\n", 5.0)
    node.sendall(_ANSWER)
    await asyncio.wait_for(head, 5.0)
    connection.take_early()
    await asyncio.wait_for(connection.stream_to(lambda data: None), 5.0)
    upstreams.give_back(url, connection)
    return url, node


async def test_a_kept_connection_serves_again_once_it_has_lasted_a_moment(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "_SETTLED_S", 3600.0)
    upstreams = Upstreams(asyncio.get_running_loop(), 7200.0)
    url, node = await _served_once(upstreams, listener)
    with node:
        assert upstreams.reuse(url) is None  # some servers end it right after the answer
        monkeypatch.setattr(upstream, "_SETTLED_S", 0.0)
        assert upstreams.reuse(url) is not None
    upstreams.close()


async def test_a_connection_whose_end_the_loop_has_not_heard_of_takes_no_request(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "_SETTLED_S", 0.0)
    upstreams = Upstreams(asyncio.get_running_loop(), 60.0)
    url, node = await _served_once(upstreams, listener)
    [kept] = upstreams._idle[url]
    assert kept._transport is not None
    own = kept._transport.get_extra_info("socket").fileno()

    node.close()
    poller = select.poll()
    poller.register(own, select.POLLIN)
    assert poller.poll(10_000)  # the end has come, and this loop has not run since

    assert kept.is_usable
    assert upstreams.reuse(url) is None
    upstreams.close()
