"""Places where the daemon may be made to die: after each durable record and after each effect on the world.

Between two of them nothing is durable and nothing is done, so that a crash anywhere is a crash at one of them. They are
put around what the daemon acts through (`Outside`) when one is armed; otherwise nothing of this is in the way. Armed is
a point by the environment, for a cloud that is the emulator alone:

    AUTOSCALER_CRASH_POINT=create-sent autoscaler run        (create-sent:3 lets it pass twice)
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import structlog

from autoscaler.clock import Clock
from autoscaler.config import Config
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Node, State
from autoscaler.errors import ConfigError
from autoscaler.outside import OpenOutside, Outside, open_outside
from autoscaler.policy import Policy
from autoscaler.store.protocol import Admission

log = structlog.get_logger(__name__)

VARIABLE: Final = "AUTOSCALER_CRASH_POINT"

Call = tuple[Any, ...]  # the arguments of a call, of any type


class Point(StrEnum):
    """Each place, by its name: what has just become durable, or has just been done."""

    # a node's life, as recorded
    PLANNED = "planned-recorded"  # L1
    CREATING = "creating-recorded"  # L2
    CREATE_ANSWER = "create-answer-recorded"  # L5
    BOOTING = "booting-recorded"  # L7
    VERIFYING = "verifying-recorded"  # L8: the host key is pinned
    VERIFIED = "verified-recorded"  # the warm-up was answered
    READY = "ready-recorded"  # L10
    DRAINING = "draining-recorded"  # T1
    TERMINATING = "terminating-recorded"  # T5
    DELETE = "delete-recorded"  # that it was asked to go once more
    GONE = "gone-recorded"  # T8
    FAILED = "failed-recorded"
    LOST = "lost-recorded"
    CANCELLED = "cancelled-recorded"
    FACTS = "facts-recorded"  # anything else that was learned of a node
    # what else is durable
    DECISION = "decision-recorded"  # a pass that rents and releases nothing
    ORPHANS = "orphans-recorded"
    CONDEMNED = "condemned-recorded"  # a row for a machine that nobody knew
    TAKEN_IN = "taken-in-recorded"  # a row for a machine that was adopted
    EVENT = "event-recorded"
    WORD = "word-recorded"  # an operator's: pause, resume, retire, promote, demote, scale
    OFFER = "offer-recorded"  # a back-off, a measured boot, a listing lag
    FACT = "fact-recorded"  # of the deployment
    START = "start-recorded"
    LEASE = "lease-recorded"
    PRUNED = "pruned-recorded"
    COPIED = "store-copied"
    # what was done
    CREATE_SENT = "create-sent"  # L4
    DELETE_SENT = "delete-sent"  # T6
    STOP_SENT = "stop-sent"
    DISK_DELETE_SENT = "disk-delete-sent"
    RULE_KEPT = "rule-kept"  # made, mended or seen to be right
    POOL_TOLD = "pool-told"
    REGISTERED = "registered"  # L9
    DRAIN_TOLD = "drain-told"
    REMOVED = "removed"
    WELCOMED = "balancers-welcomed"
    WAY_CLOSED = "way-closed"


_STATES: Final[Mapping[State, Point]] = {
    State.PLANNED: Point.PLANNED,
    State.CREATING: Point.CREATING,
    State.BOOTING: Point.BOOTING,
    State.VERIFYING: Point.VERIFYING,
    State.READY: Point.READY,
    State.DRAINING: Point.DRAINING,
    State.TERMINATING: Point.TERMINATING,
    State.GONE: Point.GONE,
    State.FAILED: Point.FAILED,
    State.LOST: Point.LOST,
    State.CANCELLED: Point.CANCELLED,
}


def _planned(call: Call, made: object) -> Point:
    if isinstance(made, Admission) and made.admitted:
        return Point.PLANNED
    releases: list[tuple[Node, Node, object]] = call[4]
    return _STATES[releases[0][1].state] if releases else Point.DECISION


def _learned(call: Call, made: object) -> Point:
    before: Node = call[1]
    after: Node = call[2]
    if before.operation_id is None and after.operation_id is not None:
        return Point.CREATE_ANSWER
    if before.verified_at is None and after.verified_at is not None:
        return Point.VERIFIED
    return Point.DELETE if after.deletes > before.deletes else Point.FACTS


def _found(call: Call, made: object) -> Point:
    node: Node = call[1]
    return Point.CONDEMNED if node.state is State.TERMINATING else Point.TAKEN_IN


def _always(point: Point) -> Callable[[Call, object], Point]:
    return lambda call, made: point


Named = Mapping[str, Callable[[Call, object], Point]]

RECORDS: Final[Named] = {
    "commit_plan": _planned,
    "advance": lambda call, made: _STATES[call[2].state],
    "update": _learned,
    "insert": _found,
    "set_orphans": _always(Point.ORPHANS),
    "add_event": _always(Point.EVENT),
    "set_paused": _always(Point.WORD),
    "set_retired": _always(Point.WORD),
    "set_resumed": _always(Point.WORD),
    "set_promotion": _always(Point.WORD),
    "set_override": _always(Point.WORD),
    "set_backoff": _always(Point.OFFER),
    "clear_backoff": _always(Point.OFFER),
    "add_boot": _always(Point.OFFER),
    "add_listing_lag": _always(Point.OFFER),
    "set_meta": _always(Point.FACT),
    "add_start": _always(Point.START),
    "acquire": _always(Point.LEASE),
    "renew": _always(Point.LEASE),
    "prune": _always(Point.PRUNED),
    "back_up": _always(Point.COPIED),
}
CALLS: Final[Named] = {
    "create": _always(Point.CREATE_SENT),
    "delete": _always(Point.DELETE_SENT),
    "stop": _always(Point.STOP_SENT),
    "delete_disk": _always(Point.DISK_DELETE_SENT),
    "ensure_firewall_rule": _always(Point.RULE_KEPT),
}
WORDS: Final[Named] = {
    "ensure_pool": _always(Point.POOL_TOLD),
    "register": _always(Point.REGISTERED),
    "drain": _always(Point.DRAIN_TOLD),
    "remove": _always(Point.REMOVED),
    "welcome": _always(Point.WELCOMED),
}
WAYS: Final[Named] = {"close": _always(Point.WAY_CLOSED)}


@dataclass(slots=True)
class Fuse:
    """What is armed: the process dies, as by `kill -9`, when it has come by the point so often."""

    point: Point
    left: int = 1
    die: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)

    def passing(self, point: Point) -> None:
        if point is not self.point:
            return
        self.left -= 1
        if self.left <= 0:
            log.warning("crash_point_reached", point=point)
            self.die()


def armed(environment: Mapping[str, str]) -> Fuse | None:
    """The fuse that the environment names, None when it names none.

    Raises:
        ConfigError: there is no such point.
    """
    text = environment.get(VARIABLE, "")
    if not text:
        return None
    name, _, times = text.partition(":")
    try:
        fuse = Fuse(Point(name), int(times or "1"))
    except ValueError:
        raise ConfigError(
            f"{VARIABLE}: found {text!r}, allowed: one of {', '.join(Point)}, or with :N the N-th time. It makes "
            "the daemon kill itself: unset it unless this is a test"
        ) from None
    return fuse


def outside_of(config: Config, fuse: Fuse | None) -> OpenOutside:
    """What the daemon is to act through: the real one, with the fuse in it where one is armed.

    Raises:
        ConfigError: one is armed, and the cloud is not on loopback.
    """
    if fuse is None:
        return open_outside
    if not config.cloud.is_loopback:
        raise ConfigError(
            f"{VARIABLE} is set and cloud.url is {config.cloud.url}: it makes the daemon kill itself and works "
            "with the emulator only: unset it"
        )

    @asynccontextmanager
    async def open_fused(
        config: Config, clock: Clock, policies: Callable[[], Mapping[ModelName, Policy]]
    ) -> AsyncIterator[Outside]:
        async with open_outside(config, clock, policies) as outside:
            if why := await outside.why_no_emulator():
                raise ConfigError(
                    f"{VARIABLE} is set, and {config.cloud.url} is no emulator: {why}"
                )
            yield fused(outside, fuse)

    return open_fused


def fused(outside: Outside, fuse: Fuse) -> Outside:
    """The same outside, in which every record and effect comes by the fuse."""
    watched: Any = _Other(
        outside,
        {
            "store": _Watched(outside.store, RECORDS, fuse, only_done=True),
            "cloud": _Watched(outside.cloud, CALLS, fuse),
            "balancers": _Watched(outside.balancers, WORDS, fuse),
            "reach": _Watched(outside.reach, WAYS, fuse),
        },
    )
    found: Outside = watched
    return found


@dataclass(frozen=True, slots=True)
class _Other:
    """An object with other attributes in place of some of its own."""

    inner: Any  # stands for it, whatever its type is
    own: Mapping[str, object]

    def __getattr__(self, name: str) -> Any:
        return self.own[name] if name in self.own else getattr(self.inner, name)


@dataclass(frozen=True, slots=True)
class _Watched:
    """An object whose named calls come by the fuse once they are made.

    Attributes:
        only_done: a call that raised has left nothing; else it may have had its effect all the same.
    """

    inner: Any
    named: Named
    fuse: Fuse
    only_done: bool = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        if name not in self.named:
            return call

        async def passing(*args: Any, **options: Any) -> Any:
            made = None
            try:
                made = await call(*args, **options)
            except Exception:
                if self.only_done:
                    raise
                self.fuse.passing(self.named[name](args, made))
                raise
            self.fuse.passing(self.named[name](args, made))
            return made

        return passing
