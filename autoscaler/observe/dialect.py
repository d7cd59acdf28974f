"""What an engine calls the things that we measure: data, so that a new engine is a table and not a program."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from autoscaler.domain.signals import FigureName
from autoscaler.observe.histogram import parse_edge
from autoscaler.observe.page import Sample
from autoscaler.observe.series import SeriesKey

# our own names of what is counted
WAITING, RUNNING, KV_USE = "waiting", "running", "kv_use"
PROMPT, OUTPUT, FINISHED, ARRIVED = "prompt_tokens", "output_tokens", "finished", "arrivals"
TTFT, ITL, QUEUE = "ttft", "itl", "queue"
GAUGES = (WAITING, RUNNING, KV_USE)
COUNTERS = (PROMPT, OUTPUT, FINISHED, ARRIVED)
HISTOGRAMS = (TTFT, ITL, QUEUE)


@dataclass(frozen=True, slots=True)
class Selector:
    """One series name, with the labels it must carry and the factor to our unit."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    factor: float = 1.0

    def accepts(self, sample: Sample) -> bool:
        return all(sample.labels.get(key) == value for key, value in self.labels)


# Selectors that add up.
Sum = tuple[Selector, ...]


def names(*alternatives: str) -> tuple[Sum, ...]:
    """Alternatives of one name each; the first that a page has is taken."""
    return tuple((Selector(name),) for name in alternatives)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's page.

    Attributes:
        of: our name → alternatives, the newest first; each a sum of selectors. Histograms by their base name.
        model_label: the label that carries the served name, where there is one.
        rank_labels: labels over which a figure is repeated: the largest counts. Over all others it adds up.
    """

    name: str
    of: dict[str, tuple[Sum, ...]] = field(hash=False)
    model_label: str | None = None
    rank_labels: frozenset[str] = frozenset()

    def series_names(self) -> frozenset[str]:
        """All names of samples that this dialect reads."""
        found = set()
        for what, alternatives in self.of.items():
            for selector in (selector for total in alternatives for selector in total):
                if what in HISTOGRAMS:
                    found |= {f"{selector.name}_bucket", f"{selector.name}_count"}
                else:
                    found.add(selector.name)
        return frozenset(found)

    def gives(self) -> frozenset[FigureName]:
        """The figures that a page of this kind can give."""
        given = {FigureName(_FIGURES[what]) for what in self.of if what in _FIGURES}
        if FINISHED in self.of or ARRIVED in self.of:
            given.add(FigureName.ARRIVALS)
        if TTFT in self.of:
            given |= {FigureName.TTFT_P50, FigureName.TTFT_P95, FigureName.TTFT_ATTAINED}
        if ITL in self.of:
            given |= {FigureName.ITL_P50, FigureName.ITL_P95, FigureName.ITL_ATTAINED}
        if QUEUE in self.of:
            given.add(FigureName.QUEUE_P95)
        return frozenset(given)


_FIGURES = {
    WAITING: FigureName.WAITING,
    RUNNING: FigureName.RUNNING,
    KV_USE: FigureName.KV_USE,
    PROMPT: FigureName.PROMPT_TOKENS,
    OUTPUT: FigureName.OUTPUT_TOKENS,
}


@dataclass(frozen=True, slots=True)
class Scrape:
    """One instance's page in our own names.

    Attributes:
        counters: counters and histogram buckets; finite and not negative.
        gauges: as they stand, before they are taken together.
        broken: our names of what was there as NaN, negative or out of any range.
        other_models: names that the page serves instead of ours, when ours is not among them.
    """

    counters: dict[SeriesKey, float]
    gauges: dict[SeriesKey, float]
    broken: frozenset[str] = frozenset()
    other_models: tuple[str, ...] = ()


def read_samples(dialect: Dialect, samples: Iterable[Sample], served_name: str) -> Scrape:
    """Turn a page's samples into our own names, the figures of other models left out."""
    by_name: dict[str, list[Sample]] = {}
    others: set[str] = set()
    samples = list(samples)
    label = dialect.model_label
    if label is not None:
        models = {sample.labels[label] for sample in samples if label in sample.labels}
        if served_name not in models and len(models) > 1:
            others = models
        # a server of one model under another name is still the server of this endpoint
        accepted = {served_name} if served_name in models else models - others
        samples = [s for s in samples if label not in s.labels or s.labels[label] in accepted]
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    counters: dict[SeriesKey, float] = {}
    gauges: dict[SeriesKey, float] = {}
    broken: set[str] = set()
    for what, alternatives in dialect.of.items():
        into = gauges if what in GAUGES else counters
        for total in alternatives:
            found = list(_select(dialect, what, total, by_name))
            for key, value in found:
                if math.isnan(value) or value < 0:
                    broken.add(what)
                else:
                    into[key] = into.get(key, 0.0) + value
            if found:
                break
    return Scrape(counters, gauges, frozenset(broken), tuple(sorted(others)))


def _select(
    dialect: Dialect, what: str, total: Sum, by_name: dict[str, list[Sample]]
) -> Iterable[tuple[SeriesKey, float]]:
    for selector in total:
        if what not in HISTOGRAMS:
            for sample in by_name.get(selector.name, ()):
                if selector.accepts(sample):
                    key = _key(dialect, what, None, sample, selector)
                    yield key, sample.value * selector.factor
            continue
        has_infinity = False
        for sample in by_name.get(f"{selector.name}_bucket", ()):
            edge = parse_edge(sample.labels.get("le", ""))
            if edge is not None and selector.accepts(sample):
                has_infinity = has_infinity or math.isinf(edge)
                yield _key(dialect, what, edge * selector.factor, sample, selector), sample.value
        if not has_infinity:
            for sample in by_name.get(f"{selector.name}_count", ()):
                if selector.accepts(sample):
                    yield _key(dialect, what, math.inf, sample, selector), sample.value


def _key(
    dialect: Dialect, what: str, edge: float | None, sample: Sample, selector: Selector
) -> SeriesKey:
    labels = [("", selector.name)]
    rank = []
    for item in sorted(sample.labels.items()):
        if item[0] in dialect.rank_labels:
            rank.append(item)
        elif item[0] != "le":
            labels.append(item)
    return SeriesKey(what, edge, tuple(labels), tuple(rank))
