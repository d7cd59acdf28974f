"""`autoscaler panic`: delete all that is ours and prove it absent, without the daemon and without its store."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated

import typer

from autoscaler.brakes.creates import Creates
from autoscaler.brakes.ours import Holdings, look
from autoscaler.brakes.panic import Panic, Progress, Tempo
from autoscaler.cli.ask import YesOption
from autoscaler.cli.audit import age, price, short_name
from autoscaler.cli.connection import JsonOption, Table, asking, said_errors, show
from autoscaler.cli.halt import Halt, halt_daemon
from autoscaler.cli.marked import Marked, marked_command
from autoscaler.cli.question import fitted
from autoscaler.clock import SystemClock
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.domain.money import ZERO
from autoscaler.errors import AuthFailed, CloudUnavailable, ConfigError, SchemaError
from autoscaler.quantity import parse_duration

_EXIT_LEFT = 1
_EXIT_INTERRUPTED = 130
_AGAIN_S = 2.0

ForOption = Annotated[
    str | None,
    typer.Option("--for", help="give up after so long, such as 30m; default: never"),
]


@marked_command
def panic(
    whose: Marked, limit: ForOption = None, yes: YesOption = False, json: JsonOption = False
) -> None:
    """Delete every VM, disk and firewall rule of ours, now, and go on until their absence is proven.

    Drains nothing: requests in flight are cut. Works without daemon and store, from any host with a key and the owner
    mark. A daemon that can be reached is told to pause all models first. Ends with 0 only when absence is proven;
    Ctrl-C is safe, and so is running it again.
    """
    with said_errors():
        length = _length(limit)
        run = _Run(whose, length, yes=yes, as_json=json)
        try:
            asyncio.run(run.all())
            why = ""
        except KeyboardInterrupt:
            why = "interrupted"
        except TimeoutError:
            why = f"given up after {limit}"
        status = run.finish(why)
    raise typer.Exit(status)


def _length(limit: str | None) -> timedelta | None:
    try:
        return parse_duration(limit) if limit is not None else None
    except ValueError as exc:
        raise ConfigError(f"--for: found {limit!r}: {exc}; allowed: a length such as 30m") from None


class _Run:
    """One run of the command: what it says, and what it leaves."""

    def __init__(
        self, whose: Marked, length: timedelta | None, *, yes: bool, as_json: bool
    ) -> None:
        self._whose = whose
        self._length = length
        self._yes = yes
        self._as_json = as_json
        self._halt = Halt()
        self._panic: Panic | None = None
        self._creates: Creates | None = None
        self._said = ""

    async def all(self) -> None:
        """Look, ask, stop the daemon, delete. Raises `TimeoutError` when the time given has passed."""
        cloud = self._whose.open()
        try:
            project, holdings = await self._first_look(cloud)
            self._ask_about(holdings)
            self._halt = await halt_daemon(self._whose, project)
            for line in self._halt.notes:
                self._say(line)
            timings = self._whose.timings
            self._panic = Panic(
                cloud,
                self._whose.owner,
                self._whose.prices(),
                Tempo(
                    timings.step,
                    timings.gone_after,
                    timings.delete_retry,
                    min(timings.delete_retry_max, Tempo().retry_max),
                    timings.settling_time,
                ),
                SystemClock(),
                self._show,
                self._halt.creating,
                with_rules=not self._halt.lives,
                creates=self._creates,
            )
            async with asyncio.timeout(self._length.total_seconds() if self._length else None):
                await self._panic.run()
        finally:
            await cloud.close()

    def finish(self, why: str) -> int:
        """Say how it ended. The command's exit status."""
        if self._panic is None:
            self._say(f"{why or 'ended'} before anything was deleted")
            return _EXIT_INTERRUPTED
        progress, left = self._panic.progress(), self._panic.left()
        if self._as_json:
            show(Table((), (), _document(progress, left, self._panic.notes, why)), as_json=True)
        for line in left:
            self._say(f"left: {line}")
        for line in self._panic.notes:
            self._say(f"note: {line}")
        if self._halt.paused:
            self._say(
                f"paused: {', '.join(self._halt.paused)}; `autoscaler resume MODEL` lets it rent again"
            )
        took = f"after {progress.elapsed_s:.0f} s"
        if not left and not why:
            self._say(
                f"proven absent {took}: {progress.proven} VMs, {progress.saved_per_hour}/h saved"
            )
            return 0
        self._say(
            f"{why or 'not all can be proven'} {took}: {progress.proven} VMs are proven absent, "
            f"{progress.listed} are listed and cost {progress.usd_per_hour}/h. Run it again: it is safe"
        )
        return _EXIT_INTERRUPTED if why == "interrupted" else _EXIT_LEFT

    async def _first_look(self, cloud: MkinfCloud) -> tuple[str, Holdings]:
        """What there is. A cloud that does not answer is asked again, a wrong key is an error."""
        whose = self._whose
        self._creates = creates = Creates(cloud, whose.owner)
        while True:
            try:
                project, now = await cloud.project_id(), SystemClock().now()
                return project, await look(cloud, whose.owner, whose.prices(), now, creates)
            except AuthFailed:
                raise
            except (CloudUnavailable, SchemaError) as exc:
                self._say(f"the cloud does not list what there is, asking again: {exc}")
                await asyncio.sleep(_AGAIN_S)

    def _ask_about(self, holdings: Holdings) -> None:
        mark, at = self._whose.owner.owner, holdings.at
        doomed = [each for each in holdings.things if each.is_ours]
        if not self._as_json:
            show(_doomed_table(holdings, at), as_json=False)
        others = holdings.strangers + holdings.foreign
        rate = sum((each.usd_per_hour or ZERO for each in doomed), ZERO)
        self._say(
            f"{len(doomed)} with the mark {self._whose.owner.prefix}-{mark}, "
            f"{rate}/h; {others} other VMs of the project are not touched"
        )
        for each in holdings.things:
            if not each.is_ours:
                self._say(
                    f"note: {each.kind} {each.name} has our mark in a name we never make: not touched"
                )
        if self._yes:
            return
        with asking("say --yes to agree beforehand"):
            question = "All of it is deleted, requests in flight are cut. Type the owner mark"
            typed = typer.prompt(fitted(f"{question} ({mark}):"), prompt_suffix=" ", err=True)
        if typed.strip() != mark:
            raise ConfigError(f"{typed.strip()!r} is not {mark!r}: nothing was deleted")

    def _show(self, progress: Progress) -> None:
        line = progress_line(progress)
        if line != self._said:
            self._said = line
            self._say(f"{progress.elapsed_s:5.0f} s  {line}")

    def _say(self, line: str) -> None:
        typer.echo(line, err=self._as_json)
        sys.stdout.flush()


