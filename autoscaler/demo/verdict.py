"""Judges a run by what clients saw, what the daemon recorded, and what the cloud still bills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from autoscaler.demo.load import Seen


@dataclass(frozen=True, slots=True)
class Verdict:
    """What went wrong, nothing when the run was good.

    Attributes:
        excused: failed requests that a dead machine explains.
        problems: everything that makes the run a failure.
    """

    excused: int
    problems: tuple[str, ...]


def judge(
    seen: Sequence[Seen],
    nodes: Sequence[Mapping[str, Any]],
    killed: Mapping[str, float],
    still_billing: Sequence[str],
) -> Verdict:
    """Judge a run. Pure.

    Args:
        nodes: as the daemon lists them at the end, closed ones included.
        killed: node name → Unix time of its machine's death.
        still_billing: names of what the cloud still bills.
    """
    problems: list[str] = []
    excused = 0
    for request in seen:
        if not request.failed:
            continue
        if _is_explained(request, killed):
            excused += 1
        else:
            problems.append(f"a request failed: {request.error} (node {request.node})")
    problems += [f"left behind: {name}" for name in still_billing]
    open_nodes = [n["name"] for n in nodes if n["state"] not in ("gone", "lost", "cancelled")]
    problems += [f"not gone: {name}" for name in open_nodes]
    problems += list(_early(seen, nodes))
    if seen and not any(request.complete for request in seen):
        problems.append("no request was answered")
    return Verdict(excused, tuple(problems))


def _is_explained(request: Seen, killed: Mapping[str, float]) -> bool:
    """Whether the request was in flight on a machine when that machine died."""
    died_at = killed.get((request.node or "").partition(".")[0])
    return (
        died_at is not None
        and request.sent_at <= died_at + 1.0
        and request.ended_at is not None
        and request.ended_at >= died_at
    )


def _early(seen: Sequence[Seen], nodes: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Nodes that answered a client before they were verified."""
    verified = {
        str(n["name"]): datetime.fromisoformat(n["verified_at"]).timestamp()
        for n in nodes
        if n["verified_at"]
    }
    early = []
    for request in seen:
        name = (request.node or "").partition(".")[0]
        if not name or request.first_at is None:
            continue
        if name not in verified:
            early.append(f"{name} served a request and was never verified")
        elif request.first_at < verified[name]:
            early.append(f"{name} served a request before it was verified")
    return sorted(set(early))
