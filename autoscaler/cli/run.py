"""`autoscaler run` and `autoscaler validate`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption
from autoscaler.cli.connection import said_errors
from autoscaler.config_file import read_config, read_policies, read_policy
from autoscaler.errors import AutoscalerError, ConfigError


def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the daemon. SIGTERM stops it and leaves every node serving; SIGHUP reloads the policies."""
    import uvloop

    from autoscaler.daemon import Daemon
    from autoscaler.log import set_up

    with said_errors():
        settings = read_config(config)
        set_up(settings.log.level, settings.log.format)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(Daemon(settings).run())
        except BaseExceptionGroup as group:
            ours, rest = group.split(AutoscalerError)
            if ours is not None and rest is None:
                raise _first(ours) from None
            raise


def _first(group: BaseExceptionGroup[AutoscalerError]) -> AutoscalerError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def validate(
    policies: Annotated[
        list[Path] | None,
        typer.Argument(help="policy files; without any, all that the config names"),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Check config.toml and policies without starting anything; every mistake is shown at once."""
    with said_errors():
        problems: list[str] = []
        checked: list[str] = []
        if policies:
            for path in policies:
                try:
                    policy = read_policy(path)
                    checked.append(f"{path}: {policy.model} on {policy.engine}")
                except ConfigError as exc:
                    problems.append(str(exc))
        else:
            settings = read_config(config)
            checked.append(f"{config}: ok")
            found = read_policies(settings.policies)
            checked += [f"{found.files[n]}: {n} on {p.engine}" for n, p in found.policies.items()]
        for line in checked:
            typer.echo(line)
        if problems:
            raise ConfigError("\n".join(problems))
