"""`autoscaler trace`: request traces imported from public formats, generated, and measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, assert_never

import orjson
import typer

from autoscaler.cli.connection import said_errors
from autoscaler.errors import ConfigError
from autoscaler.traces.azure import azure_requests
from autoscaler.traces.generator import Traffic, generate
from autoscaler.traces.measure import Measured, measure
from autoscaler.traces.mooncake import mooncake_requests
from autoscaler.traces.reader import stream_trace, write_trace
from autoscaler.traces.request import TracedRequest
from autoscaler.traces.servegen import Selection, servegen_requests
from autoscaler.traces.sniff import OURS, Format, sniff

trace_app = typer.Typer(
    name="trace",
    help="Request traces for the demo: imported from public formats, generated, measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

OutArgument = Annotated[
    Path, typer.Argument(help="trace to write: .csv, or .csv.gz", metavar="OUT")
]
ForceOption = Annotated[bool, typer.Option("--force", help="overwrite OUT")]
SeedOption = Annotated[int, typer.Option(help="of whatever is drawn; the same seed, the same file")]


@trace_app.command("import")
def import_trace(
    format: Annotated[Format, typer.Argument(help="format of FILE", metavar="FORMAT")],
    file: Annotated[Path, typer.Argument(help="what to import; may be gzipped", metavar="FILE")],
    out: OutArgument,
    seed: SeedOption = 1,
    spread: Annotated[
        float, typer.Option(help="mooncake: seconds that a stamp is rounded to", min=0, max=60)
    ] = 3.0,
    from_h: Annotated[
        float, typer.Option("--from", help="servegen: hour to begin with, 0 is the first", min=0)
    ] = 0.0,
    hours: Annotated[
        float, typer.Option(help="servegen: hours to take; 0 takes all that follow", min=0)
    ] = 24.0,
    clients: Annotated[
        int | None, typer.Option(help="servegen: so many clients, drawn; else all", min=1)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="servegen: thin to so many requests/s on average", min=1e-6)
    ] = None,
    force: ForceOption = False,
) -> None:
    """Convert a public trace into ours: arrival_s, prompt_tokens, output_tokens.

    azure: AzureLLMInferenceTrace_*.csv of Azure/AzurePublicDataset. Recorded: every arrival and
    size. Drawn: nothing.

    mooncake: *_trace.jsonl of kvcache-ai/Mooncake. Recorded: sizes, and arrivals to 3 s. Drawn:
    where in those 3 s a request came (--spread 0 leaves it). The prefix hashes are dropped.

    servegen: data/language/MODEL of alibaba/ServeGen, a directory (or one chunk-N-trace.csv of it).
    Recorded, per client and 10 minutes: the rate, and the shape of the gaps; per 6 hours: the
    histograms of sizes. Drawn: every single arrival and size, prompt and output each for itself,
    and the clients with --clients. Thinning (--rate) softens bursts of a few seconds.
    """
    with said_errors():
        _check_format(file, format)
        match format:
            case Format.AZURE:
                requests = azure_requests(file)
            case Format.MOONCAKE:
                requests = mooncake_requests(file, spread_s=spread, seed=seed)
            case Format.SERVEGEN:
                selection = Selection(from_h * 3600.0, hours * 3600.0, clients, rate)
                requests = servegen_requests(file, selection, seed)
            case _:
                assert_never(format)
        _write(out, requests, force)


@trace_app.command("generate")
def generate_trace(
    out: OutArgument,
    seed: SeedOption = 1,
    rate: Annotated[
        float, typer.Option(help="requests/s, on average over the day", min=1e-3, max=100)
    ] = Traffic().mean_per_s,
    force: ForceOption = False,
) -> None:
    """Make a day of traffic from a seed, as the demo does: a daily curve with bursts. All is drawn."""
    with said_errors():
        _write(out, generate(Traffic(mean_per_s=rate), seed), force)


@trace_app.command("info")
def show_trace(
    file: Annotated[Path, typer.Argument(help="a trace: .csv, or .csv.gz")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Say how many requests a trace has, how long it is, how fast they come and how large they are."""
    with said_errors():
        found = sniff(file)
        if found is not None and found != OURS:
            raise ConfigError(f"{file}: {_instead(file, found)}")
        try:
            measured = measure(stream_trace(file))
        except ValueError as exc:
            raise ConfigError(f"{file}: {exc}") from exc
        if as_json:
            typer.echo(orjson.dumps(asdict(measured)).decode())
        else:
            typer.echo("\n".join(_lines(measured)))


def _check_format(file: Path, format: Format) -> None:
    if not file.exists():
        raise ConfigError(f"{file}: no such file")
    found = sniff(file)
    if found == OURS:
        raise ConfigError(f"{file}: this is a trace of ours already: nothing to import")
    if found is not None and found != format:
        raise ConfigError(f"{file}: not {format}: {_instead(file, found)}")


def _instead(file: Path, found: str) -> str:
    return f"this looks like {found}: `autoscaler trace import {found} {file} OUT`"


def _write(out: Path, requests: Iterable[TracedRequest], force: bool) -> None:
    if out.exists() and not force:
        raise ConfigError(f"{out}: exists already: name another file, or add --force")
    try:
        count = write_trace(out, _some(requests, out))
    except OSError as exc:
        raise ConfigError(f"{out}: cannot be written: {exc.strerror or exc}") from exc
    typer.echo(f"{out}: {count} requests")


def _some(requests: Iterable[TracedRequest], out: Path) -> Iterator[TracedRequest]:
    empty = True
    for request in requests:
        empty = False
        yield request
    if empty:
        raise ConfigError(f"{out}: not written: there are no requests")


def _lines(m: Measured) -> list[str]:
    found = [
        f"requests       {m.requests}",
        f"span           {m.span_s / 3600:.2f} h",
        f"requests/s     mean {m.mean_per_s:.2f}, 1-minute p99 {m.p99_per_s:.2f}, "
        f"peak {m.peak_per_s:.2f}",
        f"prompt tokens  mean {m.prompt_mean:.0f}, p95 {m.prompt_p95}",
        f"output tokens  mean {m.output_mean:.0f}, p95 {m.output_p95}",
    ]
    if m.models:
        found.append(f"models         {', '.join(m.models)}")
    return found
