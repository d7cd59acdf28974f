"""What the commands that talk to the cloud share: connect, run, print a table or JSON, say an error.

A command is an async function of a `MkinfCloud` that returns a `Table`; `cloud_command` gives it the
options that say which cloud.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, NoReturn, ParamSpec

import orjson
import structlog
import typer
from rich.console import Console
from rich.text import Text

from autoscaler.cli.question import is_agreed
from autoscaler.cli.screen import Painted, Screen, layout, say
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.connect import open_cloud
from autoscaler.config import CloudSettings
from autoscaler.config_file import read_config
from autoscaler.errors import AuthFailed, AutoscalerError, ConfigError

P = ParamSpec("P")

_EXIT_FAILED: Final = 1
_EXIT_CONFIG: Final = 2
_EXIT_AUTH: Final = 3

ConfigOption = Annotated[
    Path, typer.Option("--config", help="config.toml; not read when a credential is given here")
]
UrlOption = Annotated[str | None, typer.Option(help="the API's root, with its version")]
ProjectOption = Annotated[str | None, typer.Option(help="project id; the only one if left out")]
KeyFileOption = Annotated[Path | None, typer.Option(help="file with the access key, mode 0600")]
EmailOption = Annotated[str | None, typer.Option(help="sign in with a password instead")]
PasswordFileOption = Annotated[
    Path | None, typer.Option(help="file with the password of --email, mode 0600")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


@dataclass(frozen=True, slots=True)
class Table:
    """What a command found, for people (columns, rows, notes) and for programs (document).

    Attributes:
        notes: said after the table, such as why a list is not complete.
        lead: said before it; one that is a tuple is a line of parts, broken between them.
        headed: whether the columns' names stand above.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    document: object
    notes: Sequence[str | Painted] = ()
    lead: Sequence[str | Painted | tuple[object, ...]] = ()
    headed: bool = True


def connect(
    config: Path,
    url: str | None = None,
    project: str | None = None,
    key_file: Path | None = None,
    email: str | None = None,
    password_file: Path | None = None,
) -> MkinfCloud:
    """Open the cloud that the options name, those on the command line before the config's.

    Raises:
        ConfigError: there is no credential, or a file is not fit for use.
    """
    given: dict[str, object] = {
        name: value
        for name, value in (
            ("url", url),
            ("project", project),
            ("key_file", key_file),
            ("email", email),
            ("password_file", password_file),
        )
        if value is not None
    }
    if key_file is None and email is None:
        if not config.exists():
            raise ConfigError(
                f"{config}: not found. Name your config with --config, or a credential with"
                " --key-file"
            )
        return open_cloud(read_config(config).cloud.model_copy(update=given))
    # The owner mark is for names that the daemon makes; nothing here makes one.
    try:
        return open_cloud(CloudSettings.model_validate({"owner": "commands", **given}))
    except ValueError as exc:
        raise ConfigError(f"--key-file, or --email and --password-file: {exc}") from None


def cloud_command(
    command: Callable[Concatenate[MkinfCloud, P], Awaitable[Table]],
) -> Callable[..., None]:
    """Make a command line's command of an async function: add the cloud's options, run, print."""

    @functools.wraps(command)
    def run(
        *args: Any,  # Any: as the command declares them; typer has checked them
        config: Path,
        url: str | None,
        project: str | None,
        key_file: Path | None,
        email: str | None,
        password_file: Path | None,
        json: bool,
        **options: Any,
    ) -> None:
        async def call() -> Table:
            cloud = connect(config, url, project, key_file, email, password_file)
            try:
                return await command(cloud, *args, **options)
            finally:
                await cloud.close()

        warnings_to_stderr()
        with said_errors():
            show(asyncio.run(call()), as_json=json)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in (
            ("config", ConfigOption, Path("config.toml")),
            ("url", UrlOption, None),
            ("project", ProjectOption, None),
            ("key_file", KeyFileOption, None),
            ("email", EmailOption, None),
            ("password_file", PasswordFileOption, None),
            ("json", JsonOption, False),
        )
    ]
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {each.name: each.annotation for each in (*own, *added)}
    return run


@contextmanager
def said_errors() -> Iterator[None]:
    """Turn a failure into one line on stderr and an exit status of its own kind."""
    try:
        yield
    except AuthFailed as exc:
        _fail(exc, _EXIT_AUTH)
    except ConfigError as exc:
        _fail(exc, _EXIT_CONFIG)
    except (AutoscalerError, ValueError) as exc:
        _fail(exc, _EXIT_FAILED)


def show(table: Table, *, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
        print(orjson.dumps(table.document, default=str, option=options).decode())
        return
    console = Console(highlight=False, markup=False)
    for line in screen_lines(table, Screen.of(console)):
        console.print(line, soft_wrap=True)


def screen_lines(table: Table, screen: Screen) -> Iterator[Text]:
    """The table as a screen shows it."""
    for line in table.lead:
        yield from screen.parts(line) if isinstance(line, tuple) else screen.paragraph(line)
    if table.columns:
        rows = [[_cell(value, "-" if table.headed else "") for value in row] for row in table.rows]
        right = [
            index
            for index, name in enumerate(table.columns)
            if name.startswith(("$", "GPU", "vCPU", "RAM")) or name == "Quantity"
        ]
        yield from layout(screen, table.columns, rows, right=right, headed=table.headed)
        if not rows:
            yield Text("none")
    for note in table.notes:
        yield from screen.paragraph(note)


def confirmed(question: str, *, yes: bool) -> None:
    """Ask before something is made, changed or destroyed.

    Raises:
        ConfigError: there is nobody to ask.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    with asking("say --yes to agree beforehand"):
        agreed = is_agreed(question)
    if not agreed:
        raise typer.Abort


@contextmanager
def asking(instead: str) -> Iterator[None]:
    """Around questions: where there is no terminal and no answer, say what to do instead.

    Raises:
        ConfigError: there is nobody to ask.
        typer.Abort: whom we asked went away.
    """
    try:
        yield
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        typer.echo(err=True)  # the question stands there without its answer
        raise ConfigError(
            f"nothing was done: there is nobody to ask, since this is no terminal: {instead}"
        ) from None


def _cell(value: object, nothing: str) -> object:
    if isinstance(value, Painted):
        return value
    if value is None or value == "":
        return nothing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or nothing
    return str(value)


def _fail(exc: Exception, status: int) -> NoReturn:
    say(f"error: {exc}", err=True)
    raise typer.Exit(status) from None


def warnings_to_stderr() -> None:
    """Keep stdout for the answer; below warnings a person at a shell wants no log."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
