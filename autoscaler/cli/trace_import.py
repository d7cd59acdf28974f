"""`autoscaler trace import`: public traces, and an operator's own logs, become a trace of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, assert_never

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from autoscaler.cli.connection import said_errors
from autoscaler.errors import ConfigError
from autoscaler.traces.azure import azure_requests
from autoscaler.traces.log_entry import zone_named
from autoscaler.traces.log_format import LogFormat
from autoscaler.traces.log_report import report_lines
from autoscaler.traces.log_sizes import LogOptions
from autoscaler.traces.logs import LogTrace, read_logs
from autoscaler.traces.mooncake import mooncake_requests
from autoscaler.traces.reader import TOKEN_LIMIT, write_trace
from autoscaler.traces.request import TracedRequest
from autoscaler.traces.servegen import Selection, servegen_requests
from autoscaler.traces.sniff import OURS, Format, sniff

_PUBLIC, _LOG = "Public traces", "Logs"


class AnyFormat(StrEnum):
    """All that can be imported."""

    HAPROXY = LogFormat.HAPROXY
    NGINX = LogFormat.NGINX
    JSON = LogFormat.JSON
    CSV = LogFormat.CSV
    VLLM = LogFormat.VLLM
    AZURE = Format.AZURE
    MOONCAKE = Format.MOONCAKE
    SERVEGEN = Format.SERVEGEN


def import_trace(
    files: Annotated[
        list[Path], typer.Argument(help="what to import; may be gzipped", metavar="FILE...")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="trace to write: .csv, or .csv.gz", metavar="OUT"),
    ] = None,
    format: Annotated[
        AnyFormat | None, typer.Option(help="told by the first lines when left out")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite OUT")] = False,
    model: Annotated[
        str | None, typer.Option(help="this model's requests only", rich_help_panel=_LOG)
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            help="of a prompt that the log has no figure of",
            min=1,
            max=TOKEN_LIMIT,
            rich_help_panel=_LOG,
        ),
    ] = None,
    output_tokens: Annotated[
        int | None,
        typer.Option(
            help="of an answer that the log has no figure of",
            min=1,
            max=TOKEN_LIMIT,
            rich_help_panel=_LOG,
        ),
    ] = None,
    bytes_per_token: Annotated[
        float,
        typer.Option(help="of text, to estimate tokens", min=0.1, max=1000, rich_help_panel=_LOG),
    ] = LogOptions().bytes_per_token,
    stream_bytes_per_token: Annotated[
        float,
        typer.Option(help="of streamed answers", min=0.1, max=10000, rich_help_panel=_LOG),
    ] = LogOptions().stream_bytes_per_token,
    streamed: Annotated[
        bool | None,
        typer.Option(
            "--streamed/--not-streamed",
            help="how answers came whose log does not tell; else by their speed",
            rich_help_panel=_LOG,
        ),
    ] = None,
    zone: Annotated[
        str, typer.Option(help="of stamps that name none, as HAProxy's", rich_help_panel=_LOG)
    ] = "UTC",
    seed: Annotated[int, typer.Option(help="of whatever is drawn", rich_help_panel=_PUBLIC)] = 1,
    spread: Annotated[
        float,
        typer.Option(
            help="mooncake: seconds that a stamp is rounded to",
            min=0,
            max=60,
            rich_help_panel=_PUBLIC,
        ),
    ] = 3.0,
    from_h: Annotated[
        float,
        typer.Option(
            "--from",
            help="servegen: hour to begin with, 0 is the first",
            min=0,
            rich_help_panel=_PUBLIC,
        ),
    ] = 0.0,
    hours: Annotated[
        float,
        typer.Option(
            help="servegen: hours to take; 0 takes all that follow",
            min=0,
            rich_help_panel=_PUBLIC,
        ),
    ] = 24.0,
    clients: Annotated[
        int | None,
        typer.Option(
            help="servegen: so many clients, drawn; else all", min=1, rich_help_panel=_PUBLIC
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="servegen: thin to so many requests/s on average",
            min=1e-6,
            rich_help_panel=_PUBLIC,
        ),
    ] = None,
) -> None:
    """Convert logs or a public trace into ours: arrival_s, prompt_tokens, output_tokens.

    haproxy, nginx, json, csv, vllm: access logs, and what OpenAI-style gateways log; several files,
    in any order. Recorded: arrivals, and sizes where the log has them. Estimated: other sizes, from
    bytes; what is printed says how many. docs/logs.md has what to configure.

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
        target = _target(files, out)
        public = _public(files, format)
        if public is None:
            options = LogOptions(
                model=model,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                bytes_per_token=bytes_per_token,
                stream_bytes_per_token=stream_bytes_per_token,
                streamed=streamed,
                zone=zone_named(zone),
            )
            _import_logs(files, options, LogFormat(format) if format else None, target, force)
            return
        match public:
            case Format.AZURE:
                requests = azure_requests(files[0])
            case Format.MOONCAKE:
                requests = mooncake_requests(files[0], spread_s=spread, seed=seed)
            case Format.SERVEGEN:
                selection = Selection(from_h * 3600.0, hours * 3600.0, clients, rate)
                requests = servegen_requests(files[0], selection, seed)
            case _:
                assert_never(public)
        write(target, requests, force)


