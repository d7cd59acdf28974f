"""What the daemon believes of a cloud that documents little, and which of it a trial has shown to be so.

Facts are kept in the store, per project. `autoscaler run` names each unproven one that it leans on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """What a trial showed of a fact."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"  # the other way round: each has a fallback, which the daemon then takes
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed.

    Attributes:
        leans: what would go wrong if it were not so; empty when nothing does, and it is only good to know.
    """

    name: str
    says: str
    leans: str = ""


BELIEFS: tuple[Belief, ...] = (
    Belief(
        "delete_running",
        "DELETE ends a running VM, until it is absent",
        "a VM that is given back stops billing",
    ),
    Belief("name_unique", "no two VMs of a project have one name"),
    Belief(
        "listing_lag",
        "a new VM is listed within timings.settling_time",
        "a create whose answer was lost is found, and not written off",
    ),
    Belief("create_answer", "the answer to a create holds the VM's id"),
    Belief("script_echo", "operations show the startup script to whoever has a key"),
    Belief(
        "host_key",
        "the startup script proves the host key by its nonce",
        "users' prompts go to our VM and to no other",
    ),
    Belief(
        "firewall",
        "the serving port is reached from here under the firewall rule",
        "a VM that was paid for can serve",
    ),
    Belief(
        "driver",
        "the image's NVIDIA driver is new enough for the model server",
        "a VM that was paid for can serve",
    ),
    Belief(
        "disks",
        "the system disk goes with its VM",
        "no disk is left that bills",
    ),
    Belief("ssh_user", "ssh.user may log in with our key", "a VM can be proven"),
)
_NAMES = frozenset(belief.name for belief in BELIEFS)


@dataclass(frozen=True, slots=True)
class Fact:
    """One belief with what a trial showed.

    Attributes:
        shown: the figure or the observation, in words.
        at: when, ISO 8601; empty for what was never tried.
        offer: on which offer.
    """

    name: str
    status: Status
    shown: str
    at: str = ""
    offer: str = ""


def facts_key(project: str) -> str:
    """Where a project's facts stand in the store."""
    return f"facts:{project}"


def read_facts(text: str | None) -> dict[str, Fact]:
    """Facts as kept; what is not understood counts as never shown."""
    try:
        rows = json.loads(text or "[]")
        found = [Fact(**{**row, "status": Status(row["status"])}) for row in rows]
    except (ValueError, TypeError, KeyError):
        return {}
    return {fact.name: fact for fact in found if fact.name in _NAMES}


def write_facts(before: Mapping[str, Fact], shown: Sequence[Fact]) -> str:
    """Facts to keep: what was shown now, else what was shown before."""
    after = {**before, **{f.name: f for f in shown if f.status is not Status.UNPROVEN}}
    return json.dumps([asdict(after[belief.name]) for belief in BELIEFS if belief.name in after])


def leaned_on(facts: Mapping[str, Fact]) -> tuple[Belief, ...]:
    """Beliefs that the daemon leans on and that no trial has confirmed."""
    return tuple(
        belief
        for belief in BELIEFS
        if belief.leans
        and (fact := facts.get(belief.name), fact is None or fact.status is not Status.CONFIRMED)[1]
    )
