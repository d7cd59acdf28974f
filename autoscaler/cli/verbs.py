"""Commands that change something. Each shows what it would do and cost, as the daemon foresees it, and asks."""

from __future__ import annotations

import asyncio
import os
import pwd
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from autoscaler.cli.ask import (
    DEFAULT_CONFIG,
    ConfigOption,
    NoDaemon,
    NotNow,
    YesOption,
    agreed,
    get,
    own_store,
    post,
)
from autoscaler.cli.connection import said_errors
from autoscaler.cli.nodes import named
from autoscaler.cli.screen import say
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies
from autoscaler.domain.ids import ModelName
from autoscaler.errors import ConfigError
from autoscaler.policies import find_model
from autoscaler.quantity import parse_duration
from autoscaler.serve.views import marked


def pause(model: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Stop launching and releasing for a model. What runs goes on and bills; limits and deletes too."""
    with said_errors():
        _mark(read_config(config), "pause", model, f"Pause {model}?", yes=yes)


def resume(model: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Let a paused, retired or stopped model go on."""
    with said_errors():
        _mark(read_config(config), "resume", model, f"Let {model} go on?", yes=yes)


def retire(model: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Drain every node of a model and rent no more for it. `resume` takes it back."""
    with said_errors():
        question = f"Give back every node of {model}, and rent no more for it?"
        _mark(read_config(config), "retire", model, question, yes=yes)


def promote(model: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Let a model in shadow rent: shows what it would have done and cost since, and what it does first."""
    with said_errors():
        settings = read_config(config)
        _say(settings, "promote", f"Let {model} rent from now on?", yes=yes, model=model)


def demote(model: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Put a promoted model back into shadow. What runs goes on and bills."""
    with said_errors():
        _say(read_config(config), "demote", f"Put {model} in shadow?", yes=yes, model=model)


def confirm(model: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Put a changed policy in force that may spend far more than the one before: shows the difference first."""
    with said_errors():
        settings = read_config(config)
        question = f"Put the new policy of {model} in force?"
        _say(settings, "confirm", question, yes=yes, model=model)


def scale(
    model: str,
    nodes: Annotated[int | None, typer.Option("--nodes", help="so many, no more, no fewer")] = None,
    length: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="for so long, such as 2h; up to 30d")
    ] = None,
    beyond_max: Annotated[
        bool, typer.Option("--beyond-max", help="even more than the policy's nodes.max")
    ] = False,
    clear: Annotated[bool, typer.Option("--clear", help="end the override now")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
) -> None:
    """Override how many nodes a model has, for a while. Limits hold all the same."""
    with said_errors():
        body: dict[str, object] = {"model": model}
        if clear:
            if nodes is not None or length is not None:
                raise ConfigError("--clear ends the override: leave out --nodes and --for")
            _say(read_config(config), "scale", "End it?", yes=yes, clear=True, **body)
            return
        if nodes is None or length is None:
            raise ConfigError(
                "say --nodes N and --for TIME (an override ends by itself), or --clear"
            )
        body |= {"nodes": nodes, "for_s": _length_s(length), "beyond_max": beyond_max}
        _say(read_config(config), "scale", f"Have {nodes} nodes for {length}?", yes=yes, **body)


def _length_s(text: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as exc:
        raise ConfigError(f"--for: found {text!r}: {exc}") from exc


def drain(node: str, config: ConfigOption = DEFAULT_CONFIG, yes: YesOption = False) -> None:
    """Drain one node and give it back. If its capacity is still wanted, another one is rented."""
    with said_errors():
        settings = read_config(config)
        found = named(asyncio.run(get(settings, "/api/v1/nodes")), node)
        if found is None:
            raise ConfigError(f"{node}: no such node, or several (`autoscaler nodes` lists them)")
        price = f"{found['type']} at ${float(found['usd_per_hour']):.2f}/h"
        question = f"Drain {node} ({price}) and give it back?"
        _say(settings, "drain", question, yes=yes, node=found["name"])


def sweep(
    confirm: Annotated[
        bool, typer.Option("--confirm", help="act on a listing that a guard holds back")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
) -> None:
    """Compare the cloud's listing with the store now."""
    with said_errors():
        if confirm:
            agreed("Act on the next listing although a guard says it is implausible?", yes=yes)
        _print(asyncio.run(post(read_config(config), "/api/v1/sweep", confirm=confirm)))


def _say(config: Config, verb: str, question: str, *, yes: bool, **body: Any) -> None:
    """Show what would come of it, ask, and tell the daemon: about what was shown, and about nothing else."""
    try:
        ahead = asyncio.run(post(config, "/api/v1/preview", verb=verb, **body))
        for line in ahead["text"]:
            say(line)
        if "spec" in ahead:
            body["spec"] = ahead["spec"]
    except NotNow as exc:  # a brake must hold also while the cloud cannot be read
        typer.echo(f"what would come of it cannot be foreseen now: {exc}", err=True)
    agreed(question, yes=yes)
    _print(asyncio.run(post(config, f"/api/v1/{verb}", **body)))


def _mark(config: Config, verb: str, model: str, question: str, *, yes: bool) -> None:
    """As `_say`; with no daemon running, leave the mark in the store for the next one."""
    try:
        _say(config, verb, question, yes=yes, model=model)
        return
    except NoDaemon:
        pass
    name = find_model(read_policies(config.policies).policies, model)
    typer.echo("no daemon runs, so nothing is foreseen: it is noted, in force when the next starts")
    agreed(question, yes=yes)
    asyncio.run(_note(config, verb, name))
    _print({"model": name, "noted": f"{verb}: in force when the next daemon starts"})


async def _note(config: Config, verb: str, name: ModelName) -> None:
    now, actor = datetime.now(UTC), _user()
    async with own_store(config) as store:
        event = marked(name, f"model_{verb}d", actor, now)
        match verb:
            case "pause":
                await store.set_paused(name, actor, now, event)
            case "retire":
                await store.set_retired(name, actor, now, event)
            case _:
                await store.set_resumed(name, event)


def _user() -> str:
    """Who runs this, by the kernel's word and not by the environment's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _print(answer: dict[str, Any]) -> None:
    typer.echo(", ".join(f"{key}: {_shown(value)}" for key, value in answer.items()))


def _shown(value: Any) -> str:  # whatever JSON the daemon answers
    if isinstance(value, dict):
        return "; ".join(f"{key} {each}" for key, each in value.items())
    return str(value)
