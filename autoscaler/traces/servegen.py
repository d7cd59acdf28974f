"""Alibaba's ServeGen: per client and step of time a rate, the shape of its gaps, and histograms of its sizes.

No line of it is a request. The rates, their course over days and the sizes are recorded; each single arrival and each
pair of sizes is drawn here. A directory holds, for every client N, `chunk-N-trace.csv` with
`start_s,rate,cv,Gamma|Weibull,shape,scale` (no pattern: silent) and `chunk-N-dataset.json` with, per step of hours,
`input_tokens` and `output_tokens` as `{tokens: share, ...}`.
"""

from __future__ import annotations

import csv
import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import orjson

from autoscaler.errors import ConfigError
from autoscaler.traces.reader import check_tokens, open_text, readable
from autoscaler.traces.request import TracedRequest

_PATTERNS = ("Gamma", "Weibull")
_LAST_STEP_S = 600.0
_SMALLEST_SHAPE = (
    0.02  # below it all requests of a step come at one instant, and the powers overflow
)
_DATASET_LIMIT = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take.

    Attributes:
        start_s, length_s: the part of the recorded time; a length of 0 is all that follows.
        clients: how many clients, drawn at random; None is all of them.
        mean_per_s: every request is kept with one probability, so that so many come on average; None keeps all.
    """

    start_s: float = 0.0
    length_s: float = 0.0
    clients: int | None = None
    mean_per_s: float | None = None

    @property
    def end_s(self) -> float:
        return self.start_s + self.length_s if self.length_s else math.inf


@dataclass(frozen=True, slots=True)
class _Step:
    start_s: float
    length_s: float
    per_s: float
    pattern: str
    shape: float


@dataclass(frozen=True, slots=True)
class _Client:
    number: str
    steps: tuple[_Step, ...]
    dataset: Path

    @property
    def expected(self) -> float:
        return sum(step.per_s * step.length_s for step in self.steps)


def servegen_requests(path: Path, selection: Selection, seed: int) -> Iterator[TracedRequest]:
    """Draw the requests of a ServeGen directory (or of one client: its `chunk-N-trace.csv`), in order.

    Each client's steps are moved by a phase of its own, so that not all change their rate in the same second.
    Memory: one step of each client.

    Raises:
        ConfigError: no such data, or a bad file; the message has file and line.
    """
    rng = random.Random(seed)
    clients = [client for file in _chunks(path) if (client := _client(file, selection)).steps]
    if selection.clients is not None and selection.clients < len(clients):
        clients = rng.sample(clients, selection.clients)
    if not clients:
        raise ConfigError(f"{path}: no client sends anything in the part that was asked for")
    start = min(client.steps[0].start_s for client in clients)
    end = max(client.steps[-1].start_s + client.steps[-1].length_s for client in clients)
    keep = 1.0
    if selection.mean_per_s is not None:
        mean = sum(client.expected for client in clients) / (end - start)
        if selection.mean_per_s > mean:
            raise ConfigError(
                f"{path}: these {len(clients)} clients send {mean:.3g}/s on average, fewer than the "
                f"{selection.mean_per_s:g}/s that were asked for"
            )
        keep = selection.mean_per_s / mean
    streams = [_drawn(client, keep, random.Random(f"{seed}/{client.number}")) for client in clients]
    for request in heapq.merge(*streams, key=lambda r: r.arrival_s):
        yield replace(request, arrival_s=request.arrival_s - start)


def _chunks(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("chunk-*-trace.csv"))
    if not found:
        raise ConfigError(
            f"{path}: no chunk-N-trace.csv in it: name the directory of one model, as data/language/m-large"
        )
    return found


def _client(file: Path, selection: Selection) -> _Client:
    steps = [
        step
        for step in _steps(file)
        if step.per_s > 0 and selection.start_s <= step.start_s < selection.end_s
    ]
    stem = file.name.removesuffix("-trace.csv")
    return _Client(stem, tuple(steps), file.with_name(f"{stem}-dataset.json"))


def _steps(file: Path) -> Iterator[_Step]:
    rows: list[tuple[float, float, str, float]] = []
    with readable(file), open_text(file) as text:
        reader = csv.reader(text)
        for row in reader:
            rows.append(_row(row, f"{file}:{reader.line_num}"))
            if len(rows) > 1 and rows[-1][0] <= rows[-2][0]:
                raise ConfigError(f"{file}:{reader.line_num}: not later than the line above it")
    if not rows:
        return
    last = (rows[-1][0] + _LAST_STEP_S, 0.0, "", 1.0)
    for (at, per_s, pattern, shape), after in pairwise([*rows, last]):
        yield _Step(at, after[0] - at, per_s, pattern, max(shape, _SMALLEST_SHAPE))


def _row(row: Sequence[str], place: str) -> tuple[float, float, str, float]:
    if len(row) != 6:
        raise ConfigError(
            f"{place}: {len(row)} fields, allowed: 6 (start_s, rate, cv, pattern, shape, scale)"
        )
    pattern = row[3].strip()
    try:
        at, rate = float(row[0]), float(row[1])
        shape = float(row[4]) if pattern else 1.0
    except ValueError as exc:
        raise ConfigError(f"{place}: not numbers: {exc}") from exc
    if not pattern:
        return at, 0.0, "", 1.0
    if pattern not in _PATTERNS:
        raise ConfigError(f"{place}: pattern: found {pattern[:40]!r}, allowed: {_PATTERNS}")
    if not (0 <= at < math.inf and 0 <= rate < 1e6 and 0 < shape < math.inf):
        raise ConfigError(f"{place}: start {at}, rate {rate} and shape {shape} must be positive")
    return at, rate, pattern, shape


def _drawn(client: _Client, keep: float, rng: random.Random) -> Iterator[TracedRequest]:
    """One client's requests, in order: drawn gaps, stretched to fill the step, and drawn sizes."""
    histograms = _histograms(client)
    starts = sorted(histograms)
    phase = rng.uniform(0.0, min(step.length_s for step in client.steps))
    drawn_from, prompts, outputs = -1.0, _NOTHING, _NOTHING
    for step in client.steps:
        at = starts[max(0, bisect_right(starts, step.start_s) - 1)]
        if at != drawn_from:
            drawn_from = at
            prompts = _Sizes.parse(histograms[at]["input_tokens"], client.dataset, at)
            outputs = _Sizes.parse(histograms[at]["output_tokens"], client.dataset, at)
        for arrival in _arrivals(step, rng):
            if keep >= 1.0 or rng.random() < keep:
                yield TracedRequest(arrival + phase, prompts.draw(rng), outputs.draw(rng))


