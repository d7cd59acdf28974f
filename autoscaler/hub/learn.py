"""Where a policy's facts come from, and how to learn them from a hub."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp

from autoscaler.cloud.secret import Secret
from autoscaler.decide.profiles import Profiles
from autoscaler.hub.client import read_model
from autoscaler.hub.kept import describe, differences, keep, read_kept
from autoscaler.policy import Engine, Facts, Policy
from autoscaler.toml_file import read_toml


@dataclass(frozen=True, slots=True)
class Origin:
    """A model's shape and who says so.

    Attributes:
        facts: None when nobody has said.
        said_by: for people.
        is_ours: written into the policy, or in the table that ships: no hub need be asked.
    """

    facts: Facts | None
    said_by: str
    is_ours: bool = False

    def __str__(self) -> str:
        if self.facts is None:
            return (
                "facts: nobody has said what shape this model has, so nothing can be rented for it: let "
                "`autoscaler validate --online` read it from the hub, or write [facts]"
            )
        return f"facts: {describe(self.facts)} ({self.said_by})"


def origin(file: Path, policy: Policy) -> Origin:
    """Say where a policy's facts come from without asking anybody.

    Raises:
        ConfigError: what was kept cannot be read.
    """
    declared = read_toml(file, Policy)
    if declared.facts is not None:
        return Origin(declared.facts, "by hand, in [facts]", is_ours=True)
    known = Profiles.load().facts(declared)
    if known is not None:
        return Origin(known, "a model that this program knows", is_ours=True)
    kept = read_kept(file, policy)
    if kept is not None:
        return Origin(kept.facts, f"told by {kept.source} on {kept.read_at:%Y-%m-%d}")
    return Origin(None, "nobody")


def wants_facts(policy: Policy) -> bool:
    """Whether a capacity must be computed for it: on a GPU, with no figure of the operator's own."""
    return policy.hardware.gpus and not policy.hardware.capacity


async def learn(
    http: aiohttp.ClientSession,
    file: Path,
    policy: Policy,
    hub: str,
    token: Secret | None,
    now: datetime,
) -> tuple[str, ...]:
    """Ask the hub about a policy's model, keep what it tells where nobody else has said, and say what was found.

    Raises:
        ConfigError: the hub has no answer for this model, or it cannot be kept.
        SourceUnavailable: the hub does not answer now.
    """
    before = origin(file, policy)
    told = await read_model(
        http,
        policy.server.weights or policy.model,
        hub=hub,
        token=token,
        embeds=policy.engine is Engine.EMBEDDING,
    )
    if before.is_ours and before.facts is not None:
        return (str(before), *_disagreements(before.facts, told.facts, told.source))
    path = keep(file, policy, told.source, told.revision, told.facts, now)
    return (f"facts: {describe(told.facts)} (told by {told.source}, kept in {path})",)


def _disagreements(ours: Facts, theirs: Facts, source: str) -> tuple[str, ...]:
    return tuple(
        f"{source} has {name} = {their:g} instead of {mine:g}"
        for name, (mine, their) in differences(ours, theirs).items()
    )
