"""The command line: `autoscaler emulator`, or `python -m autoscaler.emulator`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from autoscaler.emulator.catalogue import CatalogueInvalid, load_catalogue
from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.faults import Fault, FaultInvalid, parse_fault
from autoscaler.emulator.machines.local import LocalMachines
from autoscaler.emulator.server import (
    ListenFailed,
    check_loopback,
    claimed_block,
    parse_listen,
    serving,
)
from autoscaler.emulator.settings import Settings
from autoscaler.emulator.switches import Switches, parse_switch
from autoscaler.terminal import say_error

TEMPORARY_PREFIX = "mkinf-emulator-"
LOCK_NAME = "held"
ENGINES = ("emulated", "llama.cpp")


def emulator(
    listen: Annotated[
        str, typer.Option(help="loopback address and port, or a port; 0 is any free one")
    ] = "127.0.0.1:0",
    catalogue: Annotated[
        Path | None, typer.Option(help="TOML file of types, prices, stock, quota and images")
    ] = None,
    time_factor: Annotated[
        float, typer.Option(help="emulated seconds per real second; 60: a minute per second")
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="of delays and chances")] = 1,
    state_dir: Annotated[
        Path | None, typer.Option(help="for the machines' root directories; default: temporary")
    ] = None,
    access_key_file: Annotated[
        Path | None, typer.Option(help="read the access key from here; made if missing, 0600")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="as above, for operator@example.com; default: no sign-in")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="write url, project_id and key file here, as JSON, when up")
    ] = None,
    address_block: Annotated[
        str, typer.Option(help="where machines get addresses: a block in 127.0.0.0/8, or auto")
    ] = "auto",
    engine: Annotated[
        str, typer.Option(help="what llama.cpp's image runs: emulated, or the real llama.cpp")
    ] = "emulated",
    engine_argument: Annotated[
        list[str] | None, typer.Option(help="appended to every emulated engine's command line")
    ] = None,
    ssh_port: Annotated[int, typer.Option(help="where machines answer SSH", min=1)] = 2222,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="kind[@call][:key=value,…], as status@create_vm:code=504,after=1"),
    ] = None,
    switch: Annotated[
        list[str] | None, typer.Option(help="name=value: how an open question is answered")
    ] = None,
) -> None:
    """Run a local mkinf cloud whose machines are real processes. Ctrl-C leaves nothing behind."""
    try:
        if engine not in ENGINES:
            raise ValueError(f"--engine is {engine!r}: must be {' or '.join(ENGINES)}")
        host, port = parse_listen(listen)
        check_loopback(host)
        settings = Settings(
            catalogue=load_catalogue(catalogue),
            time_factor=_positive(time_factor),
            seed=seed,
            switches=Switches().with_values(dict(parse_switch(text) for text in switch or ())),
            faults=_faults(fault or ()),
            ssh_port=ssh_port,
        )
        with contextlib.ExitStack() as stack:
            block = address_block
            if block == "auto":
                block = stack.enter_context(claimed_block())
            places = stack.enter_context(_places(state_dir, access_key_file, ready_file))
            settings = replace(
                settings,
                address_block=block,
                access_key=_secret(places.key_file),
                password=_secret(password_file) if password_file else None,
            )
            machines = LocalMachines(
                places.state_dir,
                real_llama_cpp=engine == "llama.cpp",
                engine_arguments=engine_argument or (),
            )
            asyncio.run(_serve(settings, machines, places, host, port))
    except (CatalogueInvalid, FaultInvalid, ListenFailed, ValueError, OSError) as exc:
        say_error("autoscaler emulator", exc)
        raise typer.Exit(2) from exc


@dataclass(frozen=True, slots=True)
class _Places:
    """Where things lie."""

    state_dir: Path
    key_file: Path
    ready_file: Path | None


@contextlib.contextmanager
def _places(
    state_dir: Path | None, key_file: Path | None, ready_file: Path | None
) -> Iterator[_Places]:
    """The directories and files of this run; what was not asked for is temporary."""
    _sweep_temporary()
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as temporary, _held(Path(temporary)):
        key_file = (key_file or Path(temporary) / "access-key").absolute()
        state_dir = (state_dir or Path(temporary) / "machines").absolute()
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            yield _Places(state_dir, key_file, ready_file)
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Hold the directory's lock: one that nobody holds was left by an emulator that was killed."""
    with (directory / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep_temporary() -> None:
    """Remove what emulators left that were killed before they could."""
    for directory in Path(tempfile.gettempdir()).glob(TEMPORARY_PREFIX + "*"):
        # an OSError: not ours, still held, or gone meanwhile
        with contextlib.suppress(OSError), (directory / LOCK_NAME).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory)


def _secret(path: Path) -> str:
    """Read a secret; a file that is missing is made, for its owner only.

    Raises:
        ValueError: it is empty, or others may read it.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            raise ValueError(f"{path}: others may read it: chmod 600 {path}") from None
        secret = path.read_text("utf-8").strip()
        if not secret:
            raise ValueError(f"{path}: is empty: remove it, and it will be made") from None
        return secret
    secret = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret + "\n")
    return secret


async def _serve(
    settings: Settings, machines: LocalMachines, places: _Places, host: str, port: int
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    cloud = Emulator(settings, machines)
    async with cloud, serving(cloud, host, port) as base:
        _announce(settings, places, base)
        await stopping.wait()
    typer.echo("stopped: every machine is gone")


def _announce(settings: Settings, places: _Places, base: str) -> None:
    """Say where the cloud is. The key itself is never printed."""
    url, project_id = f"{base}/v0.1", settings.projects[0].id
    if places.ready_file is not None:
        facts = {
            "url": url,
            "admin_url": f"{base}/_emulator",
            "project_id": project_id,
            "key_file": str(places.key_file),
            "address_block": settings.address_block,
            "ssh_port": settings.ssh_port,
            "pid": os.getpid(),
        }
        partial = places.ready_file.with_suffix(".partial")
        partial.write_text(json.dumps(facts) + "\n", "utf-8")
        partial.replace(places.ready_file)
    typer.echo(
        f"emulated mkinf cloud  {url}\n"
        f"project               {project_id}\n"
        f"access key in         {places.key_file}\n"
        f"machines              {settings.address_block}, ssh port {settings.ssh_port}\n"
        f"time                  {settings.time_factor:g} emulated seconds per second\n"
        f"faults, stock, bill   {base}/_emulator/snapshot\n"
        "try\n"
        f"  curl -H @<(printf 'Authorization: Bearer '; cat {places.key_file}) \\\n"
        f"    {url}/projects/{project_id}/availabilities"
    )


def _positive(time_factor: float) -> float:
    if not 0 < time_factor <= 100_000:
        raise ValueError(f"--time-factor is {time_factor}: must be above 0 and at most 100000")
    return time_factor


def _faults(texts: Sequence[str]) -> tuple[Fault, ...]:
    return tuple(parse_fault(text) for text in texts)
