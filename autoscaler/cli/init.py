"""`autoscaler init`."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console

from autoscaler.cli.ask import YesOption
from autoscaler.cli.connection import asking, said_errors, warnings_to_stderr
from autoscaler.cli.screen import Screen
from autoscaler.cloud.mkinf.values import Project
from autoscaler.cloud.secret import Secret
from autoscaler.config import FirewallSettings, LimitSettings
from autoscaler.decide.profiles import Profiles
from autoscaler.errors import ConfigError
from autoscaler.policy import Engine, Policy
from autoscaler.setup.init import Answers, choose_project, known, prove_project, reached, write
from autoscaler.setup.placing import refuse_existing
from autoscaler.toml_file import check_answer

_DEFAULT = Answers(Path(), None)
_STATE = "run/gateway.json"  # what the gateway remembers of the nodes


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that is asked.

    Attributes:
        option: what answers it on the command line.
        values, key: what judges the answer: a key of a config or a policy.
    """

    words: str
    option: str
    values: type[BaseModel]
    key: str

    def checked(self, text: str) -> str:
        """The answer, when a config can hold it.

        Raises:
            ConfigError: it cannot: what was found, and what is allowed.
        """
        text = text.strip()
        given: object = text.replace(",", " ").split() if self is _SOURCES else text
        if self is _NODES and (not text.isdecimal() or int(text) < 1):
            raise ConfigError(f"found {text!r}: write a whole number from 1 on")
        check_answer(self.values, self.key, int(text) if self is _NODES else given)
        return text

    def given(self, text: str) -> str:
        """The same of an option. Raises as `checked` does, and names the option."""
        try:
            return self.checked(text)
        except ConfigError as exc:
            raise ConfigError(f"{self.option}: {exc}") from exc


_HOUR = Question("USD per hour at most", "--usd-per-hour", LimitSettings, "usd_per_hour")
_MONTH = Question("USD per month at most", "--usd-per-month", LimitSettings, "usd_per_month")
_NODES = Question("machines at most", "--nodes", LimitSettings, "nodes")
_MODEL = Question("model", "--model", Policy, "model")
_SOURCES = Question("addresses, as CIDRs (203.0.113.5/32)", "--source", FirewallSettings, "sources")


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
            typer.echo("What may it cost, and what is it to serve? All can be changed later.")
        answers = replace(
            answers,
            usd_per_hour=_ask(_HOUR, usd_per_hour, _DEFAULT.usd_per_hour, yes),
            usd_per_month=_ask(_MONTH, usd_per_month, _DEFAULT.usd_per_month, yes),
            nodes=int(_ask(_NODES, nodes, _DEFAULT.nodes, yes)),
            model=_ask(_MODEL, model, _DEFAULT.model, yes),
            sources=_ask_sources(source, yes=yes),
        )
        files = write(answers, chosen)
        for path in files:
            typer.echo(f"written: {path}")
        _say_next(answers)


def _ask(question: Question, given: object, default: object, yes: bool) -> str:
    if given is not None:
        return question.given(str(given))
    return str(default) if yes else _prompt(question, str(default)).strip()


def _prompt(question: Question, default: str, *, show_default: bool = True) -> str:
    """Ask until the answer is one that a config can hold: what was typed before it must not be lost."""

    def checked(text: str) -> str:
        try:
            return question.checked(text)
        except ConfigError as exc:
            lines = Screen.of(Console(stderr=True)).prose(f"Error: {exc}")
            text = "\n".join(line.plain for line in lines)
            raise typer.BadParameter(text.removeprefix("Error: ")) from exc

    said = typer.prompt(
        question.words, default=default, show_default=show_default, value_proc=checked
    )
    return str(said)


def _with_key(answers: Answers, *, yes: bool) -> Answers:
    if yes:
        raise ConfigError(
            "--key-file is missing: the access key from the cloud's console, in a file of mode 0600"
        )
    refuse_existing(iter([answers.directory / "mkinf.key"]))
    text = _read_key("access key (from the console; not shown)").strip()
    if not text or not text.isprintable() or " " in text:
        raise ConfigError("this is no access key: one word, as the console shows it")
    return replace(answers, key=Secret(text))


def _read_key(question: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(question, hide_input=True))
    typer.echo(f"{question}:")  # nothing echoes what a pipe holds
    line = sys.stdin.readline()
    if not line:
        raise typer.Abort
    return line


def _ask_project(projects: Sequence[Project], *, yes: bool) -> Project:
    if not projects:
        raise ConfigError("the key opens no project: make one in the cloud's console first")
    if yes:
        raise ConfigError(
            f"the key opens several projects, name one with --project: {known(projects)}"
        )
    for number, each in enumerate(projects, start=1):
        typer.echo(f"  {number}  {each.name or '-'}  {each.id}")

    def checked(text: str) -> int:
        if not text.strip().isdecimal() or not 1 <= int(text) <= len(projects):
            raise typer.BadParameter(f"found {text!r}, there are 1 to {len(projects)}")
        return int(text)

    number = int(typer.prompt("project", default="1", value_proc=checked))
    return projects[number - 1]


def _ask_sources(given: Sequence[str] | None, *, yes: bool) -> tuple[str, ...]:
    if given or yes:
        return tuple(_SOURCES.given(" ".join(given or ())).split())
    typer.echo("The nodes let in the addresses that the gateway and this daemon go out from")
    typer.echo("(`curl -4 https://ifconfig.co` shows this host's). Without any, none is rented.")
    return tuple(_prompt(_SOURCES, "", show_default=False).replace(",", " ").split())


def _say_next(answers: Answers) -> None:
    where = answers.directory
    option = "" if where == Path() else f" --config {shlex.quote(str(where / 'config.toml'))}"
    steps = [(f"doctor{option}", "what is wrong, and what to do about it")]
    if answers.model.lower() not in Profiles.load().models:
        steps.append((f"validate --online{option}", "reads the model's shape from its hub"))
    if not answers.is_system:  # there both are services: deploy/README.md
        config, state = (shlex.quote(str(where / each)) for each in ("config.toml", _STATE))
        gateway = f"gateway --config {config} --state {state}"
        steps.append((gateway, "the way in for clients; in a terminal of its own"))
        steps.append((f"run{option}", "the daemon; in another"))
    steps.append((f"explain {shlex.quote(answers.model)}{option}", "what it would do, and why"))
    typer.echo("\nNext, none of which rents anything:")
    for command, what in steps:
        _say_step(command, what)
    typer.echo("Then, which does:")
    trial = f"trial {shlex.quote(str(where / answers.policy_file))} --max-cost 2{option}"
    _say_step(trial, "one machine through its whole life; while the daemon is stopped")
    promote = f"promote {shlex.quote(answers.model)}{option}"
    _say_step(promote, "lets the model rent from now on")
    if not answers.sources:
        typer.echo("Before anything is rented: name firewall.sources in config.toml.")


def _say_step(command: str, what: str) -> None:
    """A command that a terminal would break stands on several lines, so that it can be pasted."""
    line = f"  autoscaler {command}"
    if len(line) > Screen.of(Console()).columns:
        line = line.replace(" --", " \\\n      --")
    typer.echo(f"{line}\n      {what}")