def _arrivals(step: _Step, rng: random.Random) -> Iterator[float]:
    expected = step.per_s * step.length_s
    count = int(expected) + (rng.random() < expected - int(expected))
    if step.pattern == "Gamma":
        gaps = [rng.gammavariate(step.shape, 1.0) for _ in range(count + 1)]
    else:
        gaps = [rng.weibullvariate(1.0, step.shape) for _ in range(count + 1)]
    # one gap more than there are requests: the last one ends the step
    total = sum(gaps) or 1.0
    for passed in accumulate(gaps[:-1]):
        yield step.start_s + step.length_s * passed / total


def _histograms(client: _Client) -> Mapping[float, Mapping[str, str]]:
    """The client's histograms, still as text: start of the step → field → `{tokens: share, ...}`."""
    path = client.dataset
    try:
        if path.stat().st_size > _DATASET_LIMIT:
            raise ConfigError(f"{path}: larger than {_DATASET_LIMIT >> 20} MiB")
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read as ServeGen's histograms: {exc}") from exc
    found: dict[float, Mapping[str, str]] = {}
    for start, fields in (document if isinstance(document, dict) else {}).items():
        wanted = {n: fields.get(n) for n in ("input_tokens", "output_tokens")}
        if not start.isdigit() or not all(isinstance(t, str) for t in wanted.values()):
            raise ConfigError(
                f"{path}: {start[:40]}: no input_tokens and output_tokens: only the language and reasoning "
                "data have them, multimodal data are not supported"
            )
        if all(text.strip(" {}") for text in wanted.values()):
            found[float(start)] = wanted
    if not found:
        raise ConfigError(f"{path}: no histogram in it")
    return found


@dataclass(frozen=True, slots=True)
class _Sizes:
    """A histogram of token counts."""

    tokens: tuple[int, ...]
    up_to: tuple[float, ...]

    @classmethod
    def parse(cls, text: str, path: Path, start: float) -> _Sizes:
        place = f"{path}: {start:.0f}"
        tokens, shares = [], []
        for pair in text.strip().strip("{}").split(","):
            if not pair.strip():
                continue
            name, _, share = pair.partition(":")
            try:
                tokens.append(check_tokens(int(float(name)), "tokens", place))
                shares.append(float(share))
            except (ValueError, OverflowError):
                raise ConfigError(f"{place}: found {pair[:40]!r}, allowed: tokens: share") from None
        up_to = tuple(accumulate(shares))
        if min(shares) < 0 or not 0 < up_to[-1] < math.inf:
            raise ConfigError(f"{place}: the shares of a histogram must be positive")
        return cls(tuple(tokens), up_to)

    def draw(self, rng: random.Random) -> int:
        at = bisect_right(self.up_to, rng.random() * self.up_to[-1])
        return self.tokens[min(at, len(self.tokens) - 1)]


_NOTHING = _Sizes((1,), (1.0,))
