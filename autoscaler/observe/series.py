"""Follows counters over restarts, gaps and vanished instances, and says how much they grew in a window.

Counters are kept per instance and series: difference first, then window, then sum. The other order loses a reset
behind another instance's growth. A difference that spans a restart begins at 0; one that spans too long a silence is
dropped, since a counter may have begun anew and outgrown itself meanwhile; what a vanished instance did stays until
it ages out of the window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# Of the window's instance-time, at least this share must have been seen (autoscaling.md 1.3-4).
LEAST_COVERAGE = 0.8
# A window is given once this share of its length has passed; until the whole has, it is partial.
_LEAST_SPAN = 0.25
_WHOLE_SPAN = 0.9


class SeriesKey(NamedTuple):
    """One raw series of an instance.

    Attributes:
        what: our own name of the thing counted, the same for all generations of an engine.
        edge: the upper edge of a histogram's bucket (infinity for its count), None for a plain counter.
        labels: what tells parts apart that add up.
        rank: what tells repetitions of the same part apart, of which the largest counts.
    """

    what: str
    edge: float | None = None
    labels: tuple[tuple[str, str], ...] = ()
    rank: tuple[tuple[str, str], ...] = ()


GroupKey = tuple[str, float | None]


@dataclass(slots=True)
class _Interval:
    start_s: float
    end_s: float
    increases: dict[GroupKey, float]  # what grew; a zero is left out
    is_settled: bool


@dataclass(slots=True)
class _Instance:
    last: dict[SeriesKey, float]
    last_s: float
    known_from_s: float
    start_mark: float | str | None
    groups: set[GroupKey]
    intervals: deque[_Interval] = field(default_factory=deque)
    is_retired: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """What all instances together did in a span that ends now.

    Attributes:
        span_s: the true length of time covered, at most what was asked for.
        coverage: the share of instance-time in it that was seen, 0..1.
        parts: per instance what grew, and all that it exports.
    """

    asked_s: float
    span_s: float
    coverage: float
    parts: tuple[tuple[Mapping[GroupKey, float], frozenset[GroupKey]], ...]

    @property
    def trouble(self) -> str | None:
        """Why the window cannot be used, or None."""
        if self.span_s <= 0:
            return "this is the first reading: rates need two"
        if self.span_s < self.asked_s * _LEAST_SPAN:
            return f"only {self.span_s:.0f} s of data yet, of a window of {self.asked_s:g} s"
        if self.coverage < LEAST_COVERAGE:
            return f"only {self.coverage:.0%} of the window was seen"
        return None

    @property
    def is_partial(self) -> bool:
        return self.span_s < self.asked_s * _WHOLE_SPAN or self.coverage < 0.999

    def exports(self, what: str) -> bool:
        """Whether any instance has such a counter at all."""
        return any((what, None) in known for _, known in self.parts)

    def increase(self, what: str) -> float:
        """How much the counter grew over all instances, scaled to the whole of the window's instance-time."""
        grown = sum(increases.get((what, None), 0.0) for increases, _ in self.parts)
        return grown / self.coverage if self.coverage > 0 else 0.0

    def histogram(self, what: str) -> dict[float, float]:
        """Cumulative counts by upper edge, over the edges that all instances with this histogram share."""
        having = [
            (increases, {edge for name, edge in known if name == what and edge is not None})
            for increases, known in self.parts
        ]
        having = [(increases, edges) for increases, edges in having if edges]
        if not having:
            return {}
        shared = set.intersection(*(edges for _, edges in having))
        return {
            edge: sum(increases.get((what, edge), 0.0) for increases, _ in having)
            for edge in sorted(shared)
        }


