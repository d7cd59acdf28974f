"""The summary at the end, as text and as report.json."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from autoscaler.demo.load import Seen, node_of
from autoscaler.demo.picture import can_draw, draw
from autoscaler.demo.promise import is_stock_out
from autoscaler.demo.settings import TTFT_TARGET_S, DemoSettings
from autoscaler.demo.verdict import Verdict
from autoscaler.demo.watch import Watch

_WIDTH = 100
_MOST_PROBLEMS = 12
_MOST_LINES = 3  # of one entry: a problem may quote a server's page
_INDENT = 10


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run. Times in seconds of ours, money in USD.

    Attributes:
        length_s: from the first request until nothing billed any more.
        wall_s: from the command to the last process's end.
        ttft_within_2s: of all requests sent, failed ones included.
        offer_types: machines rented per type.
        boot_p50_s, boot_max_s: from the intent until the node took requests.
        usd_fixed: what the largest serving fleet would have cost, had it stood all the time.
        cpu_share: of two cores, everything included.
        problems: what makes the run a failure.
        warnings: what is worth telling and makes it none.
    """

    source: str
    length_s: float
    wall_s: float
    requests: int
    answered: int
    failed: int
    excused: int
    held: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_within_2s: float | None
    nodes_rented: int
    offer_types: dict[str, int]
    most_ready: int
    stock_outs: int
    machines_killed: int
    boots: int
    boot_p50_s: float | None
    boot_max_s: float | None
    time_factor: float
    usd: float
    usd_fixed: float
    cpu_share: float
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def summarize(
    settings: DemoSettings,
    watch: Watch,
    verdict: Verdict,
    killed: int,
    wall_s: float,
    warnings: tuple[str, ...] = (),
) -> Summary:
    """Add a run up."""
    seen, samples = watch.load.seen, watch.samples
    first = sorted(s.ttft_s for s in seen if s.ttft_s is not None and s.complete)
    length = samples[-1].t_s if samples else 0.0
    rented = [n for n in watch.nodes if n["address"] is not None]
    boots = sorted(_boots(watch.nodes))
    peak = max((s.serving_usd_per_hour for s in samples), default=0.0)
    within = sum(1 for t in first if t <= TTFT_TARGET_S)
    return Summary(
        source=str(settings.trace.name if settings.trace else f"generated, seed {settings.seed}"),
        length_s=round(length, 1),
        wall_s=round(wall_s, 1),
        requests=len(seen),
        answered=sum(1 for s in seen if s.complete),
        failed=sum(1 for s in seen if s.failed),
        excused=verdict.excused,
        held=sum(1 for s in seen if s.held),
        ttft_p50_s=_quantile(first, 0.5),
        ttft_p95_s=_quantile(first, 0.95),
        ttft_within_2s=round(within / len(seen), 4) if seen else None,
        nodes_rented=len(rented),
        offer_types=dict(Counter(str(n["type"]) for n in rented).most_common()),
        most_ready=max((sum(s.ready.values()) for s in samples), default=0),
        stock_outs=sum(1 for n in watch.nodes if is_stock_out(n)),
        machines_killed=killed,
        boots=len(boots),
        boot_p50_s=_quantile(boots, 0.5),
        boot_max_s=_quantile(boots, 1.0),
        time_factor=settings.time_factor,
        usd=round(samples[-1].usd, 4) if samples else 0.0,
        # the cloud's clock runs faster than ours
        usd_fixed=round(peak * length * settings.time_factor / 3600.0, 4),
        cpu_share=cpu_share(watch, wall_s),
        problems=verdict.problems,
        warnings=warnings,
    )


def cpu_share(watch: Watch, wall_s: float) -> float:
    """What the run took of two cores."""
    return round(watch.processes.cpu_s / (2 * wall_s), 3) if wall_s else 0.0


def _boots(nodes: Sequence[Mapping[str, Any]]) -> list[float]:
    return [
        (datetime.fromisoformat(n["ready_at"]) - datetime.fromisoformat(n["created_at"])).total_seconds()
        for n in nodes
        if n["ready_at"] and n["created_at"]
    ]  # fmt: skip


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


def lines(summary: Summary, directory: Path, width: int = _WIDTH) -> list[str]:
    """The summary for people, in lines of at most `width` columns, and never more than 100."""
    return [
        line
        for name, text in _rows(summary, directory)
        for line in _wrapped(name, text, min(width, _WIDTH))
    ]


