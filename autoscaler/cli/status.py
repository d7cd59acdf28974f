"""`autoscaler status`: what is wrong, the money, and a line for each model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, JsonOption, NoDaemon, get, own_views
from autoscaler.cli.connection import Table, said_errors, show
from autoscaler.cli.screen import Painted
from autoscaler.cli.words import ago, limit, money, span
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies

View = dict[str, Any]  # as the daemon serves it

_STYLES: Final = {
    "ok": "green",
    "zero": "dim",
    "booting": "yellow",
    "hold": "yellow",
    "limit": "bold yellow",
    "failing": "bold red",
    "shadow": "cyan",
    "paused": "magenta",
    "retired": "dim",
}
_COMING: Final = ("planned", "creating", "booting", "verifying")
_LEAVING: Final = ("draining", "terminating", "failed")


def status(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """What is wrong, what it all costs, and for each model how it stands, what comes next and when.

    The words: ok, zero (no node), booting (none serves yet), hold (a figure is missing, so nothing is given back),
    limit (more is wanted than a limit lets be rented), failing (nothing can be rented for it), paused, shadow, retired.
    """
    with said_errors():
        show(status_table(asyncio.run(_status(read_config(config)))), as_json=json)


async def _status(config: Config) -> View:
    try:
        answer: View = await get(config, "/api/v1/status")
    except NoDaemon:
        async with own_views(config) as views:
            answer = dict(
                await views.status(
                    read_policies(config.policies).policies, emulated=config.cloud.is_loopback
                )
            )
        answer["trouble"] = [
            "no daemon runs: these figures are as it left them",
            *answer["forgotten"],
        ]
        hour, month = config.limits.usd_per_hour, config.limits.usd_per_month
        answer["limits"] = {
            "usd_per_hour": str(hour.usd) if hour else None,
            "usd_per_month": str(month.usd) if month else None,
            "nodes": config.limits.nodes,
        }
    return answer


def status_table(view: View) -> Table:
    """The screen for what the daemon says."""
    lead: list[Painted | tuple[object, ...]] = [
        Painted(f"! {text}", "bold red") for text in view.get("trouble", [])
    ]
    lead.append(_money(view))
    names = _names([model["model"] for model in view["models"]])
    notes = []
    if view.get("unproven"):
        facts = ", ".join(view["unproven"])
        notes.append(f"unproven of this cloud: {facts} (`autoscaler trial POLICY`)")
    return Table(
        columns=("Model", "State", "Nodes", "Demand", "In time", "$/h", "Next"),
        rows=[_row(model, names[model["model"]]) for model in view["models"]],
        document=view,
        notes=notes,
        lead=lead,
        headed=False,
    )


def _money(view: View) -> tuple[object, ...]:
    limits = view.get("limits") or {}
    hour = f" of {limit(limits['usd_per_hour'])}" if limits.get("usd_per_hour") else ""
    parts: list[object] = [f"{money(view['usd_per_hour'])}/h{hour}"]
    month = f"month {money(view['spent_month_usd'])}"
    most = f" of {limit(limits['usd_per_month'])}" if limits.get("usd_per_month") else ""
    if view.get("forecast_month_usd") is not None:
        basis = {"day": "mean of the last day", "now": "as now"}[view["forecast_basis"]]
        month += f", forecast {money(view['forecast_month_usd'])}{most} ({basis})"
        over = most and float(view["forecast_month_usd"]) > float(limits["usd_per_month"])
        parts.append(Painted(month, "bold yellow" if over else ""))
    else:
        parts.append(month + most)
    count = view.get("unaccounted")
    swept = f" (swept {ago(view.get('swept_at'))} ago)" if view.get("swept_at") else ""
    text = f"{'unknown' if count is None else count} unaccounted{swept}"
    return (*parts, Painted(text, "bold red" if count else ""))


def _names(models: Sequence[str]) -> dict[str, Painted]:
    """Each model by its name; on a narrow screen without its owner, where that leaves no doubt."""
    ends = Counter(name.rpartition("/")[2] for name in models)
    return {
        name: Painted(name, short=end if ends[end := name.rpartition("/")[2]] == 1 else None)
        for name in models
    }


def _row(model: View, name: Painted) -> tuple[object, ...]:
    word = model.get("state") or model["mode"]
    return (
        name,
        Painted(word, _STYLES.get(word, "")),
        _nodes(model["nodes"]),
        _demand(model),
        _in_time(model),
        f"{money(model['usd_per_hour'])}/h",
        _next(model, word),
    )


def _nodes(nodes: dict[str, int]) -> str:
    ready, coming, leaving = (
        sum(nodes.get(state, 0) for state in states) for states in (("ready",), _COMING, _LEAVING)
    )
    parts = [f"{ready} ready"] if ready else []
    parts += [f"{'+' if ready else ''}{coming} booting"] if coming else []
    parts += [f"{'-' if ready or coming else ''}{leaving} leaving"] if leaving else []
    return " ".join(parts) or "0"


def _demand(model: View) -> str:
    if model.get("demand") is None:
        return "demand ?" if model.get("decided_at") else ""
    if not model["demand"] and not model.get("ready"):
        return f"idle {ago(model['idle_since'])}" if model.get("idle_since") else "no demand"
    return f"demand {_figure(model['demand'])} of {_figure(model.get('ready') or 0)}"


def _figure(value: Any) -> str:
    number = float(value)
    return f"{number:.1f}" if number < 99.95 else f"{number:,.0f}"


def _in_time(model: View) -> object:
    attained = model.get("attained")
    if attained is None:
        return "–"
    share, goal = float(attained), float(model["goal"])
    # cut, not rounded: 94.96 % must not look like a goal of 95 that was met
    text = f"{int(share * 1000 + 1e-6) / 10:g}% (goal {goal * 100:g})"
    return Painted(text, "" if share >= goal else "bold yellow")


def _next(model: View, word: str) -> str:
    said = [text for text in (_stopped(model, word), _override(model), _coming(model)) if text]
    if not said and model.get("wakes") and word in ("zero", "booting"):
        said = [_wakes(model)]
    return "; ".join(said)


def _stopped(model: View, word: str) -> str:
    if word == "paused":
        who, since = model.get("paused_by"), ago(model.get("paused_at"))
        return f"by {who or 'its policy'}{f' for {since}' if who and since else ''}"
    shadow = model.get("shadow")
    if word == "shadow" and shadow:
        return (
            f"on paper {shadow['nodes']} at {money(shadow['usd_per_hour'])}/h, "
            f"{money(shadow['cost_usd'])} so far"
        )
    return str(model.get("state_why") or "")


def _override(model: View) -> str:
    found = model.get("override")
    return (
        f"set to {found['nodes']} until {found['until'][11:16]} by {found['by']}" if found else ""
    )


def _coming(model: View) -> str:
    coming = model.get("coming") or []
    if not coming:
        return ""
    more = f" (+{len(coming) - 1} more)" if len(coming) > 1 else ""
    return f"{coming[0]['type']} serves in ~{span(coming[0]['usual_s'])}{more}"


def _wakes(model: View) -> str:
    wakes = model["wakes"]
    likely = f"p90 {span(wakes['likely_s'])}" if wakes["boots"] else "not measured yet"
    return f"wakes in ~{span(wakes['usual_s'])} ({likely})"
