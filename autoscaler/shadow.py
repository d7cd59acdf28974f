"""What a model in shadow would have rented: nodes on paper, so that its story goes on from pass to pass.

Without them each pass would begin anew with "rent 1". A node on paper is ready once a boot as measured is over, is
drained for a moment, and costs what its offer costs; the law sees it as it would see a real one. Values, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.money import ZERO, Money, total
from autoscaler.domain.node import Fleet, Node, State
from autoscaler.domain.offer import OfferKey
from autoscaler.domain.plan import Plan
from autoscaler.domain.signals import Figure, FigureName, Signals
from autoscaler.store.protocol import Ledger
from autoscaler.store.rows import cost_by_day

PAPER = "shadow-"  # how the name of every node on paper begins
_DRAIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Shadow:
    """One model's life on paper.

    Attributes:
        since: when it began.
        peak: most nodes that would have billed at the same time.
        nodes: nodes on paper that would bill now. One that boots is ready at its `ready_at`.
        let_go: real nodes that it would have given back; they go on all the same.
        spent: what nodes cost that have ended on paper, by UTC day.
    """

    since: AwareDatetime
    decisions: int = 0
    launches: int = 0
    releases: int = 0
    peak: int = 0
    nodes: tuple[Node, ...] = ()
    let_go: tuple[NodeName, ...] = ()
    spent: tuple[tuple[str, Money], ...] = ()

    def aged(self, now: datetime, real: Fleet) -> Shadow:
        """What has become of it by `now`: boots and drains that are over."""
        grown, ended = [], []
        for node in self.nodes:
            if node.state is State.BOOTING and node.ready_at is not None and node.ready_at <= now:
                grown.append(replace(node, state=State.READY, since=node.ready_at))
            elif node.state is State.DRAINING and now - node.since >= _DRAIN:
                ended.append(replace(node, state=State.GONE, gone_at=node.since + _DRAIN))
            else:
                grown.append(node)
        names = {node.name for node in real.nodes}
        kept = tuple(name for name in self.let_go if name in names)
        return replace(self._ended(ended), nodes=tuple(grown), let_go=kept)

    def fleet(self, real: Fleet) -> Fleet:
        """What would stand: the real nodes that it has not let go, and its own."""
        return Fleet((*(n for n in real.nodes if n.name not in self.let_go), *self.nodes))

    def ledger(self, real: Ledger, model: ModelName) -> Ledger:
        """What would have been spent and launched: all that was, and what it has on paper."""
        today, month = real.at.astimezone(UTC).date().isoformat(), f"{real.at:%Y-%m-}"
        day_cost = sum((cost for day, cost in self.spent if day == today), ZERO)
        month_cost = sum((cost for day, cost in self.spent if day.startswith(month)), ZERO)
        let_go = frozenset(self.let_go)
        return replace(
            real,
            nodes=(*(n for n in real.nodes if n.name not in let_go), *self.nodes),
            launches=(*real.launches, *((model, n.created_at) for n in self.nodes)),
            closed_today={
                **real.closed_today,
                model: real.closed_today.get(model, ZERO) + day_cost,
            },
            closed_month={
                **real.closed_month,
                model: real.closed_month.get(model, ZERO) + month_cost,
            },
        )

    def carried_out(
        self,
        plan: Plan,
        rented: Sequence[Node],
        boot: Callable[[OfferKey], timedelta],
        real: Fleet,
        now: datetime,
    ) -> Shadow:
        """It with a plan carried out on paper.

        Args:
            rented: a row for each launch that the limits would let through.
            boot: how long a boot of an offer takes.
        """
        leaving = {release.node: release.reason for release in plan.releases}
        back = set(plan.undrain)
        kept, ended = [], []
        for node in self.nodes:
            if node.name in leaving and node.state is State.READY:
                why = leaving[node.name]
                kept.append(replace(node, state=State.DRAINING, since=now, reason=why))
            elif node.name in leaving:
                ended.append(replace(node, state=State.GONE, gone_at=now))
            elif node.name in back:
                kept.append(replace(node, state=State.READY, since=now))
            else:
                kept.append(node)
        kept += [
            replace(
                row,
                name=NodeName(f"{PAPER}{self.launches + number}"),
                state=State.BOOTING,
                sent_at=now,
                ready_at=now + boot(row.offer),
            )
            for number, row in enumerate(rented, start=1)
        ]
        gone = tuple(n.name for n in real.nodes if n.name in leaving)
        after = replace(
            self._ended(ended),
            decisions=self.decisions + 1,
            launches=self.launches + len(rented),
            releases=self.releases + len(leaving),
            nodes=tuple(kept),
            let_go=(*self.let_go, *gone),
        )
        return replace(after, peak=max(after.peak, len(after.fleet(real).billing)))

    def cost(self, now: datetime) -> Money:
        """What its own nodes would have cost so far."""
        return total(
            [
                *(cost for _, cost in self.spent),
                *(n.price_per_hour.for_time(now - n.created_at) for n in self.nodes),
            ]
        )

    def to_json(self) -> str:
        """Write it for the store."""
        return _adapter().dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Shadow:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not of its form; begin anew then.
        """
        try:
            return _adapter().validate_json(text)
        except ValidationError as exc:
            raise ValueError(f"the stored shadow is broken: {exc}") from exc

    def _ended(self, ended: Sequence[Node]) -> Shadow:
        spent = dict(self.spent)
        for node in ended:
            for day, cost in cost_by_day(node):
                spent[day] = spent.get(day, ZERO) + cost
        return replace(self, spent=tuple(sorted(spent.items())))


def nothing_runs(history: Sequence[Signals]) -> Sequence[Signals]:
    """Signals of a model without a real server: none runs anything. Nodes on paper serve nobody, so nobody says so."""
    if not history or history[-1].get(FigureName.RUNNING) is not None:
        return history
    last = history[-1]
    figure = (FigureName.RUNNING, Figure(0.0, last.at, "no server is there"))
    return (*history[:-1], replace(last, figures=(*last.figures, figure)))


@cache
def _adapter() -> TypeAdapter[Shadow]:
    return TypeAdapter(Shadow)
