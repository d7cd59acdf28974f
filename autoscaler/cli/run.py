"""`autoscaler run` and `autoscaler validate`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from autoscaler.affordable import fitting, too_tight
from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption
from autoscaler.cli.connection import said_errors
from autoscaler.cli.screen import say
from autoscaler.clock import SystemClock
from autoscaler.cloud.mkinf.listed import listed_offers
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies, read_policy
from autoscaler.decide.profiles import Profiles
from autoscaler.errors import AutoscalerError, ConfigError, SourceUnavailable
from autoscaler.hub.client import HUB
from autoscaler.hub.learn import learn, origin, wants_facts
from autoscaler.nodes.keys import read_token
from autoscaler.nodes.startup.presets import driver_note
from autoscaler.observe.assemble import build_feed
from autoscaler.observe.targets import rounded_goals
from autoscaler.policy import Policy
from autoscaler.setup.front import exposure
from autoscaler.ways import PLAIN_NOTE


def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the daemon. SIGTERM stops it and leaves every node serving; SIGHUP reloads the policies."""
    import uvloop

    from autoscaler.crashpoints import armed, outside_of
    from autoscaler.daemon import Daemon
    from autoscaler.log import set_up

    with said_errors():
        settings = read_config(config)
        set_up(settings.log.level, settings.log.format)
        outside = outside_of(settings, armed(os.environ))
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(Daemon(settings, outside=outside).run())
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
    online: Annotated[
        bool, typer.Option("--online", help="read each model's shape from its hub, and keep it")
    ] = False,
    hub: Annotated[str, typer.Option(envvar="HF_ENDPOINT", help="the hub, with --online")] = HUB,
) -> None:
    """Check config.toml and policies without starting anything; every mistake is shown at once."""
    with said_errors():
        problems: list[str] = []
        found: dict[Path, Policy] = {}
        settings: Config | None = None
        if policies:
            for path in policies:
                try:
                    found[path] = read_policy(path)
                except ConfigError as exc:
                    problems.append(str(exc))
        else:
            settings = read_config(config)
            exposed = exposure(config)
            if exposed is None:
                say(f"{config}: ok")
            else:
                problems.append(f"{config}: front.listen: {exposed}")
            if settings.way == "public-plain":
                say(f"  note: {PLAIN_NOTE}")
            files = read_policies(
                settings.policies,
                emulated=settings.cloud.is_loopback,
                balancer=settings.balancer,
                reach=settings.way,
            )
            found = {files.files[name]: policy for name, policy in files.policies.items()}
        for path, policy in found.items():
            try:
                notes = asyncio.run(_look_closer(policy, settings))
                facts = asyncio.run(_facts(path, policy, hub if online else None))
            except (ConfigError, SourceUnavailable) as exc:
                problems.append(f"{path}: {exc}")
                continue
            say(f"{path}: {policy.model} on {policy.engine}")
            for line in facts:
                say(f"  {line}")
            for note in notes:
                say(f"  note: {note}")
            for text in _too_tight(policy, settings):
                say(f"  ! {text}")
        if problems:
            raise ConfigError("\n".join(problems))


def _too_tight(policy: Policy, config: Config | None) -> list[str]:
    """Limits that let nothing be rented, by the price list alone: stock and locations are the cloud's to know."""
    if config is None:
        return []
    offers, profiles = listed_offers(load_prices(config.cloud.prices_file)), Profiles.load()
    anywhere = policy.model_copy(
        update={"hardware": policy.hardware.model_copy(update={"locations": ()})}
    )
    if not fitting(anywhere, offers, profiles):
        return []  # without the model's shape nothing is known to fit
    return too_tight(anywhere, config.limits, offers, profiles)


async def _facts(path: Path, policy: Policy, hub: str | None) -> tuple[str, ...]:
    """What is known of the model's shape; asked anew where a hub is named.

    Raises:
        ConfigError, SourceUnavailable: the hub cannot tell, or not now.
    """
    if not wants_facts(policy):
        return ()
    if hub is None:
        return (str(origin(path, policy)),)
    token = read_token(Path(policy.server.token_file)) if policy.server.token_file else None
    async with aiohttp.ClientSession(trust_env=True) as session:
        return await learn(session, path, policy, hub, token, SystemClock().now())


async def _look_closer(policy: Policy, config: Config | None) -> tuple[str, ...]:
    """What only the parts that use a policy can say of it.

    Raises:
        ConfigError: a source of signals cannot be used as it is written.
    """
    if config is not None:
        async with aiohttp.ClientSession(trust_env=False) as session:
            await build_feed(policy, config, session).close()
    driver = driver_note(policy)
    return (*rounded_goals(policy), *((driver,) if driver else ()))
