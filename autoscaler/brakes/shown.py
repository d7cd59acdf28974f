"""What one node's life showed of the cloud, and how long each of its stages took. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from autoscaler.brakes.facts import Status
from autoscaler.brakes.recording import Seen
from autoscaler.domain.node import Node, NodeEvent, State

_STAGE = re.compile(r"\b([a-z_]{1,32}) (\d+(?:\.\d+)?)s\b")
_DRIVER = re.compile(r"\bdriver ([0-9.]+)")

Shown = dict[str, tuple[Status, str]]


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage of a life: when it began after the order, and how long it took."""

    stage: str
    after_s: float
    seconds: float


def of_calls(node: Node, seen: Seen, settling: timedelta) -> Shown:
    """What the calls to the cloud showed."""
    found: Shown = {"name_unique": (Status.UNPROVEN, "not tried: a name goes into one create call")}
    if seen.most > 1:
        found["name_unique"] = (Status.REFUTED, f"{seen.most} VMs were listed under one name")
    if seen.refusals:
        found["delete_running"] = (Status.REFUTED, "refused: it was stopped, then deleted")
    elif seen.deleted_running and not seen.stops and node.state is State.GONE:
        found["delete_running"] = (Status.CONFIRMED, "deleted while RUNNING, and proven absent")
    else:
        found["delete_running"] = (Status.UNPROVEN, "it was not running when it was deleted")
    if seen.answered_s is None:
        found["create_answer"] = (Status.UNPROVEN, "the create call was not answered")
    elif seen.held_id:
        found["create_answer"] = (Status.CONFIRMED, "it held the VM's id")
    else:
        found["create_answer"] = (Status.REFUTED, "no id: the VM was found by its name")
    if seen.answered_s is None or seen.listed_s is None:
        found["listing_lag"] = (Status.UNPROVEN, "the VM was not seen to appear")
    else:
        lag_s = max(0.0, seen.listed_s - seen.answered_s)
        good = lag_s <= settling.total_seconds()
        status = Status.CONFIRMED if good else Status.REFUTED
        found["listing_lag"] = (status, f"listed {lag_s:.1f} s after the answer, or sooner")
    match seen.echoes:
        case None:
            found["script_echo"] = (Status.UNPROVEN, "no operation was read")
        case True:
            found["script_echo"] = (Status.CONFIRMED, "it is readable: never put a secret into it")
        case False:
            found["script_echo"] = (Status.REFUTED, "no operation showed it")
    return found


def of_proof(node: Node, events: Sequence[NodeEvent], *, over_ssh: bool = False) -> Shown:
    """What the proof that the node serves showed.

    Args:
        over_ssh: model servers are reached through SSH, so no port was asked for.
    """
    nothing = Status.UNPROVEN, f"it did not come so far: {node.failure or node.reason}"
    pinned, verified = node.host_key is not None, node.verified_at is not None
    kind = (node.host_key or "").partition(" ")[0]
    text = " ".join(event.detail for event in events)
    driver = _DRIVER.search(text)
    driver_shown = nothing
    if driver is not None and verified:
        driver_shown = Status.CONFIRMED, driver[1]
    elif "driver" in (node.failure or ""):
        driver_shown = Status.REFUTED, str(node.failure).partition("\n")[0]
    elif verified:
        driver_shown = Status.UNPROVEN, "a machine without GPUs"
    reached = Status.CONFIRMED, "its health was read from here"
    if over_ssh:
        reached = Status.UNPROVEN, "not needed: the server is reached through SSH"
    return {
        "host_key": (Status.CONFIRMED, f"{kind}, proven and pinned") if pinned else nothing,
        "ssh_user": (Status.CONFIRMED, "it logged in") if pinned else nothing,
        "firewall": reached if verified else nothing,
        "driver": driver_shown,
    }


def waterfall(node: Node, events: Sequence[NodeEvent]) -> tuple[Bar, ...]:
    """The stages of a life in their order, from the order on: states, and within them the startup script's."""
    began = node.created_at
    entered = [
        (e.at, e.state) for e in events if e.state is not None and e.kind.startswith("node_")
    ]
    bars = []
    for (at, state), (until, _) in pairwise(entered):
        after_s = (at - began).total_seconds()
        bars.append(Bar(state.value, after_s, (until - at).total_seconds()))
        if state is State.BOOTING:
            script_s = after_s
        if state is State.VERIFYING:
            detail = next((e.detail for e in events if e.state is State.READY and e.detail), "")
            for name, seconds in _STAGE.findall(detail.rpartition(";")[2]):
                bars.append(Bar(f"  script: {name}", script_s, float(seconds)))
                script_s += float(seconds)
    return tuple(bars)
