"""A gateway for one trial alone, on loopback: a process of its own that ends with it."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from autoscaler.errors import ConfigError

_START_S = 30.0
_PR_SET_PDEATHSIG = 1


@asynccontextmanager
async def own_gateway(directory: Path, port: int) -> AsyncIterator[None]:
    """A gateway for this trial alone, on loopback."""
    control = directory / "gateway.sock"
    control.unlink(missing_ok=True)
    (directory / "gateway.json").unlink(missing_ok=True)
    with (directory / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "autoscaler", "gateway", "--listen", f"127.0.0.1:{port}",
            "--control", str(control), "--state", str(directory / "gateway.json"),
            "--drain-timeout", "1",
            cwd=directory, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            # its own session: Ctrl-C reaches the trial alone, which ends its parts in order
            start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
    try:
        await _is_up(control, process, directory / "gateway.log")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _is_up(control: Path, process: asyncio.subprocess.Process, log: Path) -> None:
    for _ in range(int(_START_S / 0.05)):
        if control.exists():  # noqa: ASYNC240  # one stat of a local file
            return
        if process.returncode is not None:
            break
        await asyncio.sleep(0.05)
    said = log.read_text(errors="replace")[-1000:]  # noqa: ASYNC240  # nothing else runs yet
    raise ConfigError(f"the trial's own gateway did not come up: {said}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
