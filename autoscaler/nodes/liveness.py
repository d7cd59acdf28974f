"""When a serving node is given up: two witnesses of three, and never most of a fleet at once.

The witnesses are this daemon (HTTP and SSH), the balancer's own check, and the cloud. From four nodes up, more than
half failing alike at once means that it is us, or the network: hold and say so, delete none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from autoscaler.domain.ids import NodeName

_MANY = 4


@dataclass(frozen=True, slots=True)
class Witnesses:
    """What each witness says against one serving node now, None when it says nothing against it."""

    daemon: str | None = None
    balancer: str | None = None
    cloud: str | None = None

    @property
    def against(self) -> tuple[str, ...]:
        return tuple(word for word in (self.daemon, self.balancer, self.cloud) if word is not None)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Since when, in seconds since boot, a node has had two witnesses or more against it."""

    since_s: float
    witnesses: Witnesses


@dataclass(frozen=True, slots=True)
class Judgement:
    """Which nodes are given up, and why none are although some look dead."""

    condemned: Mapping[NodeName, str]
    held: str | None = None


def judge(
    serving: int,
    suspects: Mapping[NodeName, Suspicion],
    patience: timedelta,
    at_s: float,
) -> Judgement:
    """Say which serving nodes to give up. Pure.

    Args:
        serving: how many nodes serve, suspects included.
        suspects: those with two witnesses or more against them.
        patience: how long that must last.
        at_s: now, in seconds since boot.
    """
    due = {n: s for n, s in suspects.items() if at_s - s.since_s >= patience.total_seconds()}
    # All suspects count, not only those due: each is looked at in its own time, and the first to come due must not
    # be given up a moment before the others are seen to share its fate.
    if due and serving >= _MANY and len(suspects) * 2 > serving:
        return Judgement(
            {},
            f"{len(suspects)} of {serving} nodes fail at once: it is us or the network; none is given up",
        )
    return Judgement(
        {name: f"condemned: {'; '.join(s.witnesses.against)}" for name, s in due.items()}
    )
