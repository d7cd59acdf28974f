"""The policies in force: reloaded whole or not at all, and a vanished file is not a wish for zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from autoscaler.config_file import read_policies
from autoscaler.domain.ids import ModelName
from autoscaler.errors import ConfigError
from autoscaler.policy import Policy, below_floor
from autoscaler.quantity import show_duration

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload changed."""

    added: tuple[ModelName, ...] = ()
    changed: tuple[ModelName, ...] = ()
    vanished: tuple[ModelName, ...] = ()
    error: str | None = None


class PolicyBook:
    """Keeps the last good set of policies."""

    def __init__(
        self,
        directory: Path,
        *,
        emulated: bool = True,
        balancer: str = "gateway",
        fixed: Mapping[ModelName, Policy] | None = None,
    ) -> None:
        """Say where policies are.

        Args:
            emulated: the cloud is an emulator on loopback, and durations may undercut their floors.
            fixed: the policies themselves, which then stand in no directory: a trial's.
        """
        self._directory = directory
        self._fixed = fixed
        self._balancer = balancer
        self._emulated = emulated
        self._policies: dict[ModelName, Policy] = {}
        self.error: str | None = None
        self.vanished: tuple[ModelName, ...] = ()

    @property
    def policies(self) -> Mapping[ModelName, Policy]:
        return self._policies

    @property
    def is_emulated(self) -> bool:
        """Whether the cloud is taken for an emulator."""
        return self._emulated

    def load(self) -> Reload:
        """Read the directory for the first time.

        Raises:
            ConfigError: any file is wrong; nothing is in force.
        """
        self._policies = dict(self._read())
        return Reload(added=tuple(self._policies))

    def _read(self) -> Mapping[ModelName, Policy]:
        if self._fixed is not None:
            return self._fixed
        return read_policies(
            self._directory, emulated=self._emulated, balancer=self._balancer
        ).policies

    def remember(self, policy: Policy) -> None:
        """Take up a policy whose file is gone but whose nodes are not: they must be scaled in, drained and deleted."""
        self._policies[policy.name] = policy
        self.vanished = (*self.vanished, policy.name)

    def hold_to_floors(self) -> list[str]:
        """Take the cloud for a real one from now on; what the policies in force have that only an emulator may."""
        self._emulated = False
        return [
            f"policy of {name}: {key}: found {show_duration(value)}, the least is {show_duration(least)}"
            for name, policy in self._policies.items()
            for key, value, least in below_floor(policy)
        ]

    def reload(self) -> Reload:
        """Read the directory again. With any mistake in any file, everything stays as it is."""
        try:
            found = self._read()
        except ConfigError as exc:
            if str(exc) != self.error:
                log.error("policies_refused", why=str(exc))
            self.error = str(exc)
            return Reload(error=self.error)
        self.error = None
        before = self._policies
        vanished = tuple(name for name in before if name not in found)
        if vanished and vanished != self.vanished:
            # A file that vanished may be an editor's rename or a bad mount. Removal is said, never inferred.
            log.error(
                "policy_vanished", models=vanished, do="autoscaler retire MODEL to remove one"
            )
        self.vanished = vanished
        self._policies = {**{name: before[name] for name in vanished}, **found}
        change = Reload(
            added=tuple(name for name in found if name not in before),
            changed=tuple(n for n, p in found.items() if n in before and before[n] != p),
            vanished=vanished,
        )
        if change.added or change.changed:
            log.info("policies_reloaded", added=change.added, changed=change.changed)
        return change


def find_model(policies: Mapping[ModelName, Policy], given: object) -> ModelName:
    """A model by its name, an alias, or the end of its name when that is unique.

    Raises:
        ConfigError: there is none, or several.
    """
    if not isinstance(given, str) or not given:
        raise ConfigError(f"name a model: {', '.join(sorted(policies))}")
    for name, policy in policies.items():
        if given == name or given in policy.aliases:
            return name
    near = [name for name in policies if name.lower().endswith(given.lower())]
    if len(near) == 1:
        return near[0]
    raise ConfigError(f"{given}: no such model; there are: {', '.join(sorted(policies))}")
