"""Sets the stage: emulator, gateway and daemon as processes of their own, and takes it down whatever happens."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import jinja2

from autoscaler.demo.settings import DemoSettings
from autoscaler.errors import AutoscalerError

_START_S = 30.0
_STOP_S = 15.0
_PR_SET_PDEATHSIG = 1
PARTS = ("emulator", "gateway", "run")


class DemoFailed(AutoscalerError):
    """A part of the demo did not start or broke."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where everything is.

    Attributes:
        admin: the emulator's own API.
        daemon_socket: what the demo watches through, as an operator would.
        pids: of the three processes, as `PARTS` names them.
    """

    directory: Path
    admin: str
    gateway: str
    serve: str
    daemon_socket: Path
    pids: tuple[int, ...]


@asynccontextmanager
async def stage(settings: DemoSettings, directory: Path) -> AsyncIterator[Stage]:
    """Start the three processes, and stop them at the end, in order.

    Raises:
        DemoFailed: one of them did not come up; the message has the end of its log.
    """
    processes: list[asyncio.subprocess.Process] = []
    try:
        cloud = await _start_emulator(settings, directory, processes)
        gateway, serve = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        _write_config(settings, directory, cloud, serve)
        run = directory / "run"
        run.mkdir(mode=0o700)
        await _start(
            directory, "gateway", ["gateway", "--listen", gateway, "--control", "run/gateway.sock",
                                   "--state", "state-gateway.json"], processes
        )  # fmt: skip
        await _until(run / "gateway.sock", directory, "gateway", processes[-1])
        await _start(directory, "run", ["run", "--config", "config.toml"], processes)
        await _until(run / "daemon.sock", directory, "run", processes[-1])
        yield Stage(
            directory=directory,
            admin=cloud["admin_url"],
            gateway=f"http://{gateway}",
            serve=f"http://{serve}",
            daemon_socket=run / "daemon.sock",
            pids=tuple(process.pid for process in processes),
        )
    finally:
        await asyncio.shield(_stop_all(processes))


async def _start_emulator(
    settings: DemoSettings, directory: Path, processes: list[asyncio.subprocess.Process]
) -> dict[str, Any]:
    arguments = ["emulator", "--ready-file", "cloud.json", "--access-key-file", "access-key",
                 "--time-factor", str(settings.time_factor), "--seed", str(settings.seed),
                 "--state-dir", "machines", "--engine", settings.engine]  # fmt: skip
    await _start(directory, "emulator", arguments, processes)
    await _until(directory / "cloud.json", directory, "emulator", processes[-1])
    cloud: dict[str, Any] = json.loads((directory / "cloud.json").read_text())
    return cloud


def _write_config(
    settings: DemoSettings, directory: Path, cloud: dict[str, Any], serve: str
) -> None:
    files = resources.files("autoscaler.demo")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # TOML
    text = environment.from_string(files.joinpath("config.toml.j2").read_text()).render(
        url=cloud["url"],
        project=cloud["project_id"],
        key_file=cloud["key_file"],
        ssh_port=cloud["ssh_port"],
        time_factor=settings.time_factor,
        serve=serve,
        prices_file="prices-cpu.toml" if settings.engine == "llama.cpp" else "",
    )
    (directory / "config.toml").write_text(text)
    (directory / "prices-cpu.toml").write_text(files.joinpath("prices-cpu.toml").read_text())
    (directory / "policies").mkdir()
    name = "policy.toml" if settings.engine == "emulated" else "policy-llama-cpp.toml"
    policy = files.joinpath(name).read_text()
    (directory / "policies" / "demo-chat-8b.toml").write_text(policy)


async def _start(
    directory: Path,
    name: str,
    arguments: list[str],
    processes: list[asyncio.subprocess.Process],
) -> None:
    with (directory / f"{name}.log").open("wb") as log:
        processes.append(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "autoscaler",
                *arguments,
                cwd=directory,
                stdout=log,
                stderr=log,
                # its own session: Ctrl-C reaches the demo alone, which ends the parts in order
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _until(
    path: Path, directory: Path, name: str, process: asyncio.subprocess.Process
) -> None:
    """Wait until a process has made the file that says it is up."""
    try:
        async with asyncio.timeout(_START_S):
            while not os.path.exists(path):  # noqa: ASYNC240  # one stat of a local file
                if process.returncode is not None:
                    raise DemoFailed(f"`autoscaler {name}` ended:\n{tail(directory, name)}")
                await asyncio.sleep(0.05)
    except TimeoutError as exc:
        raise DemoFailed(f"`autoscaler {name}` is not up:\n{tail(directory, name)}") from exc


def tail(directory: Path, name: str) -> str:
    """The end of a part's log."""
    return (directory / f"{name}.log").read_text(errors="replace")[-2000:]


async def _stop_all(processes: list[asyncio.subprocess.Process]) -> None:
    for process in reversed(processes):
        if process.returncode is not None:
            continue
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Admin:
    """The emulator's own API: what the demo does to its cloud, and what it bills."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(self, path: str) -> Any:  # JSON as the emulator serves it
        async with self._session.get(self._url + path) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def send(self, method: str, path: str, **body: object) -> Any:  # JSON as above
        async with self._session.request(method, self._url + path, json=body) as answer:
            answer.raise_for_status()
            return await answer.json()
