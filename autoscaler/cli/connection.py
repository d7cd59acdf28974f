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
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.connect import open_cloud
from autoscaler.cloud.mkinf.failures import clean
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
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    document: object
    notes: Sequence[str] = ()


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
    if not console.is_terminal:
        console.width = 240  # so that grep finds whole words
    if table.columns:
        grid = RichTable(box=SIMPLE_HEAD, pad_edge=False)
        for column in table.columns:
            right = column.startswith(("$", "GPU", "vCPU", "RAM")) or column == "Quantity"
            grid.add_column(
                column, justify="right" if right else "left", no_wrap=right, overflow="fold"
            )
        for row in table.rows:
            # Text, not markup: the cloud's words must not paint the terminal.
            grid.add_row(*(Text(clean(_cell(value))) for value in row))
        console.print(grid)
        if not table.rows:
            console.print("none")
    for note in table.notes:
        indent = " " * (len(note) - len(note.lstrip()))
        console.print(Text(indent + clean(note)), soft_wrap=True)


def confirmed(question: str, *, yes: bool) -> None:
    """Ask before something is made, changed or destroyed.

    Raises:
        typer.Abort: the answer is no, or there is nobody to ask.
    """
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or "-"
    return str(value)


def _fail(exc: Exception, status: int) -> NoReturn:
    typer.echo(f"error: {exc}", err=True)
    raise typer.Exit(status) from None


def warnings_to_stderr() -> None:
    """Keep stdout for the answer; below warnings a person at a shell wants no log."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
