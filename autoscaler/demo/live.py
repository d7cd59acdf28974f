"""The live table, and plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoscaler.demo.watch import Sample, Watch, short

_CLOSED = ("gone", "lost", "cancelled")
_LINE_EVERY = 10  # looks between two plain lines
_COLOURS = ("blue", "yellow", "green", "magenta", "cyan", "red")  # of offer types, as they come
_STATES = {"ready": "green", "draining": "yellow", "failed": "red", "terminating": "dim"}
_BLOCKS = " ▁▂▃▄▅▆▇█"
_BAR = 30


async def show(watch: Watch, console: Console) -> None:
    """Show the run until cancelled."""
    if not console.is_terminal:
        await _plain(watch, console)
        return
    # what happens is printed above the table and stays; the table itself goes when all is over
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        told = 0
        while True:
            await watch.next_look()
            for note in watch.notes[told:]:
                style = "bold yellow" if note.mark else "dim"
                console.print(Text(str(note), style=style, no_wrap=True, overflow="ellipsis"))
            told = len(watch.notes)
            live.update(screen(watch, console.width, console.height))


async def _plain(watch: Watch, console: Console) -> None:
    told = looks = 0
    while True:
        await watch.next_look()
        for note in watch.notes[told:]:
            console.print(str(note), highlight=False, markup=False, soft_wrap=True)
        told = len(watch.notes)
        if looks % _LINE_EVERY == 0 and watch.samples:
            console.print(
                headline(watch.samples[-1]), highlight=False, markup=False, soft_wrap=True
            )
        looks += 1


def headline(s: Sample) -> str:
    """One look in one line of at most 100 columns."""
    nodes = f"{sum(s.ready.values())} serving"
    coming = f" +{sum(s.coming.values())} coming" if s.coming else ""
    return (
        f"{s.t_s:6.1f} s  {s.rate:4.1f} req/s, {s.in_flight} in flight, {s.done} ok, "
        f"{s.failed} failed | {nodes}{coming} | ${s.usd_per_hour:.2f}/h, ${s.usd:.2f}"
    )


def screen(watch: Watch, width: int, height: int) -> Group:
    """The whole screen: traffic, demand against capacity, why, and the nodes."""
    if not watch.samples:
        return Group(Text("waiting for the daemon's first figures"))
    s = watch.samples[-1]
    rates = [sample.rate for sample in watch.samples]
    lines: list[Text | Table] = [
        _line("traffic", f"{s.rate:5.1f}/s ", (_spark(rates, max(10, min(50, width - 52))), "blue"),
              f"  {s.in_flight} in flight, {s.done} ok, ", _failed(s.failed)),
        _line("replicas", *_bar(s)),
        _line("money", f"${s.usd_per_hour:5.2f}/h, ${s.usd:.2f} so far", ("   on the emulated bill", "dim")),
        _line("why", (watch.reason, "dim")),
        Text(),
    ]  # fmt: skip
    still = [node for node in watch.nodes if node["state"] not in _CLOSED]
    lines.append(_nodes(watch, still, width, max(3, height - len(lines) - 4)))
    return Group(*lines)


def _line(name: str, *parts: str | tuple[str, str]) -> Text:
    return Text.assemble((f"{name:<9}", "bold"), *parts, no_wrap=True, overflow="ellipsis")


def _failed(count: int) -> tuple[str, str]:
    return f"{count} failed", "red" if count else "dim"


def _spark(values: Sequence[float], width: int) -> str:
    shown = values[-width:]
    top = max(values) or 1.0
    blocks = [_BLOCKS[round(v / top * (len(_BLOCKS) - 1))] for v in shown]
    return "".join(blocks).rjust(min(width, len(values)))


def _bar(s: Sample) -> list[str | tuple[str, str]]:
    """Capacity as a bar, what is coming as its continuation, and the figures."""
    most = max(s.capacity + s.units_coming, s.demand or 0.0, s.want or 0.0, 8.0)
    ready = round(s.capacity / most * _BAR)
    coming = min(_BAR - ready, round(s.units_coming / most * _BAR))
    demand = "?" if s.demand is None else f"{s.demand:.1f}"
    want = "?" if s.want is None else f"{s.want:g}"
    return [
        ("█" * ready, "green"),
        ("▒" * coming, "cyan"),
        ("·" * (_BAR - ready - coming), "dim"),
        f"  demand {demand}, want {want}, have {s.capacity:.1f}",
        (f" +{s.units_coming:.1f}" if s.units_coming else "", "cyan"),
    ]


def _nodes(watch: Watch, nodes: Sequence[dict[str, Any]], width: int, rows: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", width=min(width, 100))
    for name, least in (("node", 8), ("state", 11), ("type", 14), ("location", 8), ("$/h", 4)):
        table.add_column(name, no_wrap=True, min_width=least, overflow="ellipsis")
    table.add_column("what", no_wrap=True, ratio=1, overflow="ellipsis")
    colours = _type_colours(watch)
    for node in nodes[:rows]:
        table.add_row(*_row(node, colours))
    if not nodes:
        table.add_row(Text("none", style="dim"), "", "", "", "", "")
    if len(nodes) > rows:
        table.add_row(Text(f"… {len(nodes) - rows} more", style="dim"), "", "", "", "", "")
    return table


def _type_colours(watch: Watch) -> dict[str, str]:
    types = dict.fromkeys(str(node["type"]) for node in watch.nodes)
    return {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(types)}


def _row(node: dict[str, Any], colours: dict[str, str]) -> tuple[Text, ...]:
    state = str(node["state"])
    what = node["failure"] or (node["stage"] if state in ("booting", "verifying") else "") or ""
    if state == "ready":
        what = f"{node['units']:.2f} replicas"
    return (
        Text(short(node)),
        Text(state, style=_STATES.get(state, "cyan")),
        Text(str(node["type"]), style=colours.get(str(node["type"]), "")),
        Text(str(node["location"])),
        Text(f"{float(node['usd_per_hour']):.2f}"),
        Text(str(what), style="dim"),
    )
