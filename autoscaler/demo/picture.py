"""The picture of a run: traffic, demand against capacity, what users felt, and money, over time."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from autoscaler.demo.settings import TTFT_TARGET_S
from autoscaler.demo.watch import Watch

# One colour per offer type, told apart by colour-blind readers too.
_TYPES = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00")
_INK, _GREY, _RED, _BLUE, _GREEN = "#222222", "#999999", "#d62728", "#1f77b4", "#2a8a3e"


def can_draw() -> bool:
    """Whether what draws is installed: it is an extra."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(path: Path, title: str, watch: Watch) -> None:
    """Draw a run with at least one sample."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        4, 1, figsize=(11, 11.5), sharex=True, height_ratios=(2, 3.2, 2, 2), layout="constrained"
    )
    traffic, fleet, latency, money = panels
    _traffic(traffic, watch)
    _fleet(fleet, watch)
    _latency(latency, watch)
    _money(money, watch)
    _events(panels, watch)
    money.set_xlabel("seconds since the first request")
    figure.suptitle(title, fontsize=11, parse_math=False)  # $ is money
    figure.align_ylabels(panels)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _traffic(panel: Any, watch: Watch) -> None:  # matplotlib ships no types, here and below
    t = [s.t_s for s in watch.samples]
    rate = panel.fill_between(t, [s.rate for s in watch.samples], color=_BLUE, alpha=0.5, lw=0)
    panel.set_ylabel("requests per second")
    other = panel.twinx()
    (flying,) = other.plot(t, [s.in_flight for s in watch.samples], color=_INK, lw=1.2)
    other.set_ylabel("in flight")
    for axis in (panel, other):
        axis.set_ylim(bottom=0)
    _legend(panel, [rate, flying], ["requests per second", "in flight (right)"])


def _fleet(panel: Any, watch: Watch) -> None:
    samples = watch.samples
    t = [s.t_s for s in samples]
    # the type that came first lies at the bottom
    types = list(dict.fromkeys(name for s in samples for name in s.units))
    layers = [[s.units.get(name, 0.0) for s in samples] for name in types]
    handles: list[Any] = []
    if layers:
        handles += panel.stackplot(
            t, layers, step="post", colors=[_TYPES[n % len(_TYPES)] for n in range(len(types))], alpha=0.8
        )  # fmt: skip
    standing = [sum(s.units.values()) for s in samples]
    coming = [have + s.units_coming for have, s in zip(standing, samples, strict=True)]
    handles += panel.step(t, coming, where="post", color=_GREY, lw=1.2, ls=(0, (4, 2)))
    demand = [float("nan") if s.demand is None else s.demand for s in samples]
    handles += panel.plot(t, demand, color=_INK, lw=2.0)
    panel.set_ylabel("replicas")
    panel.set_ylim(bottom=0)
    most = {name: max(s.ready.get(name, 0) for s in samples) for name in types}
    names = [f"{name} (up to {most[name]})" for name in types]
    _legend(panel, handles, [*names, "with those on their way", "demand"])


def _latency(panel: Any, watch: Watch) -> None:
    seen = [s for s in watch.load.seen if s.ttft_s is not None and s.complete]
    points = panel.scatter(
        [s.sent_at - watch.started_at for s in seen],
        [max(s.ttft_s or 0.0, 0.01) for s in seen],
        s=9, color=_BLUE, alpha=0.6, lw=0,
    )  # fmt: skip
    target = panel.axhline(TTFT_TARGET_S, color=_GREEN, lw=1.2, ls="--")
    handles, names = [points, target], ["one request", f"target {TTFT_TARGET_S:g} s"]
    failed = [s for s in watch.load.seen if s.failed]
    if failed:
        crosses = panel.scatter(
            [s.sent_at - watch.started_at for s in failed],
            [(s.ended_at or s.sent_at) - s.sent_at for s in failed],
            s=40, color=_RED, marker="x",
        )  # fmt: skip
        handles.append(crosses)
        names.append("failed (at its end)")
    panel.set_yscale("log")
    panel.set_ylabel("first token, seconds")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _legend(panel, handles, names, "upper right")


def _money(panel: Any, watch: Watch) -> None:
    t = [s.t_s for s in watch.samples]
    (rate,) = panel.step(t, [s.usd_per_hour for s in watch.samples], where="post", color=_RED)
    panel.set_ylabel("$ per hour")
    other = panel.twinx()
    (total,) = other.plot(t, [s.usd for s in watch.samples], color=_GREEN, lw=1.8)
    other.set_ylabel("$ so far")
    for axis in (panel, other):
        axis.set_ylim(bottom=0)
    _legend(panel, [rate, total], ["$ per hour, billed", "$ so far (right)"])


def _events(panels: Any, watch: Watch) -> None:
    """A line through all panels for each event, its name above the first."""
    span = max(watch.samples[-1].t_s, 1.0)
    after, row = -span, 0
    for note in (n for n in watch.notes if n.mark):
        # names that would touch are stacked
        row = row + 1 if note.t_s - after < 0.1 * span else 0
        after = note.t_s
        for panel in panels:
            panel.axvline(note.t_s, color=_RED, lw=0.8, ls=":", zorder=0.5)
        panels[0].annotate(
            note.mark, (note.t_s, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3 + 11 * row),
            textcoords="offset points", ha="center", fontsize=8.5, color=_RED,
        )  # fmt: skip


def _legend(panel: Any, handles: list[Any], names: list[str], place: str = "upper left") -> None:
    panel.legend(handles, names, loc=place, fontsize=8.5, frameon=True, framealpha=0.85)
    panel.grid(axis="y", color="#dddddd", lw=0.6)
    panel.set_axisbelow(True)
    panel.spines["top"].set_visible(False)
