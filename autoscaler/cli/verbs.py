"""Commands that change something: pause, resume, retire, drain, sweep. Each says what it does and asks."""

from __future__ import annotations

import asyncio
import getpass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from autoscaler.cli.ask import (
    DEFAULT_CONFIG,
    ConfigOption,
    NoDaemon,
    YesOption,
    get,
    own_store,
    own_views,
    post,
)
from autoscaler.cli.connection import confirmed, said_errors
from autoscaler.cli.inspect import named
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies
from autoscaler.errors import ConfigError
from autoscaler.policies import find_model
from autoscaler.serve.views import marked


def pause(model: str, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Stop launching and releasing for a model. What runs goes on and bills; limits and deletes too."""
    with said_errors():
        asyncio.run(_mark(read_config(config), "pause", model))


def resume(model: str, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Let a paused, retired or stopped model go on."""
    with said_errors():
        asyncio.run(_mark(read_config(config), "resume", model))


def retire(model: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Drain every node of a model and rent no more for it. `resume` takes it back."""
    with said_errors():
        settings = read_config(config)
        nodes = [n for n in asyncio.run(_nodes(settings)) if _is_of(n, model)]
        rate = sum(float(node["usd_per_hour"]) for node in nodes)
        confirmed(
            f"Drain and give back {len(nodes)} nodes of {model} (${rate:.2f}/h less), and rent no more?",
            yes=yes,
        )
        asyncio.run(_mark(settings, "retire", model))


def drain(node: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Drain one node and give it back. If its capacity is still wanted, another one is rented."""
    with said_errors():
        settings = read_config(config)
        found = named(asyncio.run(get(settings, "/api/v1/nodes")), node)
        if found is None:
            raise ConfigError(f"{node}: no such node, or several (`autoscaler nodes` lists them)")
        confirmed(
            f"Drain {node} ({found['type']} at ${float(found['usd_per_hour']):.2f}/h) and give it back?",
            yes=yes,
        )
    _say(config, "/api/v1/drain", node=found["name"])


def sweep(
    confirm: Annotated[
        bool, typer.Option("--confirm", help="act on a listing that a guard holds back")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
) -> None:
    """Compare the cloud's listing with the store now."""
    if confirm:
        confirmed("Act on the next listing although a guard says it is implausible?", yes=yes)
    _say(config, "/api/v1/sweep", confirm=confirm)


async def _nodes(config: Config) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = await get(config, "/api/v1/nodes")
    except NoDaemon:
        async with own_views(config) as views:
            found = list(await views.nodes(closed=False))
    return found


def _is_of(node: dict[str, Any], model: str) -> bool:
    return str(node["model"]).lower().endswith(model.lower())


async def _mark(config: Config, verb: str, model: str) -> None:
    """Tell the daemon; with none running, leave the mark in the store for the next one."""
    try:
        _print(await post(config, f"/api/v1/{verb}", model=model))
        return
    except NoDaemon:
        pass
    name = find_model(read_policies(config.policies).policies, model)
    now, actor = datetime.now(UTC), getpass.getuser()
    async with own_store(config) as store:
        match verb:
            case "pause":
                await store.set_paused(name, actor, now)
            case "retire":
                await store.set_retired(name, actor, now)
            case _:
                await store.set_paused(name, None, now)
                await store.set_retired(name, None, now)
                await store.set_meta(f"resumed:{name}", now.isoformat())
        await store.add_event(marked(name, f"model_{verb}d", actor, now))
    _print({"model": name, "noted": f"{verb}: in force when the next daemon starts"})


def _print(answer: dict[str, Any]) -> None:
    typer.echo(", ".join(f"{key}: {value}" for key, value in answer.items()))


def _say(config: ConfigOption, path: str, **body: object) -> None:
    with said_errors():
        _print(asyncio.run(post(read_config(config), path, **body)))
