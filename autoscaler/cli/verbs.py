"""Commands that change something: pause, resume, retire, drain, sweep. Each says what it does and asks."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, YesOption, get, post
from autoscaler.cli.connection import confirmed, said_errors
from autoscaler.cli.inspect import named
from autoscaler.config import Config
from autoscaler.config_file import read_config
from autoscaler.errors import ConfigError


def pause(model: str, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Stop launching and releasing for a model. What runs goes on and bills; limits and deletes too."""
    _say(config, "/api/v1/pause", model=model)


def resume(model: str, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Let a paused, retired or stopped model go on."""
    _say(config, "/api/v1/resume", model=model)


def retire(model: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Drain every node of a model and rent no more for it. `resume` takes it back."""
    with said_errors():
        settings = read_config(config)
        nodes = asyncio.run(_nodes_of(settings, model))
        rate = sum(float(node["usd_per_hour"]) for node in nodes)
        confirmed(
            f"Drain and give back {len(nodes)} nodes of {model} (${rate:.2f}/h less), and rent no more?",
            yes=yes,
        )
    _say(config, "/api/v1/retire", model=model)


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


async def _nodes_of(config: Config, model: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await get(config, "/api/v1/nodes")
    return [node for node in found if str(node["model"]).lower().endswith(model.lower())]


def _say(config: ConfigOption, path: str, **body: object) -> None:
    with said_errors():
        answer = asyncio.run(post(read_config(config), path, **body))
        typer.echo(", ".join(f"{key}: {value}" for key, value in answer.items()))
