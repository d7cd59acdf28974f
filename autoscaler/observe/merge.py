"""Several sources' readings → one Signals. Pure.

Each source has a role, which says what its counts are counts of:

- *front*: a balancer. It sees all that comes. A request is at exactly one front, so the fronts' counts add up, and
  each of them has to answer. What a front calls running is placed on a node, whether the engine computes on it yet.
- *inside*: the engines' own pages. What waits there is part of what the fronts call running.
- *whole*: a query of the operator's own, taken as it stands.

So that nothing is counted twice and nothing forgotten:

    waiting = Σ fronts' waiting + the engines' waiting
    running = Σ fronts' running − the engines' waiting      (their sum is the fronts' sum, whatever the engines say)

Without an answer from inside, what waits there stays in `running`: the sum is still right, and demand stands. At zero
nodes there is no inside; the fronts alone are the truth. Without a front that the policy names, what waits is
*unknown*, whatever the engines say, and the decision holds, until its balancer is overlooked. Arrivals are the fronts';
the engines' own count is the last resort, since a full engine shows its capacity and not the demand. Else each figure
comes from the first source in the policy's order that gives it fresh and in range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from autoscaler.domain.signals import Figure, FigureName, Gap, Partiality, Signals
from autoscaler.observe.protocol import Reading
from autoscaler.observe.ranges import ADDITIVE, LATENCIES, REQUIRED, absurdity

# A rate this many times the last one, without more in the system than then, is a fault of its source.
JUMP = 20.0
# A figure dated further ahead than this comes from a clock that cannot be trusted.
AHEAD = timedelta(seconds=30)


class Role(StrEnum):
    FRONT = "front"
    INSIDE = "inside"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Answer:
    """One source's reading, with how the source counts.

    Attributes:
        max_age: a figure older than this is a gap.
        is_overlooked: its balancer has been away for so long that the others' word is taken for the whole: clients
            have gone to them. It still counts when it answers.
    """

    reading: Reading
    role: Role
    max_age: timedelta = timedelta(seconds=60)
    is_overlooked: bool = False


def merge(answers: Sequence[Answer], now: datetime, previous: Signals | None = None) -> Signals:
    """Settle which source speaks for which figure.

    Args:
        answers: in the policy's order.
        previous: the signals of the last pass, to tell a jump that cannot be.
    """
    judged = [
        _judge(answer, now)
        for answer in answers
        if answer.reading.figures or not answer.is_overlooked
    ]
    figures: dict[FigureName, Figure] = {}
    gaps: list[Gap] = []
    # what is in the system first: a jump of arrivals is judged by it
    for name in (FigureName.WAITING, FigureName.RUNNING, *FigureName):
        if name in figures or any(gap.figure is name for gap in gaps):
            continue
        refused: list[Gap] = []
        for figure in _candidates(name, judged):
            if name is FigureName.ARRIVALS and _is_absurd_jump(figure, figures, previous):
                refused.append(Gap(name, figure.source, _jump_text(figure, previous)))
                continue
            figures[name] = figure
            break
        else:
            gaps += refused + _gaps(name, judged)
    idle = _is_idle(figures)
    return Signals(
        at=now,
        figures=tuple(sorted(figures.items())),
        gaps=tuple(gap for gap in gaps if not (idle and gap.figure in LATENCIES)),
        idle=idle,
        held=sum(answer.reading.held for answer in answers),
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """A reading after its figures were held against the clock and the range table."""

    source: str
    role: Role
    figures: Mapping[FigureName, Figure]
    gaps: Mapping[FigureName, Gap]

    def gives(self, name: FigureName) -> bool:
        return name in self.figures or name in self.gaps


def _judge(answer: Answer, now: datetime) -> _Judged:
    figures: dict[FigureName, Figure] = {}
    gaps = {gap.figure: gap for gap in answer.reading.gaps}
    for name, figure in answer.reading.figures:
        age = figure.age(now)
        wrong = absurdity(name, figure.value)
        if age > answer.max_age:
            wrong = f"stale: {age.total_seconds():.0f} s old"
        elif age < -AHEAD:
            wrong = f"dated {-age.total_seconds():.0f} s ahead of this clock"
        if wrong is None:
            figures[name] = figure
        else:
            gaps[name] = Gap(name, figure.source, wrong)
    return _Judged(answer.reading.source, answer.role, figures, gaps)


def _candidates(name: FigureName, judged: Sequence[_Judged]) -> Iterator[Figure]:
    """What may stand for the figure, best first."""
    fronts = [j for j in judged if j.role is Role.FRONT and j.gives(name)]
    has_front = any(j.role is Role.FRONT for j in judged)
    order = list(judged)
    if name is FigureName.ARRIVALS:
        order.sort(key=lambda j: j.role is Role.INSIDE)
    is_front_done = False
    for source in order:
        if source.role is Role.FRONT:
            if not is_front_done:
                is_front_done = True
                yield from _of_fronts(name, fronts, judged)
        elif source.role is Role.INSIDE and has_front and name is FigureName.WAITING:
            continue  # what waits inside engines is not what waits
        elif name in source.figures:
            yield source.figures[name]


def _of_fronts(
    name: FigureName, fronts: Sequence[_Judged], judged: Sequence[_Judged]
) -> Iterator[Figure]:
    """The fronts' figure: the sum of all where it adds up, the worst wait, else the first that has it."""
    having = [front.figures[name] for front in fronts if name in front.figures]
    if not having:
        return
    if name in ADDITIVE:
        if len(having) < len(fronts):
            return
        total = _together(having, sum(figure.value for figure in having))
        inside = _waiting_inside(judged)
        if inside is not None and name is FigureName.WAITING:
            total = _together([total, inside], total.value + inside.value)
        elif inside is not None and name is FigureName.RUNNING:
            total = replace(total, value=total.value - inside.value)
        yield total
    elif name is FigureName.OLDEST_WAIT:
        yield max(having, key=lambda figure: figure.value)
    else:
        yield having[0]


