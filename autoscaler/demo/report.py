"""The summary at the end, as text, as report.json and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from autoscaler.demo.load import Seen
from autoscaler.demo.settings import DemoSettings
from autoscaler.demo.verdict import Verdict
from autoscaler.demo.watch import Sample

_TTFT_TARGET_S = 2.0


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run. Times in seconds, money in USD."""

    source: str
    length_s: float
    requests: int
    answered: int
    failed: int
    excused: int
    held: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_within_2s: float | None
    nodes_rented: int
    offer_types: tuple[str, ...]
    most_ready: int
    stock_outs: int
    machines_killed: int
    usd: float
    usd_peak_fleet: float
    cpu_share: float
    problems: tuple[str, ...]


def summarize(
    settings: DemoSettings,
    seen: Sequence[Seen],
    samples: Sequence[Sample],
    nodes: Sequence[Mapping[str, Any]],
    verdict: Verdict,
    killed: int,
    cpu_s: float,
) -> Summary:
    """Add a run up."""
    first = sorted(s.ttft_s for s in seen if s.ttft_s is not None and s.complete)
    length = samples[-1].t_s if samples else 0.0
    rented = [n for n in nodes if n["machine_id"] is not None]
    peak = max((s.usd_per_hour for s in samples), default=0.0)
    scale = settings.time_factor / 3600.0  # the cloud's clock runs faster than ours
    return Summary(
        source=str(settings.trace or f"generated, seed {settings.seed}"),
        length_s=round(length, 1),
        requests=len(seen),
        answered=sum(1 for s in seen if s.complete),
        failed=sum(1 for s in seen if s.failed),
        excused=verdict.excused,
        held=sum(1 for s in seen if s.held),
        ttft_p50_s=_quantile(first, 0.5),
        ttft_p95_s=_quantile(first, 0.95),
        ttft_within_2s=(
            round(sum(1 for t in first if t <= _TTFT_TARGET_S) / len(seen), 4) if seen else None
        ),
        nodes_rented=len(rented),
        offer_types=tuple(sorted({str(n["type"]) for n in rented})),
        most_ready=max((sum(s.ready.values()) for s in samples), default=0),
        stock_outs=sum(1 for n in nodes if str(n["failure"] or "").startswith("stock")),
        machines_killed=killed,
        usd=round(samples[-1].usd, 4) if samples else 0.0,
        usd_peak_fleet=round(peak * length * scale, 4),
        cpu_share=round(cpu_s / (2 * length), 3) if length else 0.0,
        problems=verdict.problems,
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


def lines(summary: Summary, directory: Path) -> list[str]:
    """The summary for people."""
    s = summary
    attained = f"{s.ttft_within_2s:.1%}" if s.ttft_within_2s is not None else "none"
    saved = f" ({1 - s.usd / s.usd_peak_fleet:.0%} less)" if s.usd_peak_fleet > s.usd > 0 else ""
    found = [
        f"traffic    {s.requests} requests in {s.length_s:.0f} s ({s.source}): {s.answered} answered, "
        f"{s.failed} failed, {s.excused} of them with a machine that we killed",
        f"latency    first token p50 {s.ttft_p50_s} s, p95 {s.ttft_p95_s} s; {attained} within 2 s; "
        f"{s.held} waited for a first node",
        f"fleet      {s.nodes_rented} machines of {len(s.offer_types)} types "
        f"({', '.join(s.offer_types)}), up to {s.most_ready} at once; {s.stock_outs} sold out, "
        f"{s.machines_killed} died",
        f"money      ${s.usd:.4f} on the emulated bill; the largest fleet all the time: "
        f"${s.usd_peak_fleet:.4f}{saved}",
        f"this host  {s.cpu_share:.0%} of two cores",
        f"report     {directory}/report.json, {directory}/picture.png",
    ]
    found += [f"PROBLEM    {problem}" for problem in s.problems[:20]]
    return found


def write(directory: Path, summary: Summary, samples: Sequence[Sample], notes: Sequence[str],
          nodes: Sequence[Mapping[str, Any]]) -> None:  # fmt: skip
    """Write report.json and the picture."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "summary": asdict(summary),
        "notes": list(notes),
        "nodes": list(nodes),
        "samples": [asdict(sample) for sample in samples],
    }
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    (directory / "report.json").write_bytes(text)
    if samples:
        _draw(directory / "picture.png", summary, samples)


def _draw(path: Path, summary: Summary, samples: Sequence[Sample]) -> None:
    """Demand, capacity by type, and money over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    t = [s.t_s for s in samples]
    types = sorted({name for s in samples for name in s.ready})
    figure, (traffic, fleet, money) = plt.subplots(3, 1, figsize=(10, 8), sharex=True)
    traffic.plot(t, [s.rate for s in samples], color="#1f77b4", label="requests/s")
    traffic.plot(t, [s.in_flight for s in samples], color="#999999", lw=1, label="in flight")
    traffic.set_ylabel("traffic")
    traffic.legend(loc="upper right", frameon=False)
    layers = [[float(s.ready.get(name, 0)) for s in samples] for name in types]
    if layers:
        fleet.stackplot(t, layers, labels=types, step="post", alpha=0.7)
    fleet.step(
        t,
        [sum(s.ready.values()) + sum(s.coming.values()) for s in samples],
        where="post",
        color="black",
        lw=1,
        ls="--",
        label="with those on their way",
    )
    fleet.set_ylabel("nodes serving")
    fleet.legend(loc="upper right", frameon=False)
    money.plot(t, [s.usd_per_hour for s in samples], color="#d62728", label="$/h billed")
    total = money.twinx()
    total.plot(t, [s.usd for s in samples], color="#2ca02c", label="$ so far")
    money.set_ylabel("$/h")
    total.set_ylabel("$ so far")
    money.set_xlabel("seconds")
    figure.suptitle(
        f"{summary.requests} requests, {summary.failed} failed, first token p95 {summary.ttft_p95_s} s, "
        f"${summary.usd:.3f}"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
