"""`autoscaler demo`: plays the whole job and says how it went."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from rich.console import Console

from autoscaler.demo import report
from autoscaler.demo.live import show
from autoscaler.demo.load import Load
from autoscaler.demo.processes import Processes
from autoscaler.demo.promise import hold_against_promise
from autoscaler.demo.settings import MODEL, DemoSettings, Engine
from autoscaler.demo.stage import Admin, DemoFailed, Stage, stage
from autoscaler.demo.story import Story, death_due_s
from autoscaler.demo.verdict import CLOSED, judge
from autoscaler.demo.watch import Watch
from autoscaler.errors import ConfigError
from autoscaler.traces.compress import compress
from autoscaler.traces.generator import Traffic, generate
from autoscaler.traces.reader import read_trace
from autoscaler.traces.request import TracedRequest

_TO_ZERO_S = 60.0
_DEFAULT = DemoSettings()
_EXTRA = {"emulated": (), "llama.cpp": ("xllamacpp", "gguf")}  # the picture can be done without
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


def demo(
    trace: Annotated[
        Path | None,
        typer.Option(help="trace to replay (.csv, .csv.gz; see `trace import`); else generated"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the generated traffic and the cloud's delays")] = 1,
    traffic: Annotated[
        float, typer.Option(help="seconds that the traffic is compressed to", min=10, max=3600)
    ] = _DEFAULT.traffic_s,
    peak: Annotated[
        float | None,
        typer.Option(help="requests/s at the fullest (12; llama.cpp: 6)", min=0.5, max=200),
    ] = None,
    time_factor: Annotated[
        float, typer.Option(help="how much faster than a real one the cloud is", min=1, max=100)
    ] = _DEFAULT.time_factor,
    engine: Annotated[
        Engine, typer.Option(help="what serves: emulated GPUs, or the real llama.cpp on this CPU")
    ] = "emulated",
    faults: Annotated[bool, typer.Option(help="sell out an offer and kill a machine")] = True,
    report_dir: Annotated[
        Path, typer.Option("--report", help="where report.json and picture.png go")
    ] = _DEFAULT.report,
    keep: Annotated[
        Path | None, typer.Option(help="keep configs and logs in this new directory")
    ] = None,
) -> None:
    """Watch the whole job on this machine, in about two minutes.

    A day of traffic is replayed against the gateway. The daemon rents machines of an emulated
    cloud, proves over SSH that they serve, puts them behind the gateway, and gives them back. On
    the way an offer sells out and a machine dies. Nothing is rented, nothing leaves loopback.

    Exit status: 0 good; 1 a request failed that no dead machine explains, something was left, or a
    run of the default size did not show two offer types, a stock-out and a death; 2 it could not be
    played; 130 stopped by Ctrl-C, which leaves no process and no machine.
    """
    settings = DemoSettings(
        trace=trace,
        seed=seed,
        traffic_s=traffic,
        peak_per_s=peak,
        time_factor=time_factor,
        engine=engine,
        faults=faults,
        report=report_dir,
        keep=keep,
    )
    console = Console(highlight=False)
    try:
        good = asyncio.run(_play_or_stop(settings, console))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ConfigError, DemoFailed) as exc:
        console.print(f"error: {exc}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    if not good:
        raise typer.Exit(1)


async def _play_or_stop(settings: DemoSettings, console: Console) -> bool:
    """Play; SIGTERM, and the end of the terminal, end it as Ctrl-C does. Asking again changes nothing."""
    playing = asyncio.ensure_future(play(settings, console))
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            console.print("stopping: the machines go first", soft_wrap=True)
            playing.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(number, stop)
    try:
        return await playing
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def play(settings: DemoSettings, console: Console) -> bool:
    """Play a demo and say how it went; True when nothing went wrong that no dead machine explains.

    Raises:
        ConfigError: it cannot be played as was asked. DemoFailed: a part did not start, or broke.
    """
    began = time.monotonic()
    _check(settings)
    requests = _requests(settings)
    console.print(
        f"{len(requests)} requests in {settings.traffic_s:.0f} s, up to {settings.peak:g}/s; "
        f"the cloud's clock runs {settings.time_factor:g} times as fast",
        soft_wrap=True,
    )
    console.print("starting the emulated cloud, the gateway and the daemon", soft_wrap=True)
    processes = Processes()
    async with _directory(settings) as directory:
        left: list[str] = []
        try:
            async with stage(settings, directory) as there:
                watch, story, billing = await _run(settings, there, requests, console, processes)
        except asyncio.CancelledError:
            _say_stopped(processes.end(directory), console)
            raise
        left = processes.end(directory)
    wall_s = time.monotonic() - began
    seen, nodes = watch.load.seen, watch.nodes
    share = report.cpu_share(watch, wall_s)
    kept = hold_against_promise(settings, seen, nodes, story.killed, share, wall_s)
    verdict = judge(seen, nodes, story.killed, billing, left, kept.broken)
    summary = report.summarize(settings, watch, verdict, len(story.killed), wall_s, kept.warnings)
    report.write(settings.report, summary, watch)
    for line in report.lines(summary, settings.report, _width(console)):
        console.print(line, markup=False, soft_wrap=True)
    return not verdict.problems


def _width(console: Console) -> int:
    """Columns to fill; where there is no terminal nobody counts them."""
    return console.width if console.is_terminal else 100


def _say_stopped(left: list[str], console: Console) -> None:
    for what in left:
        console.print(f"left behind, killed now: {what}", markup=False, soft_wrap=True)
    if not left:
        console.print("stopped: no process and no machine is left", soft_wrap=True)


async def _run(
    settings: DemoSettings,
    there: Stage,
    requests: list[TracedRequest],
    console: Console,
    processes: Processes,
) -> tuple[Watch, Story, list[str]]:
    """Play on the stage; returns with what the cloud still bills. Raises `DemoFailed`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        admin = Admin(session, there.admin)
        watch = Watch(there, Load(), admin, processes)
        death_s = death_due_s(requests, settings.traffic_s)
        story = Story(admin, watch, death_s, settings.height)
        billing: list[str] = []
        try:
            if settings.engine == "emulated":
                await story.set_up()
            watch.start()
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(watch.run()),
                    tasks.create_task(show(watch, console)),
                ]
                if settings.faults:
                    background.append(tasks.create_task(story.play()))
                await watch.load.play(requests, there.gateway, MODEL)
                watch.note("the traffic has ended, every answer is out", "traffic ends")
                billing += await _to_zero(watch, admin)
                await watch.next_look()
                for task in background:
                    task.cancel()
        except* DemoFailed as group:
            raise DemoFailed(str(group.exceptions[0])) from group
        except* _BROKEN as group:
            raise DemoFailed(
                f"the emulated cloud does not answer: {group.exceptions[0]}"
            ) from group
        return watch, story, billing


