"""The process: restores its tunnels, serves its control socket, and lets open streams end when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import structlog
from aiohttp import web

from autoscaler.errors import ConfigError
from autoscaler.gateway.listen import bind_control, inherited, unlink_control
from autoscaler.gateway.notify import Notifier
from autoscaler.tunnels.control import Control
from autoscaler.tunnels.state_file import StateFile
from autoscaler.tunnels.tunnels import Tunnels
from autoscaler.tunnels.values import TunnelsSettings

log = structlog.get_logger(__name__)

_HOUSEKEEPING_S = 1.0
_KEY_BYTES = 8192


async def serve(settings: TunnelsSettings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ConfigError: the key, the socket or the state file's directory cannot be used.
    """
    process = TunnelProcess(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop)
    try:
        await process.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@dataclass(eq=False, slots=True)
class TunnelProcess:
    """One process of tunnels in this event loop."""

    settings: TunnelsSettings
    started: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Begin to end: open streams may finish. Asked a second time, cut them."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`, then drain.

        Raises:
            ConfigError: the key or the socket cannot be used.
        """
        key = read_key(self.settings.key_file)
        notifier = Notifier()
        async with contextlib.AsyncExitStack() as stack:
            sockets = self._bind(stack)
            async with asyncio.TaskGroup() as tasks:
                tunnels = Tunnels(self.settings, key, tasks)
                try:
                    state_file = StateFile(self.settings.state_file, tunnels)
                    state_file.load()
                    app = Control(tunnels, state_file).app()
                    async with _served(app, sockets):
                        log.info("tunnels_started", tunnels=len(list(tunnels)))
                        notifier.send("READY=1")
                        self.started.set()
                        keeper = tasks.create_task(_housekeep(state_file, notifier))
                        await self._stopping.wait()
                        notifier.send("STOPPING=1")
                        await self._drain(tunnels, notifier)
                        keeper.cancel()
                finally:
                    tunnels.close()
        log.info("tunnels_stopped")

    def _bind(self, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> list[socket.socket]:
        others, control = inherited()
        for opened in others:
            opened.close()
        if not control:
            path = self.settings.control
            control = [bind_control(path, 0o600)]
            stack.callback(unlink_control, path, path.stat().st_ino)
        return control

    async def _drain(self, tunnels: Tunnels, notifier: Notifier) -> None:
        tunnels.end()
        deadline = asyncio.get_running_loop().time() + self.settings.drain_timeout_s
        while streams := tunnels.streams:
            notifier.send(f"STATUS={streams} streams still run", "EXTEND_TIMEOUT_USEC=30000000")
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or self._hurry.is_set():
                log.warning("streams_cut", streams=streams)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, 0.2)):
                    await self._hurry.wait()


@contextlib.asynccontextmanager
async def _served(app: web.Application, sockets: list[socket.socket]) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        for opened in sockets:
            await web.SockSite(runner, opened).start()
        yield
    finally:
        await runner.cleanup()


async def _housekeep(state_file: StateFile, notifier: Notifier) -> None:
    """Once a second: keep the file current, feed the watchdog."""
    while True:
        try:
            if state_file.is_behind:
                await state_file.keep()
        except Exception:
            log.exception("housekeeping_failed")
        notifier.send("WATCHDOG=1")
        await asyncio.sleep(_HOUSEKEEPING_S)


def read_key(path: Path) -> asyncssh.SSHKey:
    """Read the deployment's SSH key: a credential of systemd, or a file that nobody else may read.

    Raises:
        ConfigError: with what to do about it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise ConfigError(
            f"--key-file {path}: cannot be read: {exc.strerror}; the daemon makes its key at its first start, as "
            "ssh.key_file in config.toml or <state_dir>/ssh_key"
        ) from exc
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        is_credential = path.parent == Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nowhere"))
        if facts.st_mode & 0o077 and not is_credential:
            mode = stat.S_IMODE(facts.st_mode)
            raise ConfigError(
                f"--key-file {path}: mode is {mode:04o}, others may read it: chmod 600"
            )
        content = file.read(_KEY_BYTES)
    try:
        return asyncssh.import_private_key(content)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise ConfigError(f"--key-file {path}: no private key without a passphrase") from exc
