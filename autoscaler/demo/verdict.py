"""Judges a run by what clients saw, what the daemon recorded, and what the cloud still bills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from autoscaler.demo.load import Seen, node_of

CLOSED = ("gone", "lost", "cancelled")
_UNNOTICED_S = 1.0  # the gateway may send so long to a machine that is dead already
_LOOK_S = 2.0  # an order bears the time at which its pass began to look around, and may have seen what came meanwhile


@dataclass(frozen=True, slots=True)
class Verdict:
    """What went wrong, nothing when the run was good.

    Attributes:
        excused: failed requests that a dead machine explains.
        problems: everything that makes the run a failure, the same thing once with its count.
    """

    excused: int
    problems: tuple[str, ...]


def judge(
    seen: Sequence[Seen],
    nodes: Sequence[Mapping[str, Any]],
    killed: Mapping[str, float],
    still_billing: Sequence[str],
    left: Sequence[str] = (),
    broken: Sequence[str] = (),
) -> Verdict:
    """Judge a run. Pure.

    Args:
        nodes: as the daemon lists them at the end, closed ones included.
        killed: node name → Unix time of its machine's death.
        still_billing: names of what the cloud still bills.
        left: processes of ours that ran on when all was over.
        broken: what the run promised to show and did not.
    """
    failed = [request for request in seen if request.failed]
    unexplained = [request for request in failed if not _is_explained(request, killed)]
    problems = [
        *_counted(
            f"a request failed: {request.error} (node {node_of(request) or 'none'})"
            for request in unexplained
        ),
        *_counted("a request never ended" for request in seen if request.ended_at is None),
        *(f"left behind: {name} still bills" for name in still_billing),
        *(f"not gone: {n['name']} is {n['state']}" for n in nodes if n["state"] not in CLOSED),
        *(f"left behind: {what}" for what in left),
        *_counted(_early(seen, nodes)),
        *_rented_idle(seen, nodes),
        *broken,
    ]
    if not any(request.complete for request in seen):
        problems.append("no request was answered")
    return Verdict(len(failed) - len(unexplained), tuple(problems))


def _counted(problems: Iterable[str]) -> list[str]:
    """The most frequent first, each once."""
    return [
        problem if count == 1 else f"{problem} ({count} times)"
        for problem, count in Counter(problems).most_common()
    ]


def _is_explained(request: Seen, killed: Mapping[str, float]) -> bool:
    """Whether the request was in flight on a machine when that machine died."""
    died_at = killed.get(node_of(request))
    return (
        died_at is not None
        and request.sent_at <= died_at + _UNNOTICED_S
        and request.ended_at is not None
        and request.ended_at >= died_at
    )


def _early(seen: Sequence[Seen], nodes: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Requests that a node took before it was verified, answered or not."""
    verified = {
        str(n["name"]): datetime.fromisoformat(n["verified_at"]).timestamp()
        for n in nodes
        if n["verified_at"]
    }
    for request in seen:
        name, took_by = node_of(request), request.first_at or request.ended_at
        if not name or took_by is None:
            continue
        if name not in verified:
            yield f"{name} took a request and was never verified"
        elif took_by < verified[name]:
            yield f"{name} took a request before it was verified"


def _rented_idle(seen: Sequence[Seen], nodes: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Nodes that were ordered before anybody asked: a run begins at zero."""
    first = min((request.sent_at for request in seen), default=float("inf"))
    for node in nodes:
        if datetime.fromisoformat(node["created_at"]).timestamp() < first - _LOOK_S:
            yield f"not from zero: {node['name']} was ordered before the first request"
