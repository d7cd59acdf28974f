"""Published measurements of vLLM, run again on the backtest's model of a server: what was measured, what it says.

The rows stand in published.toml, each with its source. A row is replayed on one `Replica` as its authors drove their
server: requests at a rate, so many at once, or all at the start.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

from autoscaler.policy import Facts
from autoscaler.simulate.physics import ServerTable, server_physics
from autoscaler.simulate.server import Replica

TABLE = Path(__file__).with_name("published.toml")
FIGURES = {
    "requests_per_s": "requests/s",
    "mean_ttft_ms": "mean TTFT, ms",
    "median_ttft_ms": "median TTFT, ms",
    "p99_ttft_ms": "p99 TTFT, ms",
    "mean_tpot_ms": "mean TPOT, ms",
    "median_tpot_ms": "median TPOT, ms",
    "p99_tpot_ms": "p99 TPOT, ms",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One published run: what was served on what, how it was driven, and what its authors measured."""

    id: str
    source: str
    gpu: str
    tensor_parallel: int
    model: str
    fitted: bool
    load: dict[str, Any]
    server: dict[str, float]
    measured: dict[str, float]

    def title(self) -> str:
        tp = f" × {self.tensor_parallel}" if self.tensor_parallel > 1 else ""
        return f"{self.model}, {self.gpu}{tp}"

    def driven(self) -> str:
        """How it was driven, in words."""
        load = self.load
        size = load.get("lengths") or f"{_told(load['prompt'])}/{_told(load['output'])}"
        if "rate" in load:
            how = f"{load['rate']:g}/s"
        elif "concurrency" in load:
            how = f"{load['concurrency']} at once"
        else:
            how = f"{load['requests']} at the start"
        return f"{size}, {how}"


@dataclass(frozen=True, slots=True)
class Book:
    """The whole file."""

    rows: tuple[Row, ...]
    models: dict[str, Facts]
    sources: dict[str, dict[str, str]]
    lengths: dict[str, tuple[list[int], list[int]]]


@cache
def book() -> Book:
    file = tomllib.loads(TABLE.read_text())
    engines = file["engine"]
    return Book(
        rows=tuple(_row(row, file["source"], engines) for row in file["row"]),
        models={name: Facts.model_validate(facts) for name, facts in file["model"].items()},
        sources=file["source"],
        lengths={name: (both["prompt"], both["output"]) for name, both in file["lengths"].items()},
    )


def replay(row: Row, table: ServerTable) -> dict[str, float]:
    """What the model says of a row: every figure that was measured."""
    server = dict(row.server)
    physics = server_physics(
        book().models[row.model],
        row.gpu,
        row.tensor_parallel,
        max_num_seqs=int(server.pop("max_num_seqs", 256)),
        max_model_len=None,
        table=replace(table, memory_share=server.pop("memory_share", table.memory_share)),
    )
    chunk = int(server.pop("chunk_tokens", physics.chunk_tokens))
    physics = replace(
        physics,
        chunk_tokens=chunk,
        fixed_s=physics.fixed_s - table.step_s + server.pop("step_ms", table.step_s * 1e3) / 1e3,
        sequence_s=server.pop("sequence_us", table.sequence_s * 1e6) / 1e6,
        request_s=server.pop("request_ms", table.request_s * 1e3) / 1e3,
        mixed_s=physics.cache_s / server.pop("mixed_share", table.mixed_share),
    )
    assert not server, f"{row.id}: unknown server settings {server}"
    sizes = list(_sizes(row.load))
    arrivals, first, done = _drive(Replica(physics), row.load, sizes)
    empty_waits = "empty_ttft" not in book().sources[row.source]
    ttfts = [
        (first[i] - at) * 1e3 if sizes[i][1] or empty_waits else 0.0 for i, at in arrivals.items()
    ]
    tpots = [
        (done[i] - first[i]) * 1e3 / (size[1] - 1) for i, size in enumerate(sizes) if size[1] > 1
    ]
    every = {
        "requests_per_s": len(sizes) / max(done.values()),
        "mean_ttft_ms": fmean(ttfts),
        "median_ttft_ms": median(ttfts),
        "p99_ttft_ms": quantiles(ttfts, n=100, method="inclusive")[98],
        "mean_tpot_ms": fmean(tpots),
        "median_tpot_ms": median(tpots),
        "p99_tpot_ms": quantiles(tpots, n=100, method="inclusive")[98],
    }
    return {figure: every[figure] for figure in row.measured}


def _row(row: dict[str, Any], sources: dict[str, Any], engines: dict[str, Any]) -> Row:
    engine = engines.get(sources[row["source"]].get("overhead", ""), {})
    return Row(
        id=row["id"],
        source=row["source"],
        gpu=row["gpu"],
        tensor_parallel=row.get("tp", 1),
        model=row["model"],
        fitted=row.get("fitted", False),
        load=row["load"],
        server={**engine, **row.get("server", {})},
        measured=row["measured"],
    )


