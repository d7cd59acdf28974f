"""Run as a confined program: says what is refused to it, then uses every compiled wheel, a word for each."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import sqlite3
import tempfile
from pathlib import Path


def say_what_is_refused() -> None:
    """The confinement must be in force, or the rest proves nothing."""
    try:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except PermissionError:
        print("no-wx")
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    except PermissionError:
        print("no-netlink")
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 5)
    except PermissionError:
        print("no-resources")


async def work(folder: Path) -> None:
    import aiohttp
    import asyncssh
    import orjson
    from aiohttp import web
    from watchfiles import awatch

    import autoscaler.cli.app
    import autoscaler.daemon
    from autoscaler.decide.program import Program, Row, Variable, solve
    from autoscaler.store.sqlite import SqliteStore

    assert autoscaler.cli.app.app.info.name == "autoscaler"
    print("loop")

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps({"path": request.path}))

    server = web.Application()
    server.router.add_get("/x", answer)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}/x") as got,
    ):
        assert orjson.loads(await got.read()) == {"path": "/x"}
    await runner.cleanup()
    print("http")

    key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.listen("127.0.0.1", 0, server_host_keys=[key], config=None)
    async with asyncio.timeout(20):
        shown = await asyncssh.get_server_host_key("127.0.0.1", listener.get_port(), config=None)
    assert shown is not None
    assert shown.export_public_key() == key.export_public_key()
    listener.close()
    await listener.wait_closed()
    print("ssh")

    program = Program(
        variables=(Variable("a", 3.0, 0, 10), Variable("b", 2.0, 0, 10)),
        rows=(Row("enough", ((0, 2.0), (1, 1.0)), 3.0),),
    )
    assert program.cost(solve(program)) == 5.0
    print("solver")

    async def touch() -> None:
        while True:
            (folder / "policy.toml").write_text("x")
            await asyncio.sleep(0.05)

    touching = asyncio.create_task(touch())
    async with asyncio.timeout(20):
        async for _ in awatch(folder, debounce=50, step=10):
            break
    touching.cancel()
    print("watch")

    store = SqliteStore.open(folder / "store.db")
    await store.set_meta("a", "b")
    assert await store.meta("a") == "b"
    await store.close()
    assert sqlite3.sqlite_version
    print("store")


def main() -> None:
    say_what_is_refused()
    import uvloop

    with (
        tempfile.TemporaryDirectory() as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(work(Path(name)))


if __name__ == "__main__":
    main()