def _rows(s: Summary, directory: Path) -> list[tuple[str, str]]:
    found = [
        ("traffic", f"{s.requests} requests ({s.source}): {s.answered} answered, "
             f"{s.failed} failed{_of_them(s)}"),
        ("latency", f"first token p50 {_seconds(s.ttft_p50_s)}, p95 {_seconds(s.ttft_p95_s)}; "
             f"{_share(s.ttft_within_2s)} within {TTFT_TARGET_S:g} s; "
             f"{s.held} waited for the first node"),
        ("fleet", f"{_many(s.nodes_rented, 'machine')} of {_many(len(s.offer_types), 'type')}, "
             f"up to {s.most_ready} at once; {_many(s.stock_outs, 'order')} sold out, "
             f"{_many(s.machines_killed, 'machine')} killed"),
        ("", ", ".join(f"{count} {name}" for name, count in s.offer_types.items()) or "none"),
        ("boots", f"{s.boots}: from order to serving {_seconds(s.boot_p50_s)} at the median, "
             f"{_seconds(s.boot_max_s)} at most ({s.time_factor:g} times that on the cloud's clock)"),
        ("money", f"${s.usd:.2f} for {s.length_s * s.time_factor / 60:.0f} minutes of the cloud's clock; "
             f"its largest fleet, fixed: ${s.usd_fixed:.2f}{_less(s)}"),
        ("this host", f"{s.cpu_share:.0%} of two cores for {s.wall_s:.0f} s"),
        ("report", f"{directory}/report.json, " + (f"{directory}/picture.png" if can_draw() else
             "no picture: pip install 'mkinf-autoscaler[demo]' adds what draws it")),
    ]  # fmt: skip
    found += [("warning", warning) for warning in s.warnings]
    if not s.problems:
        found.append(("result", "good: no failure unexplained, no machine and no process left"))
    found += [("PROBLEM", problem) for problem in s.problems[:_MOST_PROBLEMS]]
    if len(s.problems) > _MOST_PROBLEMS:
        found.append(("PROBLEM", f"and {len(s.problems) - _MOST_PROBLEMS} more in report.json"))
    return found


def _wrapped(name: str, text: str, width: int) -> list[str]:
    indent = " " * _INDENT
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{name:<{_INDENT}}",
        subsequent_indent=indent,
        break_on_hyphens=False,
        max_lines=_MOST_LINES,
        placeholder=" …",
    )


def _of_them(s: Summary) -> str:
    if not s.failed:
        return ""
    return f", {'all' if s.excused == s.failed else s.excused} with a machine that we killed"


def _less(s: Summary) -> str:
    return f" ({1 - s.usd / s.usd_fixed:.0%} less)" if s.usd_fixed > s.usd > 0 else ""


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} s"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def write(directory: Path, summary: Summary, watch: Watch) -> None:
    """Write report.json and the picture. `first_token_at` is by node, as clients saw it."""
    document = {
        "summary": asdict(summary),
        "notes": [asdict(note) for note in watch.notes],
        "nodes": watch.nodes,
        "first_token_at": _first_tokens(watch.load.seen),
        "samples": [asdict(sample) for sample in watch.samples],
    }
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    (directory / "report.json").write_bytes(text)
    if watch.samples:
        path = directory / "picture.png"
        path.unlink(missing_ok=True)  # an earlier run's
        if can_draw():
            draw(path, _title(summary), watch)


def _first_tokens(seen: Sequence[Seen]) -> dict[str, str]:
    """When each node that answered first did, in UTC."""
    first: dict[str, float] = {}
    for request in seen:
        if request.first_at is not None:
            name = node_of(request)
            first[name] = min(first.get(name, request.first_at), request.first_at)
    return {name: datetime.fromtimestamp(at, UTC).isoformat() for name, at in first.items()}


def _title(s: Summary) -> str:
    return (
        f"{s.requests} requests ({s.source}): {s.failed} failed{_of_them(s)}; "
        f"{_share(s.ttft_within_2s)} of first tokens within {TTFT_TARGET_S:g} s\n"
        f"${s.usd:.2f} on the emulated bill, ${s.usd_fixed:.2f} for the largest fleet all the time"
        f"{_less(s)}"
    )
