"""The live table, and plain lines where there is no terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoscaler.demo.watch import Watch

_OPEN = (
    "planned",
    "creating",
    "booting",
    "verifying",
    "ready",
    "draining",
    "failed",
    "terminating",
)
_LINE_EVERY = 10  # looks between two plain lines


async def show(watch: Watch, console: Console) -> None:
    """Show the run until cancelled."""
    if not console.is_terminal:
        await _plain(watch, console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            await watch.next_look()
            live.update(_screen(watch))


async def _plain(watch: Watch, console: Console) -> None:
    told = looks = 0
    while True:
        await watch.next_look()
        for note in watch.notes[told:]:
            console.print(note, highlight=False, markup=False, soft_wrap=True)
        told = len(watch.notes)
        if looks % _LINE_EVERY == 0 and watch.samples:
            console.print(_headline(watch), highlight=False, markup=False, soft_wrap=True)
        looks += 1


def _headline(watch: Watch) -> str:
    s = watch.samples[-1]
    fleet = ", ".join(f"{n} {t}" for t, n in s.ready.items()) or "none"
    coming = f" +{sum(s.coming.values())} coming" if s.coming else ""
    return (
        f"{s.t_s:6.1f} s  {s.rate:5.1f} req/s, {s.in_flight} in flight, {s.done} done, "
        f"{s.failed} failed | nodes: {fleet}{coming} | ${s.usd_per_hour:.2f}/h, ${s.usd:.4f} so far"
    )


def _screen(watch: Watch) -> Group:
    if not watch.samples:
        return Group(Text("starting"))
    nodes = Table(box=None, pad_edge=False)
    for column in ("node", "state", "type", "location", "$/h", "what"):
        nodes.add_column(column, no_wrap=True)
    for node in watch.nodes:
        if node["state"] in _OPEN:
            nodes.add_row(*_row(node))
    return Group(
        Text(_headline(watch), no_wrap=True, overflow="ellipsis"),
        Text(watch.reason, no_wrap=True, overflow="ellipsis", style="dim"),
        nodes,
        *(
            Text(note, no_wrap=True, overflow="ellipsis", style="yellow")
            for note in watch.notes[-5:]
        ),
    )


def _row(node: dict[str, Any]) -> tuple[Text, ...]:
    colour = {"ready": "green", "draining": "yellow", "failed": "red"}.get(node["state"], "cyan")
    what = node["failure"] or (node["stage"] if node["state"] != "ready" else "") or ""
    return (
        Text(str(node["name"])[13:24]),
        Text(node["state"], style=colour),
        Text(node["type"]),
        Text(node["location"]),
        Text(f"{float(node['usd_per_hour']):.2f}"),
        Text(str(what)[:60]),
    )
