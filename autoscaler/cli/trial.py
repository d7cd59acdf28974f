"""`autoscaler trial POLICY`: one VM through its whole life, and what that showed of the cloud and of the model."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from autoscaler.brakes.facts import BELIEFS, Fact, Status
from autoscaler.brakes.shown import Bar
from autoscaler.brakes.trial import Report
from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, YesOption
from autoscaler.cli.connection import (
    JsonOption,
    KeyFileOption,
    Table,
    confirmed,
    said_errors,
    show,
)
from autoscaler.cli.tryout import Left, TrialSettings, Tryout, cheapest, least_cost, with_key
from autoscaler.config import Config
from autoscaler.config_file import check_floors, read_config, read_policy
from autoscaler.domain.money import Money
from autoscaler.errors import ConfigError
from autoscaler.quantity import parse_duration, show_duration

_EXIT_ENDED = 1
_EXIT_INTERRUPTED = 130
_BAR_WIDTH = 32


def trial(
    policy: Annotated[Path, typer.Argument(help="a policy file")],
    max_cost: Annotated[str, typer.Option("--max-cost", help="USD that it may cost")] = "2",
    load: Annotated[str, typer.Option("--load", help="for how long it is asked")] = "60s",
    concurrency: Annotated[
        int | None, typer.Option(help="clients at once; default: what the VM should carry", min=1)
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    key_file: KeyFileOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Rent one VM, prove it, load it for a minute, delete it until it is absent; print what that showed.

    It is the daemon's own launch path, with its store, limits and names, behind a gateway of its own: no client reaches
    the VM. No daemon may run on this state_dir meanwhile. The facts of the cloud that it confirms are kept for `run`.
    """
    with said_errors():
        settings = read_settings(policy, max_cost, load, concurrency)
        found = with_key(read_config(config), key_file)
        if not found.cloud.is_loopback:
            check_floors(policy, settings.policy)
        _ask(settings, found, yes=yes)
        run = Tryout(settings, found, lambda line: typer.echo(line, err=json))
        try:
            report = asyncio.run(run.run())
        except Left as exc:
            typer.echo(f"error: {exc}", err=True)
            raise typer.Exit(_EXIT_INTERRUPTED) from None
        if json:
            show(Table((), (), _document(report)), as_json=True)
        else:
            for line in lines(report):
                typer.echo(line)
    if report.ended:
        typer.echo(f"error: the trial ended early: {report.ended}", err=True)
        raise typer.Exit(_EXIT_INTERRUPTED if run.is_interrupted else _EXIT_ENDED)


def read_settings(policy: Path, max_cost: str, load: str, concurrency: int | None) -> TrialSettings:
    """What the options say.

    Raises:
        ConfigError: a value is not fit for use, or the policy is wrong.
    """
    try:
        most = Money(Decimal(max_cost.removeprefix("$")))
        length = parse_duration(load)
    except (ArithmeticError, ValueError) as exc:
        raise ConfigError(
            f"--max-cost {max_cost}, --load {load}: found {exc}; allowed: USD such as 2 or 0.50, "
            "and a length such as 60s"
        ) from None
    if not most.usd.is_finite() or most.usd <= 0 or most.usd > 10_000:
        raise ConfigError(f"--max-cost: found {max_cost}, allowed: more than 0, at most 10000")
    if not timedelta(seconds=1) <= length <= timedelta(hours=1):
        raise ConfigError(f"--load: found {load}, allowed: 1s to 1h")
    return TrialSettings(read_policy(policy), most, length, concurrency)


def _ask(settings: TrialSettings, config: Config, *, yes: bool) -> None:
    """Say what it will rent and for how much. Refuses a limit that the shortest life passes."""
    offer = asyncio.run(cheapest(settings.policy, config))
    price = offer.price_per_hour
    assert price is not None  # `cheapest` leaves out what has none
    life, least = least_cost(settings, config, price)
    if least > settings.max_cost:
        raise ConfigError(
            f"--max-cost: found {settings.max_cost}, the least is {least}: the cheapest offer, {offer.key}, is "
            f"{price}/h, and the shortest life (boot, load, proof that it is gone) takes {show_duration(life)}"
        )
    confirmed(
        f"Rent one VM, likely {offer.key} at {price}/h, for about {show_duration(life)}: {least}, and at "
        f"most {settings.max_cost}?",
        yes=yes,
    )


def lines(report: Report) -> list[str]:
    """A report for people, in 80 columns."""
    found = [""]
    if report.node is not None:
        found.append(f"{report.node.offer} at {report.node.price_per_hour}/h: {report.node.name}")
        found += _waterfall(report.bars)
    if (measured := report.capacity) is not None:
        first = (
            f"first token p50 {measured.ttft_p50_s:.2f} s, p95 {measured.ttft_p95_s:.2f} s"
            if measured.ttft_p50_s is not None and measured.ttft_p95_s is not None
            else "no first token"
        )
        found += [
            "",
            f"capacity   {measured.requests_per_s:.2f} requests/s, {measured.tokens_per_s:.0f} tokens/s, "
            f"{first}",
            f"           {measured.concurrency} at once for {measured.seconds:.0f} s: "
            f"{measured.done} answered, {measured.failed} failed"
            + (f" ({measured.why})" if measured.why else ""),
        ]
    receipt = (report.receipt or "no VM was rented").split("; ")
    found += ["", *(f"{'receipt' if i == 0 else '':10} {line}" for i, line in enumerate(receipt))]
    found.append(f"{'':10} the whole trial: {report.cost}")
    if report.facts:
        found += ["", *_facts(report.facts)]
    return found


def _waterfall(bars: tuple[Bar, ...]) -> list[str]:
    total = max((bar.after_s + bar.seconds for bar in bars), default=0.0) or 1.0
    rows = []
    for bar in bars:
        begin = round(bar.after_s / total * _BAR_WIDTH)
        length = max(1, round(bar.seconds / total * _BAR_WIDTH))
        drawn = (" " * min(begin, _BAR_WIDTH - 1) + "█" * length)[:_BAR_WIDTH]
        rows.append(f"  {bar.stage:24} {bar.seconds:8.1f} s  {drawn}")
    return rows


def _facts(facts: tuple[Fact, ...]) -> list[str]:
    by_name = {fact.name: fact for fact in facts}
    found = []
    for belief in BELIEFS:
        fact = by_name.get(belief.name)
        status = fact.status if fact is not None else Status.UNPROVEN
        found.append(f"{status:10} {belief.name:15} {fact.shown if fact else 'not tried'}")
    return found


def _document(report: Report) -> dict[str, object]:
    node = report.node
    return {
        "node": node.name if node else None,
        "offer": str(node.offer) if node else None,
        "usd_per_hour": str(node.price_per_hour.usd) if node else None,
        "cost_usd": str(report.cost.usd),
        "state": node.state.value if node else None,
        "ended_early": report.ended or None,
        "receipt": report.receipt,
        "waterfall": [asdict(bar) for bar in report.bars],
        "capacity": asdict(report.capacity) if report.capacity else None,
        "facts": [asdict(fact) for fact in report.facts],
    }
