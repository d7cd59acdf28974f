"""Whoever waits for SSH can be stopped at any moment: the daemon's end depends on it."""

from __future__ import annotations

import asyncio
import random
import time

import asyncssh

from autoscaler.nodes.hostkey import normal_form
from autoscaler.nodes.ssh import SshAccess


class _Anybody(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


async def test_a_session_that_is_cancelled_at_any_moment_is_never_finished_instead() -> None:
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[host_key], server_factory=_Anybody
    )
    port = server.sockets[0].getsockname()[1]
    access = SshAccess(asyncssh.generate_private_key("ssh-ed25519"), "nobody", port, 30.0)
    pin = normal_form(host_key.export_public_key("openssh").decode())

    async def session() -> None:
        async with access.connect("127.0.0.1", pin):
            await asyncio.Event().wait()

    async def login() -> float:
        started = time.perf_counter()
        async with access.connect("127.0.0.1", pin):
            return time.perf_counter() - started

    await login()
    length_s = min(
        await login(), 0.05
    )  # a busy machine takes longer, and 200 of them would take minutes
    chance = random.Random(1)
    tasks = []
    for _ in range(200):
        task = asyncio.create_task(session())
        await asyncio.sleep(chance.random() * 1.5 * length_s)
        task.cancel()
        tasks.append(task)

    _, stuck = await asyncio.wait(tasks, timeout=60)

    for task in stuck:
        task.cancel()
    server.close()
    await server.wait_closed()
    assert not stuck, f"{len(stuck)} of {len(tasks)} sessions swallowed their cancellation"
