"""Commands that look: status, nodes, events, explain, plan."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, JsonOption, NoDaemon, get, own_views
from autoscaler.cli.connection import Table, said_errors, show
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies
from autoscaler.domain.ids import ModelName, NodeName, parse_name

Rows = list[dict[str, Any]]  # a view as the daemon serves it


def status(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """What is running for each model, what it costs, and what is wrong."""
    with said_errors():
        show(_status_table(asyncio.run(_status(read_config(config)))), as_json=json)


async def _status(config: Config) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = await get(config, "/api/v1/status")
    except NoDaemon:
        async with own_views(config) as views:
            answer = dict(
                await views.status(
                    read_policies(config.policies).policies, emulated=config.cloud.is_loopback
                )
            )
        answer["trouble"] = ["no daemon runs: these figures are as it left them"]
    return answer


def _status_table(view: dict[str, Any]) -> Table:
    limits = view.get("limits") or {}
    hour = f" of ${limits['usd_per_hour']}" if limits.get("usd_per_hour") else ""
    month = f" of ${limits['usd_per_month']}" if limits.get("usd_per_month") else ""
    swept = f" (swept {_ago(view.get('swept_at'))})" if view.get("swept_at") else ""
    notes = [
        f"${float(view['usd_per_hour']):.2f}/h{hour} · today ${float(view['spent_today_usd']):.2f} · "
        f"month ${float(view['spent_month_usd']):.2f}{month} · "
        f"{view.get('unaccounted', 'unknown')} unaccounted{swept}"
    ]
    notes += [f"! {text}" for text in view.get("trouble", [])]
    if view.get("unproven"):
        facts = ", ".join(view["unproven"])
        notes.append(f"unproven of this cloud: {facts} (`autoscaler trial POLICY`)")
    return Table(
        columns=("Model", "Mode", "Nodes", "Demand", "Want", "$/h", "Why"),
        rows=[
            (
                m["model"],
                m["mode"],
                ", ".join(f"{n} {state}" for state, n in m["nodes"].items()) or "0",
                _number(m["demand"]),
                m["want"],
                f"{float(m['usd_per_hour']):.2f}",
                m["reason"],
            )
            for m in view["models"]
        ],
        document=view,
        notes=notes,
    )


def nodes(
    all: Annotated[
        bool, typer.Option("--all", help="also those that ended in the last day")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Every node: what it is, where it stands, what it costs."""
    with said_errors():
        show(_nodes_table(asyncio.run(_nodes(read_config(config), closed=all))), as_json=json)


async def _nodes(config: Config, *, closed: bool) -> Rows:
    try:
        answer: Rows = await get(config, "/api/v1/nodes", **({"all": "1"} if closed else {}))
    except NoDaemon:
        async with own_views(config) as views:
            answer = list(await views.nodes(closed=closed))
    return answer


def _nodes_table(rows: Rows) -> Table:
    return Table(
        columns=("Node", "State", "For", "Type", "Location", "$/h", "$ so far", "What"),
        rows=[
            (
                short(n["name"]),
                n["state"],
                _ago(n["since"]),
                n["type"],
                n["location"],
                f"{float(n['usd_per_hour']):.2f}",
                f"{float(n['cost_usd']):.4f}",
                n["failure"] or _what(n),
            )
            for n in rows
        ],
        document=rows,
    )


def short(name: str) -> str:
    """A node's name without what all of them share: the intent's id and the attempt."""
    parts = parse_name(name)
    return name if parts is None else f"{parts.intent}-{parts.attempt}"


def named(rows: Rows, given: str) -> dict[str, Any] | None:
    """The one node whose name is, or contains, what was given; None when there is none, or several."""
    exact = [row for row in rows if row["name"] == given]
    near = exact or [row for row in rows if len(given) >= 4 and given in row["name"]]
    return near[0] if len(near) == 1 else None


def _what(node: dict[str, Any]) -> str:
    if node["state"] == "draining" and node.get("in_flight") is not None:
        return f"{node['in_flight']} in flight: {node['reason']}"
    if node["state"] in ("booting", "verifying") and node["stage"]:
        return str(node["stage"])
    return str(node["reason"])


def events(
    what: Annotated[str | None, typer.Argument(metavar="[NODE|MODEL]")] = None,
    limit: Annotated[int, typer.Option(help="the newest so many", min=1, max=10_000)] = 200,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """A node's whole story, a model's, or everything lately; with what was saved of failures."""
    with said_errors():
        rows = asyncio.run(_events(read_config(config), what, limit))
        show(
            Table(
                columns=("At", "Node or model", "Event", "Cause", "By"),
                rows=[
                    (
                        r["at"][5:19].replace("T", " "),
                        short(r["node"]) if r["node"] else r["model"],
                        r["kind"].removeprefix("node_"),
                        r["cause"],
                        r["actor"],
                    )
                    for r in rows
                ],
                document=rows,
                notes=[
                    line  # each line by itself: a note is cleaned into one line, and a short one
                    for r in rows
                    if r["detail"]
                    for line in (f"--- {r['kind']} {r['at'][:19]}", *r["detail"].splitlines())
                ]
                if what is not None
                else (),
            ),
            as_json=json,
        )


async def _events(config: Config, what: str | None, limit: int) -> Rows:
    node = named(await _nodes(config, closed=True), what) if what is not None else None
    what = str(node["name"]) if node is not None else what
    query = {} if what is None else {"node" if node is not None else "model": what}
    try:
        answer: Rows = await get(config, "/api/v1/events", limit=str(limit), **query)
    except NoDaemon:
        async with own_views(config) as views:
            answer = list(
                await views.events(
                    NodeName(what) if node is not None and what else None,
                    ModelName(what) if node is None and what else None,
                    limit,
                )
            )
    return answer


def explain(model: str, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Why a model stands where it stands: each rule's wish, which one bound, and what was passed over."""
    _thought("/api/v1/explain", model, config, json)


def plan(model: str, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """What the next pass would do now. Records nothing and rents nothing."""
    _thought("/api/v1/plan", model, config, json)


def _thought(path: str, model: str, config: ConfigOption, as_json: bool) -> None:
    with said_errors():
        answer = asyncio.run(get(read_config(config), path, model=model))
        text = answer.pop("text")
        show(Table((), (), answer, notes=[str(line) for line in _lines(text)]), as_json=as_json)


def _lines(text: object) -> list[str]:
    return text.splitlines() if isinstance(text, str) else [str(line) for line in text or ()]  # type: ignore[attr-defined]  # JSON: text or a list


def _number(value: Any) -> str | None:
    return None if value is None else f"{float(value):.2f}"


def _ago(text: str | None) -> str | None:
    if text is None:
        return None
    seconds = (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
