"""When a serving node is given up: two witnesses of three, and never most of a fleet at once.

The witnesses are this daemon (HTTP and SSH), the balancer's own check, and the cloud. From four nodes up, more than
half failing alike at once means that it is us, or the network: hold and say so, delete none.

Daemon and balancer often stand on one host, and then a glitch of its network makes two witnesses of one. So below
four nodes too, none is given up while all of two or more fail alike, and none of any number while the cloud cannot be
reached either, unless the cloud says a word against one of them or SSH, by its pinned key, proves that the way is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from autoscaler.domain.ids import NodeName

_MANY = 4
_SOME = 2


@dataclass(frozen=True, slots=True)
class Witnesses:
    """What each witness says against one serving node now, None when it says nothing against it.

    Attributes:
        reached: it answered over SSH, so the way to it is free.
    """

    daemon: str | None = None
    balancer: str | None = None
    cloud: str | None = None
    reached: bool = False

    @property
    def may_be_us(self) -> bool:
        """Whether a network of ours that is down would look the same."""
        return self.cloud is None and not self.reached

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
    *,
    is_cloud_away: bool = False,
) -> Judgement:
    """Say which serving nodes to give up. Pure.

    Args:
        serving: how many nodes serve, suspects included.
        suspects: those with two witnesses or more against them.
        patience: how long that must last.
        at_s: now, in seconds since boot.
        is_cloud_away: whether our last call to the cloud failed too.
    """
    due = {n: s for n, s in suspects.items() if at_s - s.since_s >= patience.total_seconds()}
    # All suspects count, not only those due: each is looked at in its own time, and the first to come due must not
    # be given up a moment before the others are seen to share its fate.
    if due and serving >= _MANY and len(suspects) * 2 > serving:
        return Judgement(
            {},
            f"{len(suspects)} of {serving} nodes fail at once: it is us or the network; none is given up",
        )
    dark = [name for name, suspect in suspects.items() if suspect.witnesses.may_be_us]
    if due and serving >= _SOME and len(dark) == serving:
        return Judgement(
            {},
            f"all {serving} nodes fail alike, and neither the cloud nor SSH says anything: it is us or the "
            "network; none is given up",
        )
    held = None
    if is_cloud_away and any(name in dark for name in due):
        kept = [name for name in due if name in dark]
        due = {name: suspect for name, suspect in due.items() if name not in dark}
        held = f"{len(kept)} of {serving} nodes fail, and the cloud does not answer us either: they are kept"
    return Judgement(
        {name: f"condemned: {'; '.join(s.witnesses.against)}" for name, s in due.items()},
        held,
    )
