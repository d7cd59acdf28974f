"""`autoscaler keys`: what clients show at the gateway's door."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from autoscaler.cli.connection import said_errors
from autoscaler.errors import ConfigError
from autoscaler.gateway.key_file import Bounds, add, entry
from autoscaler.gateway.keys import NAME_FORM, hash_of, new_key

keys_app = typer.Typer(help="Client keys of the gateway.", no_args_is_help=True)


@keys_app.callback()
def keys() -> None:
    """Client keys of the gateway."""


@keys_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="whose it is: a team, a service")],
    into: Annotated[
        Path | None,
        typer.Option(
            help="the file or directory of client keys ([front] client_keys) to add it to"
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(help="a model that it may use, or a pattern; may be repeated"),
    ] = None,
    rpm: Annotated[int | None, typer.Option(help="requests per minute", min=1)] = None,
    tpm: Annotated[
        int | None, typer.Option(help="tokens per minute, by an estimate", min=1)
    ] = None,
    concurrent: Annotated[int | None, typer.Option(help="requests at the same time", min=1)] = None,
) -> None:
    """Draw a client key. It is shown once; what is kept is its hash."""
    with said_errors():
        if not re.fullmatch(NAME_FORM, name):
            raise ConfigError(
                f"{name!r}: a key's name is up to 64 letters, digits and . _ @ -, such as team-a"
            )
        key = new_key()
        text = entry(name, hash_of(key), Bounds(tuple(models or ()), rpm, tpm, concurrent))
        file = add(into, name, text) if into is not None else None
        typer.echo(key)
        typer.echo("This key is shown only now: hand it to its holder.", err=True)
        if file is not None:
            typer.echo(f"Its hash is in {file}, in force within a second.", err=True)
        else:
            typer.echo("Put this into the file that [front] client_keys names:\n", err=True)
            typer.echo(text, nl=False)