def write(
    out: Path, requests: Iterable[TracedRequest], force: bool, *, with_models: bool = False
) -> None:
    """Write a trace that has requests, and say how many."""
    if out.exists() and not force:
        raise ConfigError(f"{out}: exists already: name another file, or add --force")
    try:
        count = write_trace(out, _some(requests, out), with_models=with_models)
    except OSError as exc:
        raise ConfigError(f"{out}: cannot be written: {exc.strerror or exc}") from exc
    typer.echo(f"{out}: {count} requests")


def _target(files: Sequence[Path], out: Path | None) -> Path:
    """OUT; a command in the order FORMAT FILE OUT is answered with the one that is meant."""
    words = [str(file) for file in files]
    if words[0] in list(AnyFormat) and len(words) > 1 and not files[0].exists():
        source, into = (
            (words[1:-1], words[-1]) if out is None and len(words) > 2 else (words[1:], out)
        )
        raise ConfigError(
            f"{words[0]}: no such file; meant is "
            f"`autoscaler trace import --format {words[0]} {' '.join(source)} -o {into or 'OUT'}`"
        )
    if out is None:
        raise ConfigError("-o: missing: name the trace to write, .csv or .csv.gz")
    return out


def _public(files: Sequence[Path], format: str | None) -> Format | None:
    """The format of a public trace; None when the files are logs."""
    for file in files:
        if not file.exists():
            raise ConfigError(f"{file}: no such file")
    found = [sniff(file) if file.is_file() or file.is_dir() else None for file in files]
    if OURS in found:
        file = files[found.index(OURS)]
        raise ConfigError(f"{file}: this is a trace of ours already: nothing to import")
    for file, kind in zip(files, found, strict=True):
        if kind is not None and format is not None and kind != format:
            raise ConfigError(f"{file}: not {format}: {instead(file, kind)}")
    named = format if format is not None else next((kind for kind in found if kind), None)
    if named is None or named not in list(Format):
        return None
    if len(files) > 1:
        raise ConfigError(f"{files[1]}: one file at a time of {named}: only logs are joined")
    return Format(named)


def instead(file: Path, found: str) -> str:
    """The command that imports a public trace."""
    return f"this looks like {found}: `autoscaler trace import {file} -o OUT`"


def _import_logs(
    files: Sequence[Path],
    options: LogOptions,
    format: LogFormat | None,
    out: Path,
    force: bool,
) -> None:
    with _read(files, options, format) as trace:
        write(out, trace, force, with_models=len(trace.report.models) > 1)
        for line in report_lines(trace.report):
            typer.echo(line)


def _read(files: Sequence[Path], options: LogOptions, format: LogFormat | None) -> LogTrace:
    with _bar(sum(f.stat().st_size for f in files if f.is_file())) as progress:
        return read_logs(files, options, format=format, progress=progress)


@contextmanager
def _bar(size: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda read: progress.update(task, completed=read)


def _some(requests: Iterable[TracedRequest], out: Path) -> Iterator[TracedRequest]:
    empty = True
    for request in requests:
        empty = False
        yield request
    if empty:
        raise ConfigError(f"{out}: not written: there are no requests")
