"""What `audit` and `panic` share: which cloud, whose mark, and where a daemon may answer; no store is needed.

All of it comes from config.toml, or without one from the command line, so that both work on any host with a key.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer
from pydantic import ValidationError

from autoscaler.brakes.ours import Prices
from autoscaler.brakes.witness import Address, daemon_url
from autoscaler.cli.connection import (
    EmailOption,
    KeyFileOption,
    PasswordFileOption,
    ProjectOption,
    UrlOption,
    said_errors,
    warnings_to_stderr,
)
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.connect import open_cloud
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.config import CloudSettings
from autoscaler.config_file import read_config
from autoscaler.errors import ConfigError
from autoscaler.nodes.inventory import Owner
from autoscaler.timings import Timings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="default: config.toml here, unless a credential is given"),
]
OwnerOption = Annotated[
    str | None, typer.Option("--owner", help="the owner mark, when no config is read")
]
PrefixOption = Annotated[str | None, typer.Option("--prefix", help="before the owner mark")]
DaemonOption = Annotated[
    str | None,
    typer.Option(
        "--daemon",
        help="URL of the daemon's read-only API; default: the config's socket, then its port",
    ),
]

_HERE = Path("config.toml")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Marked:
    """Whose things, and where.

    Attributes:
        daemons: where a daemon of theirs may answer, the likeliest first.
        socket: the Unix socket on which it takes orders, None without a config.
    """

    cloud: CloudSettings
    timings: Timings
    daemons: tuple[Address, ...]
    socket: Path | None

    @property
    def owner(self) -> Owner:
        return Owner(self.cloud.prefix, self.cloud.owner)

    def open(self) -> MkinfCloud:
        """Raises `ConfigError` when the key cannot be used."""
        return open_cloud(self.cloud)

    def prices(self) -> Prices:
        """What the price list says. Raises `ConfigError` when it cannot be read."""
        listed = load_prices(self.cloud.prices_file)
        vms = {
            name: each.price_per_hour + listed.os_disk_per_hour
            for name, each in listed.types.items()
        }
        return Prices(vms, listed.disk_gb_hour)


def marked_command(command: Callable[Concatenate[Marked, P], None]) -> Callable[..., None]:
    """Make a command line's command of a function: add the options that say whose things it is about."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:  # Any: as both declare them; typer has checked
        warnings_to_stderr()
        with said_errors():
            whose = marked(**{name: options.pop(name) for name in shared})
            command(whose, *args, **options)

    shared = inspect.signature(marked, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    run.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]  # typer reads it
    return run


def marked(
    *,
    config: ConfigOption = None,
    daemon: DaemonOption = None,
    url: UrlOption = None,
    project: ProjectOption = None,
    key_file: KeyFileOption = None,
    email: EmailOption = None,
    password_file: PasswordFileOption = None,
    owner: OwnerOption = None,
    prefix: PrefixOption = None,
) -> Marked:
    """Take what the options say, those on the command line before the config's.

    Args:
        config: read when it is named, or when no credential is given: then `config.toml` here.

    Raises:
        ConfigError: there is no credential, no owner mark, or a value is not fit for use.
    """
    named = (daemon_url(daemon),) if daemon is not None else ()
    has_credential = key_file is not None or email is not None
    given = _given(
        url=url,
        project=project,
        key_file=key_file,
        email=email,
        password_file=password_file,
        owner=owner,
        prefix=prefix,
    )
    if config is not None or not has_credential:
        path = config or _HERE
        if not path.exists():
            raise ConfigError(
                f"{path}: not found. Name your config with --config, or give --key-file and --owner"
            )
        read = read_config(path)
        known = read.cloud.model_dump()
        if has_credential:
            known |= {"key_file": None, "email": None, "password_file": None}
        at = (Address("http://daemon", read.socket), Address(f"http://{read.serve.listen}"))
        return Marked(_checked({**known, **given}), read.timings, named or at, read.socket)
    if owner is None:
        raise ConfigError(
            "--owner: missing: the 8 letters and digits that stand in the names of your machines "
            "(cloud.owner of the config that made them)"
        )
    return Marked(_checked(given), Timings(), named, None)


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _checked(values: dict[str, object]) -> CloudSettings:
    try:
        return CloudSettings.model_validate(values)
    except ValidationError as exc:
        problems = (
            f"--{'.'.join(map(str, each['loc'])).replace('_', '-') or 'key-file'}: found "
            f"{each['input']!r}: {each['msg']}"
            if each["loc"]
            else each["msg"]
            for each in exc.errors(include_url=False)
        )
        raise ConfigError("; ".join(problems)) from None
