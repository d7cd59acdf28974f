"""`autoscaler demo`: plays the whole job and says how it went."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import aiohttp
import typer
from rich.console import Console

from autoscaler.demo import report
from autoscaler.demo.live import show
from autoscaler.demo.load import Load
from autoscaler.demo.settings import MODEL, MOST_OUTPUT_TOKENS, MOST_PROMPT_TOKENS, DemoSettings
from autoscaler.demo.stage import Admin, DemoFailed, Stage, stage
from autoscaler.demo.story import Story
from autoscaler.demo.verdict import judge
from autoscaler.demo.watch import Watch
from autoscaler.errors import ConfigError
from autoscaler.traces.compress import compress
from autoscaler.traces.generator import Traffic, generate
from autoscaler.traces.reader import read_trace
from autoscaler.traces.request import TracedRequest

_TO_ZERO_S = 60.0
_DEFAULT = DemoSettings()


def demo(
    trace: Annotated[
        Path | None, typer.Option(help="CSV trace to replay (.csv, .csv.gz); else one is generated")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the generated traffic and the cloud's delays")] = 1,
    traffic: Annotated[
        float, typer.Option(help="seconds of traffic; the trace is compressed to it", min=10)
    ] = _DEFAULT.traffic_s,
    peak: Annotated[
        float, typer.Option(help="requests per second at the fullest", min=0.5, max=200)
    ] = _DEFAULT.peak_per_s,
    time_factor: Annotated[
        float, typer.Option(help="how much faster than a real one the cloud is", min=1)
    ] = _DEFAULT.time_factor,
    engine: Annotated[
        Literal["emulated", "llama.cpp"], typer.Option(help="what serves on the machines")
    ] = "emulated",
    faults: Annotated[bool, typer.Option(help="sell out an offer and kill a machine")] = True,
    report_dir: Annotated[
        Path, typer.Option("--report", help="where report.json and the picture go")
    ] = _DEFAULT.report,
    keep: Annotated[
        Path | None, typer.Option(help="keep configs and logs in this new directory")
    ] = None,
) -> None:
    """The whole job on this machine: traffic, an emulated cloud, a daemon that rents and gives back."""
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
        console.print("stopped: no process and no machine is left")
        raise typer.Exit(130) from None
    except (ConfigError, DemoFailed) as exc:
        console.print(f"error: {exc}", markup=False)
        raise typer.Exit(2) from None
    if not good:
        raise typer.Exit(1)


async def _play_or_stop(settings: DemoSettings, console: Console) -> bool:
    """Play; SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await play(settings, console)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def play(settings: DemoSettings, console: Console) -> bool:
    """Play a demo and say how it went; True when nothing went wrong that no dead machine explains.

    Raises:
        ConfigError: the trace is no trace. DemoFailed: a part did not start.
    """
    requests = _requests(settings)
    console.print(
        f"{len(requests)} requests in {settings.traffic_s:.0f} s, at most about "
        f"{settings.peak_per_s:g}/s; the cloud's clock runs {settings.time_factor:g} times as fast"
    )
    console.print("starting the emulated cloud, the gateway and the daemon")
    async with _directory(settings) as directory, stage(settings, directory) as there:
        return await _run(settings, there, requests, console)


async def _run(
    settings: DemoSettings, there: Stage, requests: list[TracedRequest], console: Console
) -> bool:
    load = Load()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        admin = Admin(session, there.admin)
        watch = Watch(there, load, admin)
        story = Story(admin, watch)
        if settings.engine == "emulated":
            await story.set_up()
        watch.started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(watch.run()),
                tasks.create_task(show(watch, console)),
            ]
            if settings.faults:
                background.append(tasks.create_task(story.play(settings.traffic_s)))
            await load.play(requests, there.gateway, MODEL)
            watch.note("the traffic has ended")
            billing = await _to_zero(watch, admin)
            for task in background:
                task.cancel()
    verdict = judge(load.seen, watch.nodes, story.killed, billing)
    summary = report.summarize(
        settings, load.seen, watch.samples, watch.nodes, verdict, len(story.killed), watch.cpu_s
    )
    report.write(settings.report, summary, watch.samples, watch.notes, watch.nodes)
    for line in report.lines(summary, settings.report):
        console.print(line, markup=False, soft_wrap=True)
    return not verdict.problems


async def _to_zero(watch: Watch, admin: Admin) -> list[str]:
    """Wait until nothing bills any more; what still does after a while is left behind."""
    deadline = time.monotonic() + _TO_ZERO_S
    while time.monotonic() < deadline:
        await watch.next_look()
        closed = all(n["state"] in ("gone", "lost", "cancelled") for n in watch.nodes)
        if closed and not (await admin.get("/bill"))["still_billing"]:
            watch.note("back at zero: every machine is proven absent, nothing bills")
            return []
    return [str(item["name"]) for item in (await admin.get("/bill"))["still_billing"]]


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
            settings.peak_per_s,
            settings.seed,
            most_prompt_tokens=MOST_PROMPT_TOKENS,
            most_output_tokens=MOST_OUTPUT_TOKENS,
        )
    except ValueError as exc:
        raise ConfigError(f"{settings.trace}: {exc}") from exc


@asynccontextmanager
async def _directory(settings: DemoSettings) -> AsyncIterator[Path]:
    """A private directory for the run, removed at its end unless it is to be kept."""
    if settings.keep is not None:
        try:
            settings.keep.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            raise ConfigError(f"{settings.keep}: exists already: name a new directory") from None
        yield settings.keep.resolve()
        return
    path = Path(tempfile.mkdtemp(prefix="autoscaler-demo-"))
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