def _waiting_inside(judged: Sequence[_Judged]) -> Figure | None:
    """What waits in engines, at most what the fronts have placed there; None when either is not known.

    An embedding server's queue counts texts, of which one request brings many; and an engine may still work on what a
    balancer that died had placed.
    """
    fronts = [j for j in judged if j.role is Role.FRONT and j.gives(FigureName.RUNNING)]
    if any(FigureName.RUNNING not in front.figures for front in fronts):
        return None
    placed = sum(front.figures[FigureName.RUNNING].value for front in fronts)
    inside = next(
        (
            j.figures[FigureName.WAITING]
            for j in judged
            if j.role is Role.INSIDE and FigureName.WAITING in j.figures
        ),
        None,
    )
    return None if inside is None else replace(inside, value=min(inside.value, placed))


def _together(figures: Sequence[Figure], value: float) -> Figure:
    is_partial = any(figure.partiality is Partiality.PARTIAL for figure in figures)
    return Figure(
        value,
        min(figure.at for figure in figures),
        "+".join(dict.fromkeys(figure.source for figure in figures)),
        Partiality.PARTIAL if is_partial else Partiality.FULL,
    )


def _is_absurd_jump(
    figure: Figure, figures: Mapping[FigureName, Figure], previous: Signals | None
) -> bool:
    """Whether the rate rose 20-fold since the last pass with no more in the system than then.

    It is doubted for one pass only: the next finds no rate of this source in the last signals and believes it.
    """
    before = None if previous is None else previous.get(FigureName.ARRIVALS)
    if previous is None or before is None or before.source != figure.source:
        return False
    if before.value <= 0 or figure.value <= JUMP * before.value:
        return False
    waiting, running = figures.get(FigureName.WAITING), figures.get(FigureName.RUNNING)
    was_waiting, was_running = (
        previous.value(FigureName.WAITING),
        previous.value(FigureName.RUNNING),
    )
    if waiting is None or running is None or was_waiting is None or was_running is None:
        return False
    return waiting.value + running.value <= was_waiting + was_running


def _jump_text(figure: Figure, previous: Signals | None) -> str:
    before = None if previous is None else previous.value(FigureName.ARRIVALS)
    return f"jumped from {before or 0:g}/s to {figure.value:g}/s without more in the system"


def _gaps(name: FigureName, judged: Sequence[_Judged]) -> list[Gap]:
    """Why the figure is missing: each source's reason."""
    reasons = [j.gaps[name] for j in judged if name in j.gaps]
    if not reasons and name in REQUIRED:
        return [Gap(name, "policy", "none of signals.sources gives this figure")]
    return reasons


def _is_idle(figures: Mapping[FigureName, Figure]) -> bool:
    """Whether all that must be known is known, in full, and is zero."""
    return all(
        name in figures and figures[name].value == 0 and figures[name].partiality is Partiality.FULL
        for name in REQUIRED
    )
