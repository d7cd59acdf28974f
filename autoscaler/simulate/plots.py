"""What a backtest's page draws: traces and axes for plotly.js, and where their points lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from typing import Any

from autoscaler.simulate.result import Minute, Result

MOST_VALUES = 200_000  # of all lines together: a megabyte of JSON
_LINES = 15  # beside those of the machines
_MINUTE_S, _HOUR_S = 60.0, 3600.0
_QUANTILES = (("p50", 0.5, "#56b4e9"), ("p95", 0.95, "#0072b2"), ("p99", 0.99, "#cc79a7"))
# One colour per type, told apart by colour-blind readers too.
_TYPES = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00")
_INK, _RED, _GREEN = "#222222", "#c8321f", "#2a8a3e"
# how a machine's area is filled while it serves, boots, leaves
_STATES = (("serving", 0.8, ""), ("booting", 0.33, "/"), ("leaving", 0.2, "."))


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture.

    Attributes:
        hint: what is to be known to read it.
        traces: for plotly.js, but that `x` is the name of one of the page's lists of hours.
        axes: what its layout has beside what all have.
    """

    title: str
    hint: str
    traces: Sequence[dict[str, Any]]
    axes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drawing:
    """All plots, and the hours of the trace at which they have values."""

    hours: dict[str, list[float]]
    plots: tuple[Plot, ...]
    every_s: float


def drawing(result: Result, since_h: float = 0.0) -> Drawing:
    """Draw a result whose trace began at this hour. A long one is drawn by several minutes at a time."""
    types = sorted({name for minute in result.minutes for name, *_ in minute.fleet})
    count = max(len(result.minutes), math.ceil(result.length_s / _MINUTE_S))
    step = max(1, math.ceil(count * (_LINES + len(_STATES) * len(types)) / MOST_VALUES))
    ends = result.minutes[step - 1 :: step]
    spans = _spans(result.minutes, step)
    slots = _slots(result, step * _MINUTE_S)
    hours = {
        "minutes": [round(since_h + m.at_s / _HOUR_S, 4) for m in ends],
        "slots": [round(since_h + slot.at_s / _HOUR_S, 4) for slot in slots],
    }
    plots = (
        _demand(ends),
        _machines(ends, types),
        _first_tokens(result, slots),
        _in_time(result, slots),
        _money(ends),
        _waiting(ends, spans, slots, step * _MINUTE_S),
    )
    return Drawing(hours, plots, step * _MINUTE_S)


@dataclass(frozen=True, slots=True)
class _Slot:
    """First tokens of the requests that came in one span of time."""

    at_s: float
    came: int
    in_time: float | None
    quantiles: tuple[float | None, ...]