class Tracker:
    """The counters of one source's instances.

    Args:
        depth_s: how far back windows may reach.
        grain_s: differences closer together than this are kept as one.
        max_gap_s: a silence longer than this is not bridged.
    """

    def __init__(self, *, depth_s: float, grain_s: float, max_gap_s: float) -> None:
        self._depth_s = depth_s
        self._grain_s = grain_s
        self._max_gap_s = max_gap_s
        self._instances: dict[str, _Instance] = {}
        self._begun_s: float | None = None
        self._latest_s = float("-inf")

    def observe(
        self,
        instance: str,
        values: Mapping[SeriesKey, float],
        at_s: float,
        *,
        uptime_s: float | None = None,
        start_mark: float | str | None = None,
        is_new: bool = False,
        is_settled: bool = True,
    ) -> None:
        """Take in one instance's counters.

        Args:
            values: finite and not negative.
            uptime_s: how long its process has run, if known: one younger than this tracker began at 0.
            start_mark: changes when its process does.
            is_new: it is known by other means to have started lately.
            is_settled: False keeps its latencies out of windows that ask for settled ones only.
        """
        if at_s < self._latest_s - self._max_gap_s:
            self._forget()  # the clock was set back: no difference across that is true
            self._latest_s = at_s
        self._latest_s = max(at_s, self._latest_s)
        if self._begun_s is None:
            self._begun_s = at_s
        groups = {(key.what, key.edge) for key in values}
        known = self._instances.get(instance)
        if known is None:
            born_s = self._born_s(at_s, uptime_s, is_new)
            # of unknown birth: what it did before is unknown for as long as the window reaches back
            known_from_s = float("-inf") if born_s is None else born_s
            known = _Instance({}, at_s, known_from_s, start_mark, groups)
            self._instances[instance] = known
            if born_s is not None and born_s < at_s:
                self._append(known, _Interval(born_s, at_s, _reduce(values), is_settled))
        elif at_s > known.last_s:
            interval = self._difference(known, values, at_s, uptime_s, start_mark, is_settled)
            if interval is not None:
                self._append(known, interval)
        else:
            return  # the same instant twice, or an answer that was overtaken
        known.last = dict(values)
        known.last_s = at_s
        known.start_mark = start_mark
        known.groups |= groups
        known.is_retired = False

    def retire_all_but(self, instances: Collection[str]) -> None:
        """Expect nothing more from the others: they left, and what they did counts until it ages out."""
        for name, instance in self._instances.items():
            instance.is_retired = name not in instances

    def window(
        self, length_s: float, now_s: float, *, settled_only: bool = False, until_now: bool = True
    ) -> Window:
        """Sum up what grew in the last `length_s` seconds.

        Args:
            settled_only: leave out intervals of instances that had just started.
            until_now: False ends the span at the latest observation instead of `now_s`.
        """
        self._age_out(now_s)
        if self._begun_s is None:
            return Window(length_s, 0.0, 0.0, ())
        end_s = now_s if until_now else min(now_s, self._latest_s)
        begin_s = max(end_s - length_s, self._earliest_s())
        if end_s <= begin_s:
            return Window(length_s, 0.0, 0.0, ())
        expected_s = seen_s = 0.0
        parts = []
        for instance in self._instances.values():
            is_gone = instance.is_retired or now_s - instance.last_s > self._max_gap_s
            lived_until_s = instance.last_s if is_gone else end_s
            expected_s += max(0.0, lived_until_s - max(begin_s, instance.known_from_s))
            increases: dict[GroupKey, float] = {}
            for interval in instance.intervals:
                share = _overlap(interval, begin_s, end_s)
                seen_s += share * (interval.end_s - interval.start_s)
                if share > 0 and (interval.is_settled or not settled_only):
                    for key, grown in interval.increases.items():
                        increases[key] = increases.get(key, 0.0) + grown * share
            parts.append((increases, frozenset(instance.groups)))
        coverage = min(1.0, seen_s / expected_s) if expected_s > 0 else 0.0
        return Window(length_s, end_s - begin_s, coverage, tuple(parts))

    def _born_s(self, at_s: float, uptime_s: float | None, is_new: bool) -> float | None:
        """When an instance seen for the first time began at 0, if that is within what this tracker watches."""
        begun_s = self._begun_s if self._begun_s is not None else at_s
        if uptime_s is not None:
            born_s = at_s - max(0.0, uptime_s)
            if begun_s - self._max_gap_s <= born_s and begun_s < at_s and uptime_s <= self._depth_s:
                return max(born_s, begun_s)
        return max(begun_s, at_s - self._max_gap_s) if is_new and begun_s < at_s else None

    def _difference(
        self,
        known: _Instance,
        values: Mapping[SeriesKey, float],
        at_s: float,
        uptime_s: float | None,
        start_mark: float | str | None,
        is_settled: bool,
    ) -> _Interval | None:
        has_restarted = (
            start_mark is not None
            and known.start_mark is not None
            and start_mark != known.start_mark
        )
        is_too_long = at_s - known.last_s > self._max_gap_s
        if has_restarted:
            start_s = known.last_s
            if is_too_long:
                if uptime_s is None or uptime_s > at_s - known.last_s:
                    return None
                start_s = at_s - max(0.0, uptime_s)
            return _Interval(start_s, at_s, _reduce(values), is_settled)
        if is_too_long:
            return None
        grown = {key: _grown(known.last.get(key, 0.0), value) for key, value in values.items()}
        return _Interval(known.last_s, at_s, _reduce(grown), is_settled)

    def _append(self, known: _Instance, new: _Interval) -> None:
        last = known.intervals[-1] if known.intervals else None
        if (
            last is not None
            and last.end_s == new.start_s
            and last.is_settled == new.is_settled
            and new.end_s - last.start_s <= self._grain_s
        ):
            last.end_s = new.end_s
            for key, grown in new.increases.items():
                last.increases[key] = last.increases.get(key, 0.0) + grown
        else:
            known.intervals.append(new)

    def _age_out(self, now_s: float) -> None:
        horizon_s = now_s - self._depth_s
        for name, instance in list(self._instances.items()):
            while instance.intervals and instance.intervals[0].end_s <= horizon_s:
                instance.intervals.popleft()
            if instance.last_s <= horizon_s:
                del self._instances[name]

    def _earliest_s(self) -> float:
        return self._begun_s if self._begun_s is not None else self._latest_s

    def _forget(self) -> None:
        self._instances.clear()
        self._begun_s = None


