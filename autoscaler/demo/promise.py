"""What a run must have shown beyond failing nobody: a second offer type, a stock-out, a death under load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoscaler.demo.load import Seen, node_of
from autoscaler.demo.settings import TRAFFIC_S, DemoSettings

_OFFER_TYPES = 2
_MOST_CPU_SHARE = 0.7  # beyond, the figures are this computer's rather than the fleet's
_MOST_WALL_S = 180.0


@dataclass(frozen=True, slots=True)
class Kept:
    """How far a run kept what the demo promises.

    Attributes:
        broken: what the knobs promised and the run did not show; it makes the run a failure.
        warnings: what is worth telling and nobody's fault: a small run, or a slow computer.
    """

    broken: tuple[str, ...]
    warnings: tuple[str, ...]


def hold_against_promise(
    settings: DemoSettings,
    seen: Sequence[Seen],
    nodes: Sequence[Mapping[str, Any]],
    killed: Mapping[str, float],
    cpu_share: float,
    wall_s: float,
) -> Kept:
    """Hold a run against what its knobs promise. Pure.

    The story is promised by the generated traffic at the default size or a larger one. A trace of one's own, a shorter
    run or a lower peak may not need a second offer, so there it is a warning; without faults, and with a real engine on
    this computer's processor, there is none to tell.

    Args:
        nodes: as the daemon lists them at the end, closed ones included.
        killed: node name → Unix time of its machine's death.
        cpu_share: of two cores.
        wall_s: from the command to the last process's end.
    """
    missing = tuple(_missing(seen, nodes, killed)) if settings.has_story else ()
    slow = tuple(_slow(settings, cpu_share, wall_s))
    if settings.promises_story:
        return Kept(missing, slow)
    return Kept((), (*missing, *slow))


def _missing(
    seen: Sequence[Seen], nodes: Sequence[Mapping[str, Any]], killed: Mapping[str, float]
) -> Iterable[str]:
    types = {str(node["type"]) for node in nodes if node["ready_at"]}
    if len(types) < _OFFER_TYPES:
        named = ", ".join(sorted(types)) or "none"
        yield f"not shown: two offer types at work (served: {named})"
    if not any(is_stock_out(node) for node in nodes):
        yield "not shown: an order that sold out on the way"
    if len(killed) != 1:
        yield f"not shown: one machine that dies under load ({len(killed)} were killed)"
    for name, died_at in killed.items():
        if not any(_was_there(request, name, died_at) for request in seen):
            yield f"not shown: {name} died without a request in flight on it"
        if not any(request.complete and request.sent_at > died_at for request in seen):
            yield f"not shown: a request answered after {name} died"


def _was_there(request: Seen, name: str, died_at: float) -> bool:
    ended_at = request.ended_at if request.ended_at is not None else died_at
    return node_of(request) == name and request.sent_at <= died_at <= ended_at


def _slow(settings: DemoSettings, cpu_share: float, wall_s: float) -> Iterable[str]:
    if cpu_share > _MOST_CPU_SHARE:
        yield (
            f"this host was busy: {cpu_share:.0%} of two cores, the load is sized for "
            f"{_MOST_CPU_SHARE:.0%} at most: latency is partly its own; try a lower --peak"
        )
    if wall_s > _MOST_WALL_S and settings.traffic_s <= TRAFFIC_S:
        yield f"this host was slow: {wall_s:.0f} s, meant to be at most {_MOST_WALL_S:.0f} s"


def is_stock_out(node: Mapping[str, Any]) -> bool:
    """Whether an order failed because somebody else had the last machine."""
    return str(node["failure"] or "").startswith("stock")