def _sizes(load: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Prompt and output tokens of each request. A range [least, most] is spread evenly, shuffled."""
    count = load["requests"]
    if "lengths" in load:
        prompts, outputs = book().lengths[load["lengths"]]
        yield from islice(cycle(zip(prompts, outputs, strict=True)), count)
        return
    pick = random.Random(1)
    columns = [_spread(load[key], count, pick) for key in ("prompt", "output")]
    yield from zip(*columns, strict=True)


def _spread(tokens: int | Sequence[int], count: int, pick: random.Random) -> list[int]:
    if isinstance(tokens, int):
        return [tokens] * count
    least, most = tokens
    even = [round(least + (most - least) * (i + 0.5) / count) for i in range(count)]
    pick.shuffle(even)
    return even


def _drive(
    replica: Replica, load: dict[str, Any], sizes: list[tuple[int, int]]
) -> tuple[dict[int, float], dict[int, float], dict[int, float]]:
    """Arrivals, first and last tokens of all requests, by index."""
    arrivals: dict[int, float] = {}
    if "rate" in load:
        pick = random.Random(1)
        now = 0.0
        for index, (prompt, output) in enumerate(sizes):
            replica.advance(now)
            replica.submit(index, prompt, output, now)
            arrivals[index] = now
            now += pick.expovariate(load["rate"])
    else:
        coming = iter(enumerate(sizes))
        for index, (prompt, output) in islice(coming, load.get("concurrency", len(sizes))):
            replica.submit(index, prompt, output, 0.0)
            arrivals[index] = 0.0
        ended = 0
        while replica.in_flight:
            now = replica.next_s
            replica.advance(now)
            left, ended = replica.done[ended:], len(replica.done)
            for _, (index, (prompt, output)) in zip(left, coming, strict=False):
                replica.submit(index, prompt, output, now)
                arrivals[index] = now
    replica.advance(1e9)
    return arrivals, dict(replica.first), dict(replica.done)


def _told(tokens: int | Sequence[int]) -> str:
    return str(tokens) if isinstance(tokens, int) else f"{tokens[0]}–{tokens[1]}"


# the table of docs/server-model.md ----------------------------------------------------------------------------------

_COLUMNS = {"requests_per_s": "requests/s", "ttft": "TTFT, ms", "tpot": "TPOT, ms"}


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one row."""

    row: Row
    figure: str
    measured: float
    said: float

    @property
    def error(self) -> float:
        return self.said / self.measured - 1


@cache
def compared() -> tuple[Compared, ...]:
    """Every figure of every row, with the table that ships."""
    table = ServerTable.load()
    return tuple(
        Compared(row, figure, row.measured[figure], said)
        for row in book().rows
        for figure, said in replay(row, table).items()
    )


def within(share: float, *, fitted: bool) -> tuple[int, int]:
    """How many figures err by less than `share`, of how many."""
    errors = [abs(one.error) for one in compared() if one.row.fitted is fitted]
    return sum(error < share for error in errors), len(errors)


def page_table() -> str:
    """What docs/server-model.md shows, written by `make server-model`."""
    lines = [
        "| GPU | model | prompt/output tokens, load | requests/s | TTFT, ms | TPOT, ms | source |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    sources = list(book().sources)
    for row in book().rows:
        gpu = row.gpu if row.tensor_parallel == 1 else f"{row.tensor_parallel} × {row.gpu}"
        cells = [_cell(row, column) for column in _COLUMNS]
        number = sources.index(row.source) + 1
        mark = ", fitted" if row.fitted else ""
        lines.append(
            f"| {gpu} | {row.model} | {row.driven()} | {' | '.join(cells)} | {number}{mark} |"
        )
    for fitted in (False, True):
        ten, many = within(0.10, fitted=fitted)
        most, _ = within(0.25, fitted=fitted)
        kind = "fitted" if fitted else "judging"
        lines += ["", f"Figures of {kind} rows: {many}; within 10 %: {ten}, within 25 %: {most}."]
    lines.append("")
    for number, source in enumerate(book().sources.values(), start=1):
        lines.append(
            f"{number}. [{source['title']}]({source['url']}): {source['engine']}; {source['notes']}."
        )
    return "\n".join(lines)


def _cell(row: Row, column: str) -> str:
    """Measured → modelled (error) for each figure of a row in one column."""
    told = []
    for one in compared():
        if one.row is row and column in one.figure:
            kind = one.figure.split("_")[0]
            name = "" if column == "requests_per_s" or kind == "mean" else f"{kind} "
            told.append(f"{name}{_short(one.measured)} → {_short(one.said)} ({one.error:+.0%})")
    return "; ".join(told).replace("-", "−").replace("%", " %")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