def _slots(result: Result, width_s: float) -> list[_Slot]:
    requests, aim = result.requests, result.aim
    count = max(1, math.ceil(result.length_s / width_s))
    firsts: list[list[float]] = [[] for _ in range(count)]
    came, good = [0] * count, [0] * count
    for index, arrival_s in enumerate(requests.arrival_s):
        place = min(int(arrival_s // width_s), count - 1)
        came[place] += 1
        first_s = requests.ttft_s[index]
        if first_s == first_s:
            firsts[place].append(first_s)
        most_s = aim.ttft_s + aim.ttft_per_prompt_token_s * requests.prompt_tokens[index]
        good[place] += not requests.lost[index] and first_s <= most_s
    return [
        _Slot(
            place * width_s,
            came[place],
            good[place] / came[place] if came[place] else None,
            _ranks(sorted(firsts[place])),
        )
        for place in range(count)
    ]


def _ranks(ranked: Sequence[float]) -> tuple[float | None, ...]:
    """The smallest values that each share of them does not exceed."""
    if not ranked:
        return tuple(None for _ in _QUANTILES)
    return tuple(ranked[max(0, math.ceil(q * len(ranked)) - 1)] for _, q, _ in _QUANTILES)


def _spans(minutes: Sequence[Minute], step: int) -> list[Sequence[Minute]]:
    return [minutes[i : i + step] for i in range(0, len(minutes) - step + 1, step)]


def _demand(ends: Sequence[Minute]) -> Plot:
    return Plot(
        "Demand and capacity",
        "In replicas on the reference machine, as each decision counted them.",
        (
            _line("capacity that serves", "minutes", [m.ready for m in ends], "#56b4e9", step=True)
            | {"fill": "tozeroy", "fillcolor": _faint("#56b4e9", 0.33)},
            _line("wanted", "minutes", [m.want for m in ends], "#e69f00", step=True, dash="dot"),
            _line("demand", "minutes", [m.demand for m in ends], _INK),
        ),
        {"yaxis": {"title": {"text": "replicas"}, "rangemode": "tozero"}},
    )


def _machines(ends: Sequence[Minute], types: Sequence[str]) -> Plot:
    counts = [{name: states for name, *states in m.fleet} for m in ends]
    traces = []
    for number, name in enumerate(types):
        colour = _TYPES[number % len(_TYPES)]
        for state, (word, share, pattern) in _ordered_states():
            values = [found[name][state] if name in found else 0 for found in counts]
            if not any(values):
                continue
            area = _line(f"{name} {word}", "minutes", values, colour, step=True) | {
                "stackgroup": "machines",
                "fillcolor": _faint(colour, share),
                "fillpattern": {"shape": pattern, "size": 6, "fgcolor": colour},
            }
            area["line"] |= {"width": 0.5}
            traces.append(area)
    return Plot(
        "Machines",
        "By type, one upon another: those that serve, boot, and leave.",
        traces,
        {"yaxis": {"title": {"text": "machines"}, "rangemode": "tozero"}},
    )


def _ordered_states() -> Iterable[tuple[int, tuple[str, float, str]]]:
    """Serving at the bottom; a `Minute` has boots first."""
    return zip((1, 0, 2), _STATES, strict=True)


def _first_tokens(result: Result, slots: Sequence[_Slot]) -> Plot:
    aim = result.aim
    more = f" + {aim.ttft_per_prompt_token_s * 1e3:g} ms a prompt token"
    goal = f"target {aim.ttft_s:g} s{more if aim.ttft_per_prompt_token_s else ''}"
    lines = [
        _line(name, "slots", [slot.quantiles[n] for slot in slots], colour)
        for n, (name, _, colour) in enumerate(_QUANTILES)
    ]
    target = _line(goal, "slots", [aim.ttft_s] * len(slots), _GREEN, dash="dash")
    return Plot(
        "First token",
        "Of the requests that came in each minute; the scale is logarithmic.",
        (*lines, target),
        {"yaxis": {"title": {"text": "seconds"}, "type": "log", "dtick": 1}},
    )


def _in_time(result: Result, slots: Sequence[_Slot]) -> Plot:
    shares = [None if s.in_time is None else s.in_time * 100 for s in slots]
    goal = result.aim.goal * 100
    return Plot(
        "In time",
        "The share of each minute's requests whose first token came within the target; lost ones did not.",
        (
            _line("in time", "slots", shares, "#0072b2"),
            _line(f"goal {goal:g}%", "slots", [goal] * len(slots), _GREEN, dash="dash"),
        ),
        {"yaxis": {"title": {"text": "% of requests"}, "range": [0, 103]}},
    )


def _money(ends: Sequence[Minute]) -> Plot:
    rates = [
        (after.usd - before.usd) / (after.at_s - before.at_s) * _HOUR_S
        for before, after in pairwise(ends)
    ]
    spent = _line("$ so far (right)", "minutes", [m.usd for m in ends], _GREEN, digits=6)
    return Plot(
        "Money",
        "What the machines billed an hour, and in total.",
        (_line("$ an hour", "minutes", [*rates[:1], *rates], _RED), spent | {"yaxis": "y2"}),
        {
            "yaxis": {"title": {"text": "$ an hour"}, "rangemode": "tozero"},
            "yaxis2": {
                "title": {"text": "$ so far"},
                "rangemode": "tozero",
                "overlaying": "y",
                "side": "right",
                "showgrid": False,
            },
        },
    )


def _waiting(
    ends: Sequence[Minute],
    spans: Sequence[Sequence[Minute]],
    slots: Sequence[_Slot],
    width_s: float,
) -> Plot:
    def worst(counted: Callable[[Minute], bool]) -> list[int]:
        return [max((m.waiting for m in span if counted(m)), default=0) for span in spans]

    return Plot(
        "Requests",
        "Held wait while no machine serves, queued while some do; both stand in the balancer.",
        (
            _line("in flight", "minutes", [m.in_flight for m in ends], "#009e73"),
            _line("queued", "minutes", worst(_serves), "#e69f00"),
            _line("held", "minutes", worst(lambda m: not _serves(m)), _RED),
            _line("came per second (right)", "slots", [s.came / width_s for s in slots], "#999999")
            | {"yaxis": "y2"},
        ),
        {
            "yaxis": {"title": {"text": "requests"}, "rangemode": "tozero"},
            "yaxis2": {
                "title": {"text": "a second"},
                "rangemode": "tozero",
                "overlaying": "y",
                "side": "right",
                "showgrid": False,
            },
        },
    )


def _serves(minute: Minute) -> bool:
    return any(serving for _, _, serving, _ in minute.fleet)


def _line(
    name: str,
    hours: str,
    values: Sequence[float | None],
    colour: str,
    *,
    dash: str = "solid",
    step: bool = False,
    digits: int = 4,
) -> dict[str, Any]:
    """A line; one with gaps shows the points that stand alone. plotly takes names for HTML: they are escaped."""
    return {
        "type": "scatter",
        "name": escape(name, quote=False),
        "x": hours,
        "y": [None if value is None else _short(value, digits) for value in values],
        "mode": "lines+markers" if None in values else "lines",
        "marker": {"size": 3},
        "line": {"color": colour, "width": 1.5, "dash": dash, "shape": "hv" if step else "linear"},
    }


def _faint(colour: str, share: float) -> str:
    red, green, blue = bytes.fromhex(colour[1:])
    return f"rgba({red},{green},{blue},{share:g})"


def _short(value: float, digits: int) -> float:
    """So many digits that count: the page is to stay small."""
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")