async def _to_zero(watch: Watch, admin: Admin) -> list[str]:
    """Wait until nothing bills any more; what still does after a while is left behind."""
    deadline = time.monotonic() + _TO_ZERO_S
    while time.monotonic() < deadline:
        await watch.next_look()
        closed = all(n["state"] in CLOSED for n in watch.nodes)
        if closed and not (await admin.get("/bill"))["still_billing"]:
            watch.note("back at zero: every machine is proven absent, nothing bills", "zero")
            return []
    return [str(item["name"]) for item in (await admin.get("/bill"))["still_billing"]]


def _check(settings: DemoSettings) -> None:
    """Find out before anything is started what would fail at the end. Raises `ConfigError`."""
    missing = [n for n in _EXTRA[settings.engine] if importlib.util.find_spec(n) is None]
    if missing:
        raise ConfigError(
            f"the demo needs {', '.join(missing)}: `make setup-demo`, or "
            "`pip install 'mkinf-autoscaler[demo]'`"
        )
    try:
        settings.report.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.report):
            pass
    except OSError as exc:
        raise ConfigError(
            f"{settings.report}: no report can be written there ({exc.strerror}): name a directory "
            "with --report"
        ) from exc


def _requests(settings: DemoSettings) -> list[TracedRequest]:
    source = (
        read_trace(settings.trace)
        if settings.trace is not None
        else list(generate(Traffic(), settings.seed))
    )
    try:
        return compress(
            source,
            settings.traffic_s,
            settings.peak,
            settings.seed,
            most_prompt_tokens=settings.sizes.most_prompt_words,
            most_output_tokens=settings.sizes.most_output_tokens,
        )
    except ValueError as exc:
        raise ConfigError(f"{settings.trace}: {exc}") from exc


@asynccontextmanager
async def _directory(settings: DemoSettings) -> AsyncIterator[Path]:
    """A private directory for the run, removed at its end unless it is to be kept."""
    if settings.keep is not None:
        try:
            settings.keep.mkdir(parents=True, mode=0o700)
        except OSError as exc:
            raise ConfigError(
                f"{settings.keep}: {exc.strerror}: --keep names a new directory"
            ) from None
        yield settings.keep.resolve()
        return
    path = Path(tempfile.mkdtemp(prefix="autoscaler-demo-"))
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
