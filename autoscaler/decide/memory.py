"""What the law remembers from one pass to the next. A value, so that the law stays pure and the store can keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from autoscaler.domain.ids import NodeName

MARGIN_STEP = 0.05  # width of a bucket of the learned margin
MARGIN_BUCKETS = 31  # growth of 1.0 to 2.5


@dataclass(frozen=True, slots=True)
class Level:
    """A figure in reference replicas and the last instant at which it was true."""

    at: AwareDatetime
    replicas: float


@dataclass(frozen=True, slots=True)
class Probe:
    """A recent peak set aside to see, one lead later, by how much demand outgrew it."""

    at: AwareDatetime
    peak: float
    highest: float


@dataclass(frozen=True, slots=True)
class LawMemory:
    """All that `decide` remembers of one model.

    Attributes:
        started_at: when this daemon began to decide for the model.
        cautious_until: no release before: a start or a long gap in the signals is not yet one window old.
        need, want: of the last decision that was not a hold.
        asked: what the rules asked for lately, raw: each entry higher than all after it.
        peaks: demand lately, of the same form.
        missing_since: since when demand could not be measured.
        pressed_since, surge_until: the panic path's own clock.
        breach_since: since when the latency goal is missed.
        slo_extra, slo_level, slo_at: how often a replica was added for it, up to which capacity, and when last.
        idle_since: since when nothing came and nothing was in flight.
        serving: nodes seen ready at the last pass; one that is gone without a drain was lost.
        lost: when nodes were lost.
        step_from, step_at: capacity from which the rate limit counts, and since when.
        growth: how often demand outgrew a peak by 1.0, 1.05 … 2.5 within one lead, fading.
        reference: the type that all replicas here are counted in.
    """

    started_at: AwareDatetime | None = None
    cautious_until: AwareDatetime | None = None
    need: float | None = None
    want: int | None = None
    asked: tuple[Level, ...] = ()
    peaks: tuple[Level, ...] = ()
    missing_since: AwareDatetime | None = None
    pressed_since: AwareDatetime | None = None
    surge_until: AwareDatetime | None = None
    breach_since: AwareDatetime | None = None
    slo_extra: int = 0
    slo_level: float | None = None
    slo_at: AwareDatetime | None = None
    idle_since: AwareDatetime | None = None
    serving: tuple[NodeName, ...] = ()
    lost: tuple[AwareDatetime, ...] = ()
    step_from: float = 0.0
    step_at: AwareDatetime | None = None
    probe: Probe | None = None
    growth: tuple[float, ...] = ()
    reference: str = ""

    def restarted(self, now: datetime, caution: timedelta) -> LawMemory:
        """Take this memory up in a new process: nothing is released until `caution` has passed.

        What was in the middle of being watched (a surge, a breach, idleness) is watched afresh.
        """
        return replace(
            self,
            started_at=now,
            cautious_until=now + caution,
            pressed_since=None,
            breach_since=None,
            idle_since=None,
            missing_since=None,
        )

    def rescaled(self, factor: float, reference: str) -> LawMemory:
        """Count in another reference offer: `factor` new replicas do the work of one old."""
        return replace(
            self,
            need=None if self.need is None else self.need * factor,
            asked=tuple(Level(level.at, level.replicas * factor) for level in self.asked),
            peaks=tuple(Level(level.at, level.replicas * factor) for level in self.peaks),
            slo_level=None if self.slo_level is None else self.slo_level * factor,
            step_from=self.step_from * factor,
            probe=None,
            reference=reference,
        )

    def to_json(self) -> dict[str, object]:
        """Write as plain JSON values; what has its default is left out."""
        written: dict[str, object] = _adapter().dump_python(
            self, mode="json", exclude_defaults=True
        )
        return written

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> LawMemory:
        """Read what `to_json` wrote; a field that this version does not know is left out.

        Raises:
            ValueError: a field is not of its form; start with a fresh memory then.
        """
        try:
            return _adapter().validate_python(dict(stored))
        except ValidationError as exc:
            raise ValueError(f"the stored memory of the law is broken: {exc}") from exc


@cache
def _adapter() -> TypeAdapter[LawMemory]:
    return TypeAdapter(LawMemory)


def remember(
    levels: tuple[Level, ...], level: Level, length: timedelta, grain: timedelta
) -> tuple[Level, ...]:
    """Add a level and forget what is older than `length` or can never be the maximum again.

    Levels of the same slot of length `grain` become one, with the higher figure and the later time: a hold may last one
    grain longer, and the memory stays short whatever the interval of passes.
    """
    kept = [old for old in levels if level.at - old.at < length and old.replicas > level.replicas]
    if kept and _slot(kept[-1].at, grain) == _slot(level.at, grain):
        kept[-1] = Level(level.at, kept[-1].replicas)
        return tuple(kept)
    return (*kept, level)


def _slot(at: datetime, grain: timedelta) -> int:
    return int(at.timestamp() // max(grain.total_seconds(), 1e-3))


def highest(
    levels: tuple[Level, ...], length: timedelta, now: datetime, default: float = 0.0
) -> Level:
    """The highest level of the last `length`, the earliest of equals."""
    return max(
        (level for level in levels if now - level.at < length),
        key=lambda level: level.replicas,
        default=Level(now, default),
    )