def _grown(before: float, after: float) -> float:
    """The growth of one counter. A smaller value means that it began again at 0."""
    return after - before if after >= before else after


def _reduce(values: Mapping[SeriesKey, float]) -> dict[GroupKey, float]:
    """Take the largest over repetitions, then add up the parts."""
    largest: dict[tuple[str, float | None, tuple[tuple[str, str], ...]], float] = {}
    for key, value in values.items():
        part = (key.what, key.edge, key.labels)
        largest[part] = max(value, largest.get(part, 0.0))
    sums: dict[GroupKey, float] = {}
    for (what, edge, _), value in largest.items():
        if value > 0:
            sums[what, edge] = sums.get((what, edge), 0.0) + value
    return sums


def _overlap(interval: _Interval, begin_s: float, end_s: float) -> float:
    """The share of the interval that lies within the window; growth inside one is taken as even."""
    length_s = interval.end_s - interval.start_s
    inside_s = min(interval.end_s, end_s) - max(interval.start_s, begin_s)
    return max(0.0, min(1.0, inside_s / length_s)) if length_s > 0 else 0.0


def reduce_gauges(values: Iterable[tuple[SeriesKey, float]]) -> dict[str, float]:
    """Take gauges of one instance together as counters are: largest of repetitions, sum of parts."""
    return {what: value for (what, _), value in _reduce_keeping_zero(dict(values)).items()}


def _reduce_keeping_zero(values: Mapping[SeriesKey, float]) -> dict[GroupKey, float]:
    return {(key.what, key.edge): 0.0 for key in values} | _reduce(values)
