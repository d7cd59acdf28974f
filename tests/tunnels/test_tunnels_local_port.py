"""A local port is given back whole, whenever its owner is told to go."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from autoscaler.tunnels.local_port import LocalPort, PortTaken
from tests.world.files import free_port


async def test_a_port_whose_opening_was_cut_off_is_free_again() -> None:
    number = free_port()
    port = LocalPort(number)
    opening = asyncio.create_task(port.listen(asyncio.Protocol))
    await asyncio.sleep(0)  # it has begun, and is about to say that it listens

    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    port.close()

    with socket.socket() as other:
        other.bind(("127.0.0.1", number))
        other.listen()


async def test_a_port_on_which_another_listens_is_told_and_can_be_had_later() -> None:
    with socket.socket() as elder:
        elder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elder.bind(("127.0.0.1", free_port()))
        port = LocalPort(elder.getsockname()[1])
        elder.listen()
        with pytest.raises(PortTaken, match="ss -ltnp shows who has it"):
            await port.listen(asyncio.Protocol)

    await port.listen(asyncio.Protocol)
    assert port.is_listening
    port.close()
