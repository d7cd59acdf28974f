"""What was read of logs, what was not and why, and how much of it is an estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoscaler.traces.log_entry import Why
from autoscaler.traces.log_format import LogFormat

_SHOWN_MODELS = 5


@dataclass(frozen=True, slots=True)
class Skipped:
    """Lines that are no request of the trace: why, how many, and where the first of them stands."""

    why: Why
    lines: int
    first: str


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was read.

    Attributes:
        formats: of each file.
        models: how many requests each had; "" is of those whose log names none.
        prompt_estimates, output_estimates: requests with a figure that the log does not have.
        whole_seconds: requests whose stamp was rounded to a second, and that were spread over it.
        at_end: requests whose stamp is the end of an answer of unknown length.
    """

    formats: tuple[tuple[Path, LogFormat], ...]
    lines: int
    requests: int
    skipped: tuple[Skipped, ...]
    models: tuple[tuple[str, int], ...]
    prompt_estimates: int
    output_estimates: int
    whole_seconds: int
    at_end: int


def report_lines(report: LogReport) -> Iterator[str]:
    """The report for people, line by line."""
    formats = ", ".join(sorted({str(format) for _, format in report.formats}))
    files = _counted(len(report.formats), "file")
    yield f"read       {_counted(report.lines, 'line')} of {files} ({formats})"
    for skipped in report.skipped:
        yield f"skipped    {skipped.lines} {skipped.why}, the first at {skipped.first}"
    if len(report.models) > 1:
        shown = [f"{name or 'unnamed'} {count}" for name, count in report.models[:_SHOWN_MODELS]]
        more = len(report.models) - len(shown)
        yield f"models     {', '.join(shown)}{f' and {more} more' if more else ''}"
    prompts, outputs = report.prompt_estimates, report.output_estimates
    yield f"estimated  prompt tokens of {_counted(prompts, 'request')}, output tokens of {outputs}"
    for count, what in (
        (report.at_end, "that tell the end of an answer only"),
        (report.whole_seconds, "of whole seconds, spread over these"),
    ):
        if count:
            yield f"stamps     {count} {what}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
