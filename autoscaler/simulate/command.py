"""`autoscaler simulate`: what a policy would have cost on a trace, and how many requests would have been in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from autoscaler.cli.connection import Table, said_errors, show
from autoscaler.cli.screen import Painted, say
from autoscaler.cli.words import counted, money, span
from autoscaler.cloud.mkinf.listed import ANYWHERE, listed_offers
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policy
from autoscaler.domain.offer import OfferKey
from autoscaler.errors import ConfigError
from autoscaler.policy import Policy
from autoscaler.quantity import parse_duration, show_duration
from autoscaler.simulate.hindsight import Hindsight, hindsight
from autoscaler.simulate.job import Job, job_of
from autoscaler.simulate.market import Boots, Market
from autoscaler.simulate.page import Words, check_page, write_page
from autoscaler.simulate.result import Result
from autoscaler.simulate.world import simulate as run
from autoscaler.traces.multiply import multiplied
from autoscaler.traces.reader import stream_trace
from autoscaler.traces.request import TracedRequest
from autoscaler.traces.sniff import OURS, sniff

_HOUR_S = 3600.0
_STOPPED = 130  # as a shell says of Ctrl-C
_NAMED = 5  # models of a trace that an error names
_APART = ("place 1", "place 2", "place 3")  # for a policy that is to survive the loss of one


def simulate(
    policy: Annotated[Path, typer.Option(help="policy file of the model")],
    trace: Annotated[
        Path, typer.Option(help="requests (.csv, .csv.gz; `trace import` makes them of logs)")
    ],
    boot: Annotated[
        str, typer.Option(help="median time from an order until the node serves")
    ] = "180s",
    boot_sigma: Annotated[
        float, typer.Option(help="how much boots differ: sigma of their logarithm", min=0, max=2)
    ] = 0.25,
    stock_out: Annotated[
        float, typer.Option(help="share of the time that each offer is sold out", min=0, max=0.95)
    ] = 0.0,
    scale: Annotated[
        float, typer.Option(help="multiply the traffic by this", min=0.001, max=1000)
    ] = 1.0,
    since: Annotated[float, typer.Option(help="hour of the trace to begin with", min=0)] = 0.0,
    until: Annotated[
        float | None, typer.Option(help="hour of the trace to end at; else its end", min=0)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="config.toml whose limits, prices and timings hold; else none"),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="of boots, stock and copies; the same seed, the same result")
    ] = 1,
    page: Annotated[
        Path | None,
        typer.Option(help="write an HTML page with plots too (extra: report)", metavar="FILE.html"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Replay a trace against a policy: money, requests in time, machines. Rents nothing, asks nobody.

    The daemon's own decisions are taken on a clock that runs ahead, over a model of the servers,
    prices from the price list, and boots drawn from a distribution. What it does not know stands in
    docs/simulate.md.
    """
    with said_errors(), _stoppable():
        if page is not None:
            check_page(page)
        asked = _Asked(policy, trace, since, until, scale, seed)
        settings = None if config is None else read_config(config)
        rented = read_policy(policy)
        market = _market(rented, settings, Boots(_median_s(boot), boot_sigma, seed), stock_out)
        job = _job(asked, rented, settings, market)
        with _progress(job, shown=not json) as progress:
            result = run(job, progress)
        screen = _screen(result, asked, job)
        if page is not None:
            write_page(page, result, _words(screen, asked, job))
        show(screen, as_json=json)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which requests are replayed, against which policy."""

    policy: Path
    trace: Path
    since_h: float
    until_h: float | None
    scale: float
    seed: int


def _median_s(boot: str) -> float:
    try:
        median_s = parse_duration(boot).total_seconds()
    except ValueError as exc:
        raise ConfigError(f"--boot: found {boot!r}: {exc}") from None
    if not 1 <= median_s <= 86_400:
        raise ConfigError(f"--boot: found {boot!r}, allowed: 1s to 1d")
    return median_s


def _market(policy: Policy, settings: Config | None, boots: Boots, stock_out: float) -> Market:
    """The price list, where the policy may rent: no list says what there is in which location."""
    prices = load_prices(None if settings is None else settings.cloud.prices_file)
    read_s = 60.0 if settings is None else settings.timings.market.total_seconds()
    places = policy.hardware.locations
    if not places:
        places = _APART if policy.spread.survive_location else (ANYWHERE,)
    offers = tuple(
        replace(offer, key=OfferKey(offer.key.type, place))
        for place in places
        for offer in listed_offers(prices)
    )
    return Market(offers, boots, out_share=stock_out, seed=boots.seed, read_s=read_s)


def _job(asked: _Asked, policy: Policy, settings: Config | None, market: Market) -> Job:
    requests = _requests(asked, policy)
    length_s = requests[-1].arrival_s
    if asked.until_h is not None:
        length_s = max(length_s, (asked.until_h - asked.since_h) * _HOUR_S)
    try:
        return job_of(
            policy,
            requests,
            market,
            length_s=length_s,
            limits=None if settings is None else settings.limits,
            reconcile_s=15.0 if settings is None else settings.timings.reconcile.total_seconds(),
        )
    except ConfigError as exc:
        raise ConfigError(f"{asked.policy}: {exc}") from exc


def _requests(asked: _Asked, policy: Policy) -> list[TracedRequest]:
    """The part of the trace that was asked for, its first second at zero."""
    trace, since_s = asked.trace, asked.since_h * _HOUR_S
    until_s = math.inf if asked.until_h is None else asked.until_h * _HOUR_S
    if until_s <= since_s:
        raise ConfigError(
            f"--until: found {asked.until_h:g}, allowed: more than --since {asked.since_h:g}"
        )
    if not trace.exists():
        raise ConfigError(f"{trace}: no such file")
    found = sniff(trace)
    if found is not None and found != OURS:
        raise ConfigError(
            f"{trace}: this looks like {found}: run `autoscaler trace import {trace} -o OUT` first"
        )
    own = list(_of_model(stream_trace(trace), trace, policy))
    requests = [
        TracedRequest(r.arrival_s - since_s, r.prompt_tokens, r.output_tokens)
        for r in own
        if since_s <= r.arrival_s < until_s
    ]
    if not requests:
        ends = (
            f"its last request comes at hour {own[-1].arrival_s / _HOUR_S:.2f}"
            if own
            else "it is empty"
        )
        raise ConfigError(f"{trace}: no requests to replay: {ends}")
    return multiplied(requests, asked.scale, asked.seed)


def _of_model(
    requests: Iterable[TracedRequest], trace: Path, policy: Policy
) -> Iterator[TracedRequest]:
    """The requests of this model; a trace that names none is all of it."""
    names = {policy.model, *policy.aliases, policy.served_name}
    others: set[str] = set()
    some = False
    for request in requests:
        if request.model is None or request.model in names:
            some = True
            yield request
        else:
            others.add(request.model)
    if not some and others:
        named = ", ".join(sorted(others)[:_NAMED])
        raise ConfigError(
            f"{trace}: model: found {named}; allowed: {policy.model} or one of its aliases"
        )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C ends it with a word and no trace."""
    try:
        yield
    except KeyboardInterrupt as exc:
        say(f"stopped{exc}: no result", err=True)
        raise typer.Exit(_STOPPED) from None


