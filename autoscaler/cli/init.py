"""`autoscaler init`."""

from __future__ import annotations

import asyncio
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import replace
from getpass import GetPassWarning
from pathlib import Path
from typing import Annotated

import typer

from autoscaler.cli.ask import YesOption
from autoscaler.cli.connection import asking, said_errors, warnings_to_stderr
from autoscaler.cloud.mkinf.values import Project
from autoscaler.cloud.secret import Secret
from autoscaler.decide.profiles import Profiles
from autoscaler.errors import ConfigError
from autoscaler.policy import Engine
from autoscaler.setup.init import Answers, choose_project, known, prove_project, reached, write
from autoscaler.setup.placing import refuse_existing

_DEFAULT = Answers(Path(), None)


def init(
    directory: Annotated[
        Path, typer.Argument(help="where config.toml and policies/ go; made if missing")
    ] = Path("."),
    key_file: Annotated[
        Path | None, typer.Option(help="file with the access key, mode 0600; else it is asked for")
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="id or name; needed when the key opens several")
    ] = None,
    usd_per_hour: Annotated[
        str | None, typer.Option(help="what all machines together may cost per hour")
    ] = None,
    usd_per_month: Annotated[str | None, typer.Option(help="the same, per month")] = None,
    nodes: Annotated[int | None, typer.Option(help="machines at most", min=1)] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="CIDR that the gateway or this daemon goes out from; repeat it"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="what to serve, by its hub's name")] = None,
    engine: Annotated[Engine, typer.Option(help="what serves it")] = Engine.VLLM,
    url: Annotated[str | None, typer.Option(help="of another cloud, such as an emulator")] = None,
    yes: YesOption = False,
) -> None:
    """Make a first config and policy: checks the key, picks the project, sets the limits, draws the SSH key.

    What an option does not say is asked, or with --yes left as it is by default. Nothing that is there is replaced,
    and either every file is written or none. The policy is in shadow mode: nothing is rented.
    """
    warnings_to_stderr()
    with said_errors(), asking("say --yes, and --key-file with the access key"):
        refuse_existing(iter([directory / "config.toml"]))
        answers = Answers(directory, key_file, url=url, project=project, engine=engine)
        if key_file is None:
            answers = _with_key(answers, yes=yes)
        projects = asyncio.run(reached(answers))
        chosen = choose_project(projects, project) or _ask_project(projects, yes=yes)
        offers = asyncio.run(prove_project(answers, chosen))
        typer.echo(f"the key opens project {chosen.name or chosen.id}: {offers} offers")
        if not yes:
            typer.echo(
                "What may it cost, and what is it to serve? Everything can be changed later."
            )
        answers = replace(
            answers,
            usd_per_hour=_ask("USD per hour at most", usd_per_hour, _DEFAULT.usd_per_hour, yes),
            usd_per_month=_ask("USD per month at most", usd_per_month, _DEFAULT.usd_per_month, yes),
            nodes=int(_ask("machines at most", nodes, _DEFAULT.nodes, yes)),
            model=_ask("model", model, _DEFAULT.model, yes),
            sources=_ask_sources(source, yes=yes),
        )
        files = write(answers, chosen)
        for path in files:
            typer.echo(f"written: {path}")
        _say_next(answers)


def _ask(question: str, given: object, default: object, yes: bool) -> str:
    if given is not None:
        return str(given)
    return str(default) if yes else str(typer.prompt(question, default=str(default))).strip()


def _with_key(answers: Answers, *, yes: bool) -> Answers:
    if yes:
        raise ConfigError(
            "--key-file is missing: the access key from the cloud's console, in a file of mode 0600"
        )
    refuse_existing(iter([answers.directory / "mkinf.key"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GetPassWarning)  # without a terminal there is no echo
        text = str(
            typer.prompt("access key (from the console; not shown)", hide_input=True)
        ).strip()
    if not text or not text.isprintable() or " " in text:
        raise ConfigError("this is no access key: one word, as the console shows it")
    return replace(answers, key=Secret(text))


def _ask_project(projects: Sequence[Project], *, yes: bool) -> Project:
    if not projects:
        raise ConfigError("the key opens no project: make one in the cloud's console first")
    if yes:
        raise ConfigError(
            f"the key opens several projects, name one with --project: {known(projects)}"
        )
    for number, each in enumerate(projects, start=1):
        typer.echo(f"  {number}  {each.name or '-'}  {each.id}")
    number = int(typer.prompt("project", type=int, default=1))
    if not 1 <= number <= len(projects):
        raise ConfigError(f"project: found {number}, there are 1 to {len(projects)}")
    return projects[number - 1]


def _ask_sources(given: Sequence[str] | None, *, yes: bool) -> tuple[str, ...]:
    if given or yes:
        return tuple(given or ())
    text = typer.prompt(
        "public addresses that the gateway and this daemon go out from, as CIDRs (empty: nothing is rented yet)",
        default="",
        show_default=False,
    )
    return tuple(str(text).replace(",", " ").split())


def _say_next(answers: Answers) -> None:
    where = answers.directory
    option = "" if where == Path() else f" --config {shlex.quote(str(where / 'config.toml'))}"
    steps = [(f"doctor{option}", "what is wrong, and what to do about it")]
    if answers.model.lower() not in Profiles.load().models:
        steps.append((f"validate --online{option}", "reads the model's shape from its hub"))
    if not answers.is_system:  # there both are services: deploy/README.md
        config, run = shlex.quote(str(where / "config.toml")), shlex.quote(str(where / "run"))
        gateway = (
            f"gateway --config {config} --control {run}/gateway.sock --state {run}/gateway.json"
        )
        steps.append((gateway, "the way in for clients; in a terminal of its own"))
        steps.append((f"run{option}", "the daemon; in another"))
    steps.append((f"explain {shlex.quote(answers.model)}{option}", "what it would do, and why"))
    typer.echo("\nNext, none of which rents anything:")
    for command, what in steps:
        typer.echo(f"  autoscaler {command}\n      {what}")
    typer.echo("Then, which does:")
    trial = f"trial {shlex.quote(str(where / answers.policy_file))} --max-cost 2{option}"
    for command, what in (
        (trial, "one machine through its whole life; while the daemon is stopped"),
        (f"promote {shlex.quote(answers.model)}{option}", "lets the model rent from now on"),
    ):
        typer.echo(f"  autoscaler {command}\n      {what}")
    if not answers.sources:
        typer.echo("Before anything is rented: name firewall.sources in config.toml.")
