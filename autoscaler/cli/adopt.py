"""`autoscaler adopt`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, YesOption, agreed, post
from autoscaler.cli.connection import said_errors
from autoscaler.cli.screen import say
from autoscaler.config import Config
from autoscaler.config_file import read_config
from autoscaler.errors import ConfigError

_LOOK_S, _TAKE_S = 120.0, 330.0  # machines that do not answer are waited for


def adopt(
    vm: Annotated[str | None, typer.Argument(help="one VM, by name or id; else all")] = None,
    model: Annotated[
        str | None, typer.Option(help="what a VM that you rented by hand is to serve")
    ] = None,
    host_key: Annotated[
        str | None,
        typer.Option("--host-key", help="its public key line or SHA256 fingerprint; else asked"),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: YesOption = False,
) -> None:
    """Take over machines of ours that the store does not know: proven by the host authority, verified, then recorded.

    For a lost store or a new host. With `--model`, a VM that you rented by hand joins a model: you vouch for its host
    key, and it is the autoscaler's from then on. Ends with 1 when a machine could not be taken over.
    """
    with said_errors():
        if host_key is not None and model is None:
            raise ConfigError("--host-key goes with --model: others are proven by the authority")
        settings = read_config(config)
        ahead = _post(settings, "/preview", _LOOK_S, vm=vm, model=model)
        for line in ahead["text"]:
            say(line)
        if not ahead["adoptable"]:
            raise typer.Exit(1 if ahead["refused"] else 0)
        if model is not None and host_key is None:
            host_key = _confirmed(ahead, yes=yes)
        count = len(ahead["adoptable"])
        agreed(f"Adopt {count} machine{'s' if count > 1 else ''}?", yes=yes)
        done = _post(settings, "", _TAKE_S, vm=vm, model=model, host_key=host_key)
        for name in done["adopted"]:
            typer.echo(f"adopted: {name}")
        for one in done["refused"]:
            typer.echo(f"not adopted: {one['machine']}: {one['why']}", err=True)
        for note in done["notes"]:
            typer.echo(note)
        if done["refused"]:
            raise typer.Exit(1)


def _confirmed(ahead: dict[str, Any], *, yes: bool) -> str:
    """The key that it shows, once a person has compared it."""
    if yes:
        raise ConfigError(
            "--host-key is missing: with --yes nobody compares what the machine shows, and anyone can show a key"
        )
    agreed(f"Is {ahead['fingerprint']} what the machine itself says?", yes=False)
    return str(ahead["host_key"])


def _post(config: Config, what: str, within_s: float, **body: object) -> dict[str, Any]:
    given = {key: value for key, value in body.items() if value is not None}
    answer = asyncio.run(post(config, f"/api/v1/adopt{what}", within_s=within_s, **given))
    assert isinstance(answer, dict)
    return answer