def progress_line(progress: Progress) -> str:
    """Where it stands, in 80 columns with the time before it."""
    words = [
        f"{progress.listed} listed",
        f"{progress.absent} not listed",
        f"{progress.proven} proven",
    ]
    counted: tuple[tuple[int, Callable[[int], str]], ...] = (
        (progress.refused, lambda n: f"{n} refused"),
        (progress.coming, lambda n: f"{n} may still come"),
        (progress.rest, lambda n: f"{n} disks, rules"),
    )
    words += [say(count) for count, say in counted if count]
    money = f"{progress.usd_per_hour}/h left, {progress.saved_per_hour}/h saved"
    trouble = f" ! {progress.trouble}" if progress.trouble else ""
    return f"{', '.join(words)} · {money}{trouble}"


def _doomed_table(holdings: Holdings, at: datetime) -> Table:
    return Table(
        columns=("What", "Name", "Is", "State", "Age", "$/h"),
        rows=[
            (t.kind, short_name(t), t.what, t.state, age(t.created_at, at), price(t))
            for t in holdings.things
            if t.is_ours
        ],
        document=None,
    )


def _document(
    progress: Progress, left: list[str], notes: tuple[str, ...], why: str
) -> dict[str, object]:
    return {
        "proven_absent": not left and not why,
        "elapsed_s": round(progress.elapsed_s, 1),
        "vms": progress.vms,
        "proven": progress.proven,
        "left": left,
        "notes": list(notes),
        "usd_per_hour_left": str(progress.usd_per_hour.usd),
        "usd_per_hour_saved": str(progress.saved_per_hour.usd),
        "ended": why or "by itself",
    }
