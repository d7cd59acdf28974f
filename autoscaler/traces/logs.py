"""Access logs read as a trace: what an operator's own users asked for, and when.

Each line is read on its own, and only the time and the sizes of requests for inference are kept: no text of a request,
no address, no key. The order of files and lines does not matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from autoscaler.errors import ConfigError
from autoscaler.traces.log_entry import Entry, Stamps, Why
from autoscaler.traces.log_format import LogFormat, log_format, reader_of
from autoscaler.traces.log_lines import Line, log_lines
from autoscaler.traces.log_report import LogReport, Skipped
from autoscaler.traces.log_sizes import LogOptions, sizes
from autoscaler.traces.log_sort import SortedRows
from autoscaler.traces.request import TracedRequest

_FIRST_LINES, _FIRST_CHARACTERS = 1000, 4 * 2**20
_MODELS = 1000
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples fill a second evenly, in any number


@dataclass(frozen=True, slots=True)
class LogTrace:
    """The requests of some logs, in order; to be closed.

    Attributes:
        started_at: when the first one came: second 0.
    """

    report: LogReport
    started_at: datetime
    _rows: SortedRows
    _names: tuple[str | None, ...]

    def __iter__(self) -> Iterator[TracedRequest]:
        """The requests by arrival, as often as one likes; they name their model where there are several."""
        start = self.started_at.timestamp()
        for at, prompt, output, model in self._rows:
            yield TracedRequest(max(0.0, at - start), prompt, output, self._names[model])

    def close(self) -> None:
        """Forget the requests."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_logs(
    paths: Sequence[Path],
    options: LogOptions | None = None,
    *,
    format: LogFormat | None = None,
    progress: Callable[[int], None] | None = None,
) -> LogTrace:
    """Read logs, gzipped or not, each in a format of its own unless one is named.

    Memory is bounded: of large logs the figures are kept in a temporary file.

    Args:
        progress: told from time to time how many bytes of all files have been read.

    Raises:
        ConfigError: a file cannot be read or is in no format that is known, or there is no request in them all; the
            message has the file and the line.
    """
    tally = _Tally(options or LogOptions())
    before = 0
    try:
        for path in _distinct(paths):
            told = None if progress is None else _after(before, progress)
            tally.read(path, format, told)
            before += _size(path)
        return tally.trace()
    except BaseException:
        tally.rows.close()
        raise


@dataclass(slots=True)
class _Tally:
    """What has been read so far."""

    options: LogOptions
    rows: SortedRows = field(default_factory=SortedRows)
    formats: list[tuple[Path, LogFormat]] = field(default_factory=list)
    lines: int = 0
    first_at: float = math.inf
    skipped: Counter[Why] = field(default_factory=Counter)
    places: dict[Why, str] = field(default_factory=dict)
    models: dict[str | None, int] = field(default_factory=dict)
    per_model: Counter[int] = field(default_factory=Counter)
    prompt_estimates: int = 0
    output_estimates: int = 0
    whole_seconds: int = 0
    at_end: int = 0

    def read(
        self, path: Path, format: LogFormat | None, progress: Callable[[int], None] | None
    ) -> None:
        lines = log_lines(path, progress)
        first = list(_some(lines))
        known = format or log_format(first)
        if known is None:
            if first:
                raise ConfigError(_unknown(path, first))
            return  # an empty file of a rotated set
        self.formats.append((path, known))
        number = 0
        stamps = Stamps(self.options.zone, _modified(path))
        entries = reader_of(known, only=format is not None)
        for number, found in entries(chain(first, lines), stamps):
            why = found if isinstance(found, Why) else self._add(found)
            if why is not None:
                self.skipped[why] += 1
                self.places.setdefault(why, f"{path}:{number}")
        self.lines += number

    def trace(self) -> LogTrace:
        report = self._report()
        if not report.requests:
            raise ConfigError(_nothing(report))
        names = tuple(self.models) if len(self.models) > 1 else (None,)
        started = datetime.fromtimestamp(self.first_at, UTC)
        return LogTrace(report, started, self.rows, names)

    def _add(self, entry: Entry) -> Why | None:
        """Keep a request, or say why not."""
        if self.options.model is not None and entry.model != self.options.model:
            return Why.MODEL
        found = sizes(entry, self.options)
        if isinstance(found, Why):
            return found
        if entry.model not in self.models and len(self.models) >= _MODELS:
            return Why.CROWD
        model = self.models.setdefault(entry.model, len(self.models))
        at = entry.at
        if entry.whole_second:
            at += self.whole_seconds * _GOLDEN % 1.0
            self.whole_seconds += 1
        self.first_at = min(self.first_at, at)
        self.rows.add((at, found.prompt_tokens, found.output_tokens, model))
        self.per_model[model] += 1
        self.prompt_estimates += not found.prompt_is_logged
        self.output_estimates += not found.output_is_logged
        self.at_end += entry.at_end
        return None

    def _report(self) -> LogReport:
        models = ((name or "", self.per_model[number]) for name, number in self.models.items())
        return LogReport(
            formats=tuple(self.formats),
            lines=self.lines,
            requests=self.per_model.total(),
            skipped=tuple(Skipped(w, n, self.places[w]) for w, n in self.skipped.most_common()),
            models=tuple(sorted(models, key=lambda m: -m[1])),
            prompt_estimates=self.prompt_estimates,
            output_estimates=self.output_estimates,
            whole_seconds=self.whole_seconds,
            at_end=self.at_end,
        )


def _distinct(paths: Sequence[Path]) -> list[Path]:
    """The files, each once; a directory or nothing at all is refused before anything is read."""
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path}: a directory: name the logs in it, as {path}/haproxy.log*")
        if not path.exists():
            raise ConfigError(f"{path}: no such file")
    return list({path.resolve(): path for path in paths}.values())


def _some(lines: Iterator[Line]) -> Iterator[Line]:
    """The first lines, as many as tell the format."""
    seen = 0
    for count, line in enumerate(lines, start=1):
        yield line
        seen += len(line.text)
        if count >= _FIRST_LINES or seen >= _FIRST_CHARACTERS:
            return


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _after(before: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    return lambda read: progress(before + read)


def _unknown(path: Path, first: Sequence[Line]) -> str:
    if first[0].text.lstrip().startswith("["):
        return f"{path}:1: found a JSON array, allowed: an object a line: `jq -c '.[]' {path}`"
    return (
        f"{path}:1: in no format that is known: found {len(first)} first lines, none of which is "
        f"one of {', '.join(LogFormat)}; docs/logs.md has what to configure"
    )


def _nothing(report: LogReport) -> str:
    """Say that there is no request, and what the lines were instead."""
    files = ", ".join(str(path) for path, _ in report.formats) or "the logs"
    reasons = "; ".join(f"{s.lines} {s.why}, the first at {s.first}" for s in report.skipped)
    return (
        f"{files}: no request for inference in {report.lines} lines: {reasons or 'all are empty'}"
    )
