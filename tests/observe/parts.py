"""Real servers to measure: llama.cpp, HAProxy and Prometheus, each a process of its own on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.world.files import free_port

DEADLINE_S = 20.0


def binary(name: str, package: str) -> str:
    """Where a program is; its absence fails the test with the command that installs it."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        pytest.fail(f"no {name} here: apt-get install {package}")
    return found


def need_llama_cpp() -> None:
    """Fail with the command that installs what the real llama.cpp server needs."""
    for module in ("xllamacpp", "gguf"):
        if importlib.util.find_spec(module) is None:
            pytest.fail(f"no {module} here: pip install -e '.[demo]'")


@contextlib.asynccontextmanager
async def process(*command: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program until the block ends."""
    with log.open("wb") as out:
        running = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out)
        try:
            yield running
        finally:
            if running.returncode is None:
                running.terminate()
                try:
                    async with asyncio.timeout(5):
                        await running.wait()
                except TimeoutError:
                    running.kill()
                    await running.wait()


async def until(condition: Callable[[], Awaitable[bool]], log: Path | None = None) -> None:
    """Ask again and again until it is so; the program's log is the failure's text."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not await condition():
        if loop.time() > deadline:
            pytest.fail(_tail(log) if log else "it never came to be")
        await asyncio.sleep(0.02)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether a GET is answered 200."""
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@contextlib.asynccontextmanager
async def llama_cpp(folder: Path, session: aiohttp.ClientSession) -> AsyncIterator[str]:
    """The real llama.cpp server with two slots and a tiny random model; its url."""
    need_llama_cpp()
    port, log = free_port(), folder / "llama.log"
    command = (
        *(sys.executable, "-m", "autoscaler.emulator.engine", "--real-llama-cpp"),
        *("--dialect", "llama.cpp", "--address", "127.0.0.1", "--port", str(port)),
        *("-m", "m", "--alias", "m", "--parallel", "2", "--ctx-size", "4096", "--metrics"),
    )
    async with process(*command, log=log):
        url = f"http://127.0.0.1:{port}"
        await until(lambda: answers(session, f"{url}/health"), log)
        yield url


@contextlib.asynccontextmanager
async def haproxy(folder: Path, *lines: str) -> AsyncIterator[tuple[str, Path]]:
    """HAProxy with one backend `m` of these lines; its url, its page at /metrics there, and its socket."""
    port, path, config = free_port(), folder / "haproxy.sock", folder / "haproxy.cfg"
    config.write_text(
        "\n".join(
            (
                "global",
                f"    stats socket {path} level admin",
                "defaults",
                "    mode http",
                "    timeout connect 2s",
                "    timeout client 1m",
                "    timeout server 1m",
                "    timeout queue 1m",
                "frontend models",
                f"    bind 127.0.0.1:{port}",
                "    http-request use-service prometheus-exporter if { path /metrics }",
                "    default_backend m",
                "backend m",
                *(f"    {line}" for line in lines),
                "",
            )
        )
    )
    log = folder / "haproxy.log"
    async with process(binary("haproxy", "haproxy"), "-f", str(config), log=log):

        async def is_up() -> bool:
            try:
                _, writer = await asyncio.open_unix_connection(str(path))
            except OSError:
                return False
            writer.close()
            return True

        await until(is_up, log)
        yield f"http://127.0.0.1:{port}", path


@contextlib.asynccontextmanager
async def prometheus(
    folder: Path, session: aiohttp.ClientSession, *targets: str
) -> AsyncIterator[str]:
    """A Prometheus that scrapes these urls' /metrics every 0.4 s; its url."""
    port, config, log = free_port(), folder / "prometheus.yml", folder / "prometheus.log"
    addresses = ", ".join(f"'{target.removeprefix('http://')}'" for target in targets)
    config.write_text(
        "global: {scrape_interval: 400ms, scrape_timeout: 400ms}\n"
        f"scrape_configs: [{{job_name: nodes, static_configs: [{{targets: [{addresses}]}}]}}]\n"
    )
    command = (
        binary("prometheus", "prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    async with process(*command, log=log):
        url = f"http://127.0.0.1:{port}"
        await until(lambda: answers(session, f"{url}/-/ready"), log)
        yield url
