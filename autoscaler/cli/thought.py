"""`autoscaler plan` and `explain`: what a pass would do and cost, and why it wants that; the answer comes first."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, JsonOption, get
from autoscaler.cli.connection import Table, said_errors, show
from autoscaler.cli.nodes import short
from autoscaler.cli.screen import Painted
from autoscaler.cli.words import counted, limit, money, span
from autoscaler.config_file import read_config

View = dict[str, Any]  # as the daemon serves it
Lines = Iterator[str | Painted]


def plan(model: str, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """What the next pass would do now, with prices and measured boots. Records nothing and rents nothing."""
    with said_errors():
        show(plan_screen(asyncio.run(_ask("/api/v1/plan", model, config))), as_json=json)


def explain(model: str, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Why a model has so many nodes: each rule's wish, which one bound, and at what demand, and when, that changes."""
    with said_errors():
        show(explain_screen(asyncio.run(_ask("/api/v1/explain", model, config))), as_json=json)


async def _ask(path: str, model: str, config: ConfigOption) -> View:
    answer: View = await get(read_config(config), path, model=model)
    answer.pop("text", None)
    return answer


def plan_screen(view: View) -> Table:
    """The screen for a plan."""
    return Table((), (), view, lead=tuple(_plan_lines(view)))


def explain_screen(view: View) -> Table:
    """The screen for a decision."""
    return Table((), (), view, lead=tuple(_explain_lines(view)))


def _plan_lines(view: View) -> Lines:
    figures = view["figures"]
    yield Painted(f"{view['model']} (rents nothing): {_change(figures)}", "bold")
    yield from _changes(figures)
    for one in view.get("refused", ()):
        yield Painted(f"! refused: {one['offer']}: {one['why']}", "bold red")
    for text in (*figures["notes"], *view.get("too_low", ())):
        yield Painted(f"! {text}", "yellow")
    yield from _passed_over([one for one in figures["passes_over"] if one["possible"]])
    never = sum(1 for one in figures["passes_over"] if not one["possible"])
    if never:
        yield f"{counted(never, 'offer')} can never serve it: `autoscaler offers --model POLICY` says why"
    yield f"why: {view['reason']}"


def _change(figures: View) -> str:
    """Nodes and money, before and after."""
    where = "on paper " if figures["on_paper"] else ""
    text = where + _stand(figures["nodes_before"], figures["usd_per_hour_before"])
    if not (figures["rents"] or figures["gives_back"] or figures["takes_back"]):
        text += ", nothing to do"
    else:
        text += f" → {_stand(figures['nodes_after'], figures['usd_per_hour_after'])}"
    most = figures["limit_usd_per_hour"]
    return text if most is None else f"{text}, limit {limit(most)}/h"


def _stand(nodes: int, price: str) -> str:
    return f"{counted(nodes, 'node')} {money(price)}/h"


def _changes(figures: View) -> Lines:
    alike = Counter(
        (one["type"], one["location"], one["usd_per_hour"], _boot(one)) for one in figures["rents"]
    )
    for (offer, location, price, boot), count in alike.items():
        times = f"{count} × " if count > 1 else ""
        each = " each" if count > 1 else ""
        yield Painted(f"+ {times}{offer}@{location} +{money(price)}/h{each}, {boot}", "green")
    for name in figures["takes_back"]:
        yield Painted(f"+ {short(name)}, taken back from its drain", "green")
    for one in figures["gives_back"]:
        what = f"{short(one['node'])} {one['type']}@{one['location']}"
        yield Painted(f"- {what} -{money(one['usd_per_hour'])}/h: {one['reason']}", "yellow")


def _boot(one: View) -> str:
    if not one["boots"]:
        return f"boot not measured yet ({span(one['boot_p90_s'])} assumed)"
    return f"p90 {span(one['boot_p90_s'])} of {counted(one['boots'], 'boot')}"


def _passed_over(offers: Sequence[View]) -> Lines:
    """Offers with the same reason in one line, in the order in which they were judged."""
    groups: dict[str, list[str]] = {}
    for one in offers:
        groups.setdefault(one["reason"], []).append(f"{one['type']}@{one['location']}")
    for reason, names in groups.items():
        yield f"passed over: {', '.join(names)}: {reason}"


def _explain_lines(view: View) -> Lines:
    figures = view["figures"]
    binding = [rule for rule in view["rules"] if rule["rule"] == view["binding"]][-1:]
    others = [rule for rule in view["rules"] if rule not in binding]
    nodes = counted(figures["nodes_before"], "node") + (" on paper" if figures["on_paper"] else "")
    bound = f"{binding[0]['rule']} bound at {binding[0]['replicas']:.2f}" if binding else "no rule"
    rest = ", ".join(f"{rule['rule']} {rule['replicas']:.2f}" for rule in others)
    yield Painted(f"{view['model']} {nodes}: {bound}{'; ' if rest else ''}{rest}", "bold")
    for text in view["counterfactuals"]:
        yield f"  {text}"
    yield f"why: {view['reason']}"
    demand = "unknown" if view["demand"] is None else f"{view['demand']:.2f}"
    # a type's name ends in how many GPUs it has; what counts is the share of one replica
    unit = re.sub(r"\.\d+x$", "", view["reference"]) or "no known offer"
    yield (
        f"demand {demand}, ready {view['ready']:.2f}, all that bills {view['have']:.2f} "
        f"(in replicas on {unit})"
    )
    for rule in others:
        yield f"  {rule['rule']} {rule['replicas']:.2f}: {rule['reason']}"
    plan = view["plan"]
    for text in plan["notes"]:
        yield Painted(f"! {text}", "yellow")
    if plan["launches"] or plan["releases"] or plan["undrain"]:
        yield f"plan: {_change(figures)}"
        yield from _changes(figures)
    yield from _passed_over(figures["passes_over"])
