"""`autoscaler nodes` and `events`: every machine, and its story."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, JsonOption, NoDaemon, get, own_views
from autoscaler.cli.connection import Table, said_errors, show
from autoscaler.cli.words import ago, counted
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies
from autoscaler.domain.ids import ModelName, NodeName, parse_name
from autoscaler.errors import ConfigError
from autoscaler.policies import find_model
from autoscaler.policy import Policy

Rows = list[dict[str, Any]]  # a view as the daemon serves it
_MOST_NAMED = 20


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
                ago(n["since"]),
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
                columns=("At", "Node or model", "Event", "By", "Cause"),
                rows=[
                    (
                        r["at"][5:19].replace("T", " "),
                        short(r["node"]) if r["node"] else r["model"],
                        r["kind"].removeprefix("node_"),
                        r["actor"],
                        r["cause"],
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
    if what is None:
        return await _told(config, limit)
    nodes = await _nodes(config, closed=True)
    node = named(nodes, what)
    if node is not None:
        return await _told(config, limit, node=NodeName(str(node["name"])))
    models = _policies(config)
    model = _model(models, what)
    if model is not None:
        return await _told(config, limit, model=model)
    if parse_name(what) is not None:  # one that ended long ago
        rows = await _told(config, limit, node=NodeName(what))
    else:  # its policy may be gone
        rows = await _told(config, limit, model=ModelName(what))
    if not rows:
        raise ConfigError(_unknown(what, models, nodes))
    return rows


def _model(models: Mapping[ModelName, Policy], what: str) -> ModelName | None:
    try:
        return find_model(models, what)
    except ConfigError:
        return None


def _policies(config: Config) -> Mapping[ModelName, Policy]:
    """What the config names, or nothing while a file has mistakes: a story can be told without."""
    try:
        return read_policies(config.policies).policies
    except ConfigError:
        return {}


def _unknown(what: str, models: Mapping[ModelName, Policy], nodes: Rows) -> str:
    near = [short(row["name"]) for row in nodes if what in row["name"]]
    if near:
        return (
            f"{what}: {counted(len(near), 'node')}, write one out: {', '.join(near[:_MOST_NAMED])}"
        )
    names = [short(row["name"]) for row in nodes]
    return (
        f"{what}: no such node or model; models: {', '.join(sorted(models)) or 'none'}; "
        f"nodes of the last day: {', '.join(names[:_MOST_NAMED]) or 'none'} (`autoscaler nodes --all`)"
    )


async def _told(
    config: Config, limit: int, node: NodeName | None = None, model: ModelName | None = None
) -> Rows:
    asked = {"node": node, "model": model}
    query = {key: str(value) for key, value in asked.items() if value is not None}
    try:
        answer: Rows = await get(config, "/api/v1/events", limit=str(limit), **query)
    except NoDaemon:
        async with own_views(config) as views:
            answer = list(await views.events(node, model, limit))
    return answer
