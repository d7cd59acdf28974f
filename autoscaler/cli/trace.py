"""`autoscaler trace`: request traces imported from logs and public formats, generated, and measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer

from autoscaler.cli.connection import said_errors
from autoscaler.cli.trace_import import import_trace, instead, write
from autoscaler.errors import ConfigError
from autoscaler.traces.generator import Traffic, generate
from autoscaler.traces.measure import Measured, measure
from autoscaler.traces.reader import stream_trace
from autoscaler.traces.sniff import OURS, sniff

trace_app = typer.Typer(
    name="trace",
    help="Request traces: imported from your logs or public formats, generated, measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

OutArgument = Annotated[
    Path, typer.Argument(help="trace to write: .csv, or .csv.gz", metavar="OUT")
]
ForceOption = Annotated[bool, typer.Option("--force", help="overwrite OUT")]
SeedOption = Annotated[int, typer.Option(help="of whatever is drawn; the same seed, the same file")]


trace_app.command("import")(import_trace)


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
        write(out, generate(Traffic(mean_per_s=rate), seed), force)


@trace_app.command("info")
def show_trace(
    file: Annotated[Path, typer.Argument(help="a trace: .csv, or .csv.gz")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Say how many requests a trace has, how long it is, how fast they come and how large they are."""
    with said_errors():
        found = sniff(file)
        if found is not None and found != OURS:
            raise ConfigError(f"{file}: {instead(file, found)}")
        try:
            measured = measure(stream_trace(file))
        except ValueError as exc:
            raise ConfigError(f"{file}: {exc}") from exc
        if as_json:
            typer.echo(orjson.dumps(asdict(measured)).decode())
        else:
            typer.echo("\n".join(_lines(measured)))


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
