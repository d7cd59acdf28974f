"""The policies in force: reloaded whole or not at all, and a vanished file is not a wish for zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from autoscaler.config_file import no_clash, read_policies
from autoscaler.domain.ids import ModelName
from autoscaler.errors import ConfigError
from autoscaler.form import below_floor
from autoscaler.growth import Growth, GrowthGuard
from autoscaler.policy import Mode, Policy
from autoscaler.quantity import show_duration
from autoscaler.store.protocol import Promotion

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload changed.

    Attributes:
        grown: policies in force that may spend more or less than before.
        held: policies that may spend so much more that a person must confirm them; those before stay in force.
    """

    added: tuple[ModelName, ...] = ()
    changed: tuple[ModelName, ...] = ()
    vanished: tuple[ModelName, ...] = ()
    error: str | None = None
    grown: tuple[Growth, ...] = ()
    held: tuple[Growth, ...] = ()


class PolicyBook:
    """Keeps the last good set of policies."""

    def __init__(
        self,
        directory: Path,
        *,
        emulated: bool = True,
        balancer: str = "gateway",
        reach: str | None = None,
        fixed: Mapping[ModelName, Policy] | None = None,
        guard: GrowthGuard | None = None,
        read: Callable[[], Mapping[ModelName, Policy]] | None = None,
    ) -> None:
        """Say where policies are.

        Args:
            emulated: the cloud is an emulator on loopback, and durations may undercut their floors.
            reach: how nodes are reached; servers that cannot be are refused.
            fixed: the policies themselves, which then stand in no directory: a trial's.
            guard: says which policy a person must confirm; without one every policy is taken up.
            read: reads them in place of the directory; raises `ConfigError` when any is wrong.
        """
        self._directory = directory
        self._fixed = fixed
        self._read_elsewhere = read
        self._guard = guard
        self._waiting: dict[ModelName, Policy] = {}
        self._confirmed: dict[ModelName, str] = {}
        self._balancer = balancer
        self._reach = reach
        self._emulated = emulated
        self._policies: dict[ModelName, Policy] = {}
        self._settled: dict[ModelName, Policy] = {}  # each with the mode in force
        self._promotions: dict[ModelName, Promotion] = {}
        self.error: str | None = None
        self.vanished: tuple[ModelName, ...] = ()
        self.held: dict[ModelName, Growth] = {}

    @property
    def policies(self) -> Mapping[ModelName, Policy]:
        """The policies in force, each with the mode in force."""
        return self._settled

    def written(self, model: ModelName) -> Policy:
        """A policy as its file has it: its mode may be None."""
        return self._policies[model]

    def promote(self, promotions: Mapping[ModelName, Promotion]) -> None:
        """Take over who may rent."""
        self._promotions = dict(promotions)
        self._settle()

    @property
    def is_fixed(self) -> bool:
        """Whether the policies stand in no file: what they say is then nobody's later word."""
        return self._fixed is not None

    def _settle(self) -> None:
        self._settled = {name: self._in_force(policy) for name, policy in self._policies.items()}

    def _in_force(self, policy: Policy) -> Policy:
        promotion = self._promotions.get(policy.name)
        mode = mode_in_force(policy, promotion, emulated=self._emulated)
        return policy if mode is policy.mode else policy.model_copy(update={"mode": mode})

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
        self._settle()
        return Reload(added=tuple(self._policies))

    def _read(self) -> Mapping[ModelName, Policy]:
        if self._fixed is not None:
            return self._fixed
        if self._read_elsewhere is not None:
            return self._read_elsewhere()
        return read_policies(
            self._directory, emulated=self._emulated, balancer=self._balancer, reach=self._reach
        ).policies

    def mistakes(self) -> str | None:
        """What is wrong with the files as they are at this moment, None when nothing is. Takes nothing up."""
        try:
            self._read()
        except ConfigError as exc:
            return str(exc)
        return None

    def remember(self, policy: Policy) -> None:
        """Take up a policy whose file is gone but whose nodes are not: they must be scaled in, drained and deleted."""
        self._policies[policy.name] = policy
        self._settle()
        self.vanished = (*self.vanished, policy.name)

    def hold(self, before: Policy) -> Growth | None:
        """Keep to the policy that was in force before this start, if the file's may spend far more."""
        found = self._policies[before.name]
        growth = self._too_much(before, found)
        if growth is not None:
            self._policies[before.name] = before
            self._waiting[before.name], self.held[before.name] = found, growth
            self._settle()
        return growth

    def waiting(self, model: ModelName) -> Policy:
        """The policy that waits for a person, with the mode that it would be in."""
        return self._in_force(self._waiting[model])

    def confirm(self, model: ModelName) -> None:
        """Let the next reload put a held policy in force, if its file is still the same."""
        self._confirmed[model] = self.held[model].spec

    def _too_much(self, before: Policy, after: Policy) -> Growth | None:
        """The growth that a person must confirm. A model in shadow spends nothing: its promotion shows its limits."""
        rents = self._in_force(before).mode is Mode.ACTIVE is self._in_force(after).mode
        if self._guard is None or before == after or not rents:
            return None
        growth = self._guard.growth(before, after)
        if growth is None or self._confirmed.get(after.name) == growth.spec:
            return None
        return growth if self._guard.is_too_much(growth, emulated=self._emulated) else None

    def _sift(self, found: Mapping[ModelName, Policy]) -> dict[ModelName, Policy]:
        """What is put in force of what was read: held policies are as they were."""
        held = {}
        for name, policy in found.items():
            before = self._policies.get(name)
            growth = self._too_much(before, policy) if before is not None else None
            if growth is not None:
                held[name] = growth
            else:
                self._confirmed.pop(name, None)
        self.held = held
        self._waiting = {name: found[name] for name in held}
        return {name: self._policies[name] if name in held else p for name, p in found.items()}

    def hold_to_floors(self) -> list[str]:
        """Take the cloud for a real one from now on; what the policies in force have that only an emulator may."""
        self._emulated = False
        self._settle()
        return [
            f"policy of {name}: {key}: found {show_duration(value)}, the least is {show_duration(least)}"
            for name, policy in self._policies.items()
            for key, value, least in below_floor(policy)
        ]

    def reload(self) -> Reload:
        """Read the directory again. With any mistake in any file, everything stays as it is."""
        try:
            found = self._sift(self._read())
            no_clash(found)
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
        self._settle()
        change = Reload(
            added=tuple(name for name in found if name not in before),
            changed=tuple(n for n, p in found.items() if n in before and before[n] != p),
            vanished=vanished,
            grown=self._grown(before, found),
            held=tuple(self.held.values()),
        )
        if change.added or change.changed:
            log.info("policies_reloaded", added=change.added, changed=change.changed)
        return change

    def _grown(
        self, before: Mapping[ModelName, Policy], found: Mapping[ModelName, Policy]
    ) -> tuple[Growth, ...]:
        if self._guard is None:
            return ()
        pairs = [(before[n], p) for n, p in found.items() if n in before and before[n] != p]
        grown = (self._guard.growth(old, new) for old, new in pairs)
        return tuple(each for each in grown if each is not None)


def mode_in_force(policy: Policy, promotion: Promotion | None, *, emulated: bool) -> Mode:
    """Whether a model may rent: what its file says, else a person's word.

    On a real cloud a model rents once it was promoted, or once its file says `active`. A file that says `shadow` is
    overruled by a promotion only if it said so when that was given: a word written later counts.
    """
    match policy.mode:
        case None if promotion is None:
            return Mode.ACTIVE if emulated else Mode.SHADOW
        case None:
            return Mode.ACTIVE
        case Mode.SHADOW if promotion is not None and promotion.mode == Mode.SHADOW:
            return Mode.ACTIVE
        case written:
            return written


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