@contextmanager
def _progress(job: Job, shown: bool) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal. Raises `KeyboardInterrupt` with where it stood."""
    console = Console(stderr=True)
    length_s = max(job.length_s, 1.0)
    at_s = 0.0
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=4,
        disable=not (shown and console.is_terminal),
    )
    with bar:
        task = bar.add_task("simulating", total=length_s)

        def told(second: float) -> None:
            nonlocal at_s
            at_s = second
            bar.update(task, completed=min(second, length_s))

        try:
            yield told
        except KeyboardInterrupt:
            hours = f" at hour {at_s / _HOUR_S:.1f} of {length_s / _HOUR_S:.1f}"
            raise KeyboardInterrupt(hours) from None


def _screen(result: Result, asked: _Asked, job: Job) -> Table:
    bound = hindsight(job, result)
    document = {
        **result.to_json(),
        "hindsight": None if bound is None else bound.to_json(),
        "policy": str(asked.policy),
        "trace": str(asked.trace),
        "scale": asked.scale,
        "seed": asked.seed,
        "boot": {"median_s": job.market.boots.median_s, "sigma": job.market.boots.sigma},
        "stock_out": job.market.out_share,
    }
    boots = show_duration(parse_duration(f"{job.market.boots.median_s:g}s"))
    lead = Painted(
        f"{result.model}: {len(result.requests):,} requests in {span(result.length_s)}, boots {boots}",
        "bold",
    )
    notes = (
        f"simulated in {span(result.took.total_s)}: a model of the servers, not your machines (docs/simulate.md)",
    )
    return Table(
        ("What", ""),
        [*_rows(result), *_hindsight_row(result, bound)],
        document,
        notes=notes,
        lead=(lead,),
        headed=False,
    )


def _words(screen: Table, asked: _Asked, job: Job) -> Words:
    """What the screen says, for a page, with what was asked for."""
    boots, share = job.market.boots, job.market.out_share
    until = "its end" if asked.until_h is None else f"hour {asked.until_h:g}"
    return Words(
        title=" ".join(str(line) for line in screen.lead),
        figures=[(str(name), str(value)) for name, value, *_ in screen.rows],
        asked=(
            ("policy", str(asked.policy)),
            ("trace", f"{asked.trace}, from hour {asked.since_h:g} to {until}"),
            ("traffic", f"× {asked.scale:g}"),
            ("boots", f"median {boots.median_s:g} s, sigma {boots.sigma:g}"),
            ("sold out", f"{share:.0%} of the time"),
            ("seed", str(asked.seed)),
        ),
        notes=[str(note) for note in screen.notes],
        since_h=asked.since_h,
    )


def _rows(result: Result) -> Iterator[tuple[object, object]]:
    came, lost = len(result.requests), result.lost_count
    each, tokens = result.usd_per_1000_requests, result.usd_per_million_tokens
    yield (
        "money",
        f"{money(result.cost.usd)} · {_usd(each)} per 1,000 requests · {_usd(tokens)} per million tokens",
    )
    yield "in time", _in_time(result)
    yield "first token", _seconds(result.ttft_quantiles)
    yield "between tokens", _seconds(result.itl_quantiles)
    why = f" ({', '.join(f'{n:,} {reason}' for reason, n in result.lost.items())})" if lost else ""
    yield (
        "requests",
        f"{came - lost:,} answered · {result.held:,} held without a node · "
        f"{result.queued:,} queued · {lost:,} lost{why}",
    )
    hours = result.gpu_hours
    yield (
        "GPU-hours",
        f"{hours.total:.1f}: {hours.serving:.1f} serving · {hours.idle:.1f} idle · {hours.boot:.1f} booting · "
        f"{hours.leave:.1f} leaving · {hours.wasted:.1f} in vain",
    )
    types = ", ".join(f"{n} {name}" for name, n in result.types.items())
    yield (
        "actions",
        f"{result.launches} launched{f' ({types})' if types else ''} · {result.releases} given back, "
        f"{result.cancelled} of them before they served · {counted(result.reversals, 'reversal')} · "
        f"{result.refused} sold out when ordered",
    )


def _hindsight_row(result: Result, bound: Hindsight | None) -> Iterator[tuple[object, object]]:
    if bound is None or (ratio := bound.ratio(result)) is None:
        return
    yield (
        "in hindsight",
        f"{money(bound.usd)} at least for every request in its minute, {money(bound.usd_whole)} by whole replicas "
        f"({bound.type}): this cost {ratio:.1f} ×",
    )


def _in_time(result: Result) -> Painted:
    aim, attained = result.aim, result.attained
    words = f"{attained.ttft:.2%} of first tokens within {aim.ttft_s:g} s (goal {aim.goal:.0%})"
    if attained.itl is not None:
        words += f" · {attained.itl:.2%} of answers within {aim.itl_s:g} s between tokens"
    if attained.worst_hour is not None:
        words += f" · {attained.worst_hour:.1%} in the worst hour"
    return Painted(words, "green" if attained.both >= aim.goal else "yellow")


def _seconds(quantiles: dict[str, float]) -> str:
    return (
        " · ".join(
            f"{name} {value * 1e3:.0f} ms" if value < 1 else f"{name} {value:.2f} s"
            for name, value in quantiles.items()
        )
        or "none came"
    )


def _usd(amount: float | None) -> str:
    return "–" if amount is None else money(amount)
