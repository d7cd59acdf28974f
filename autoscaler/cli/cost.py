"""`autoscaler cost`: what was spent, what it will come to, when each limit bites, and what nodes cost that ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from autoscaler.act import Limits
from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, JsonOption, NoDaemon, get, own_store
from autoscaler.cli.connection import Table, said_errors, show
from autoscaler.cli.nodes import short
from autoscaler.cli.screen import Painted
from autoscaler.cli.words import limit, money, span
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies
from autoscaler.serve.cost import cost_view

View = dict[str, Any]  # as the daemon serves it

_WORDS: Final = {
    "usd_per_hour": "$/h",
    "usd_per_day": "$/day",
    "usd_per_month": "$/month",
    "nodes": "nodes",
    "gpus": "GPUs",
    "launches": "launches per window",
    "failures": "failures in a row",
}
_BASES: Final = {"day": "as the last day's mean", "now": "as what runs now"}


def cost(
    receipts: Annotated[
        int, typer.Option("--receipts", help="so many of the nodes that ended last", min=0)
    ] = 5,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """What was spent today and this month, what it will come to, and when each limit bites.

    By our own meter, which runs from the create call to proven absence. A limit bites from the moment when it lets
    nothing more be rented; "used up" is when so much is spent.
    """
    with said_errors():
        view = asyncio.run(_cost(read_config(config)))
        if json:
            show(Table((), (), view), as_json=True)
            return
        for table in cost_tables(view, receipts, datetime.now(UTC)):
            show(table, as_json=False)


async def _cost(config: Config) -> View:
    try:
        answer: View = await get(config, "/api/v1/cost")
    except NoDaemon:
        policies = read_policies(config.policies).policies
        async with own_store(config) as store:
            now = datetime.now(UTC)
            answer = dict(await cost_view(store, Limits(config.limits, policies), (), now))
        answer["trouble"] = "no daemon runs: these figures are as it left them"
    return answer


def cost_tables(view: View, receipts: int, now: datetime) -> Iterator[Table]:
    """The screen, from the top: all money, each model's, the limits, the receipts."""
    lead: list[Painted | tuple[object, ...]] = []
    if view.get("trouble"):
        lead.append(Painted(f"! {view['trouble']}", "bold red"))
    lead.append(_all(view))
    yield Table(
        columns=("Model", "$/h", "$ today", "$ by midnight", "$ month", "$ by its end"),
        rows=[_model(each) for each in view["models"]],
        document=view,
        lead=lead,
        notes=[*_usage(view.get("usage")), ""],
    )
    yield Table(
        columns=("Limit", "Used", "Of", "Then", "Bites"),
        rows=[_limit(each, now) for each in view["limits"] if _is_shown(each)],
        document=view,
        notes=("",) if receipts and view["receipts"] else (),
    )
    if receipts and view["receipts"]:
        yield Table(
            columns=("Ended", "Node", "Type", "Hours", "Served", "$", "Why"),
            rows=[_receipt(each) for each in view["receipts"][:receipts]],
            document=view,
        )


def _all(view: View) -> tuple[object, ...]:
    every = view["all"]
    stray = float(view["stray_usd_per_hour"])
    parts: list[object] = [
        f"{money(every['usd_per_hour'])}/h",
        f"today {money(every['spent_today_usd'])}, {money(every['forecast_today_usd'])} by midnight UTC",
        f"month {money(every['spent_month_usd'])}, {money(every['forecast_month_usd'])} by its end "
        f"({_BASES[every['forecast_basis']]})",
    ]
    if stray:
        parts.append(Painted(f"{money(stray)}/h is ours and in no row", "bold red"))
    return tuple(parts)


def _model(model: View) -> tuple[object, ...]:
    name = model["model"]
    keys = (
        "usd_per_hour",
        "spent_today_usd",
        "forecast_today_usd",
        "spent_month_usd",
        "forecast_month_usd",
    )
    return (Painted(name, short=name.rpartition("/")[2]), *(money(model[key]) for key in keys))


def _is_shown(gauge: View) -> bool:
    """Counts of launches and failures only while there are any: their limits always stand."""
    return gauge["limit"] not in ("launches", "failures") or gauge["used"] > 0


def _limit(gauge: View, now: datetime) -> tuple[object, ...]:
    whose = gauge["model"].rpartition("/")[2] if gauge["model"] else "all"
    in_usd = gauge["limit"].startswith("usd")
    used = money(gauge["used"]) if in_usd else str(gauge["used"])
    most = limit(gauge["most"]) if in_usd else str(gauge["most"])
    return (f"{whose} {_WORDS[gauge['limit']]}", used, most, gauge["on_limit"], _bites(gauge, now))


def _bites(gauge: View, now: datetime) -> object:
    reached = ""
    if gauge["reached_at"]:
        when = datetime.fromisoformat(gauge["reached_at"])
        reached = f"; used up {_when(when, now)}" if when > now else "; used up"
    if gauge["bites_at"] is None:
        return "–"
    at = datetime.fromisoformat(gauge["bites_at"])
    if gauge["why"] is not None or at <= now:
        return Painted(f"now{reached}: {gauge['why'] or 'it is used up'}", "bold yellow")
    return Painted(f"{_when(at, now)}{reached}", "yellow")


def _when(at: datetime, now: datetime) -> str:
    return f"in {span((at - now).total_seconds())} ({at:%d %b %H:%M})"


def _usage(usage: View | None) -> list[str | Painted]:
    if usage is None:
        return []
    text = f"{'! ' if usage['differs'] else ''}{usage['words']}"
    return [Painted(text, "bold red" if usage["differs"] else "")]


def _receipt(receipt: View) -> tuple[object, ...]:
    return (
        receipt["until"][5:16].replace("T", " "),
        short(receipt["node"]),
        receipt["type"],
        f"{receipt['hours']:.2f}",
        span(receipt["served_s"]),
        money(receipt["cost_usd"]),
        receipt["why_ended"],
    )
