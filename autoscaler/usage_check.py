"""Our meter against the cloud's: once a day, for the day before, with an alarm where they differ.

The cloud tells quantities, whole days, a day late, of the whole project; prices are those of our list on both sides. So
this finds machines that we do not know of and meters that run differently. It cannot find a price that has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud, UsageLine
from autoscaler.domain.money import ZERO, Money, total
from autoscaler.domain.node import Node, NodeEvent
from autoscaler.errors import AutoscalerError
from autoscaler.store.protocol import Store
from autoscaler.store.rows import cost_by_day

log = structlog.get_logger(__name__)

USAGE = "usage"  # the fact that holds the last comparison
_LOOK = timedelta(hours=1)
_LATE = timedelta(hours=12)  # after midnight, when a day that is not told yet counts as told empty
_SLACK = timedelta(
    minutes=2
)  # per machine: our meter runs from the call to the proof that it is gone


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One UTC day on both meters.

    Attributes:
        ours: what our nodes cost that day.
        cloud: what the cloud metered, at our prices.
        unpriced: resource types that it metered and that our list has no price for.
        differs: the two are further apart than the tolerance, and than our meter's own slack.
    """

    day: date
    ours: Money
    cloud: Money
    unpriced: tuple[str, ...]
    differs: bool

    @property
    def difference(self) -> float:
        """By how much the cloud's is above ours, as a share of ours; below it is negative."""
        if not self.ours:
            return 1.0 if self.cloud else 0.0
        return float((self.cloud - self.ours).usd / self.ours.usd)

    @property
    def words(self) -> str:
        """For people."""
        more = f"; no price is known for {', '.join(self.unpriced)}" if self.unpriced else ""
        return (
            f"on {self.day} the cloud metered {self.cloud} at our prices, our meter says {self.ours} "
            f"({self.difference:+.1%}){more}"
        )

    def to_json(self) -> str:
        return json.dumps(
            {
                "day": self.day.isoformat(),
                "ours_usd": f"{self.ours.usd:.4f}",
                "cloud_usd": f"{self.cloud.usd:.4f}",
                "difference": round(self.difference, 6),
                "unpriced": self.unpriced,
                "differs": self.differs,
                "words": self.words,
            }
        )


def reconcile_day(
    day: date, nodes: Sequence[Node], lines: Sequence[UsageLine], tolerance: float, now: datetime
) -> Reconciled:
    """Hold one day of ours against the cloud's. Pure.

    Args:
        nodes: every node that may have billed that day, open ones included.
        lines: what the cloud said of it; lines of other days are left out.
    """
    told = [line for line in lines if line.date == day.isoformat()]
    cloud = total([line.cost for line in told if line.cost is not None])
    unpriced = tuple(sorted({line.resource_type for line in told if line.cost is None}))
    ours, slack = ZERO, ZERO
    for node in nodes:
        cost = metered(node, day, now)
        ours += cost
        slack += node.price_per_hour.for_time(_SLACK) if cost else ZERO
    apart = abs((cloud - ours).usd)
    differs = apart > max(slack.usd, ours.usd * Decimal(str(tolerance)))
    return Reconciled(day, ours, cloud, unpriced, differs or bool(unpriced))


def metered(node: Node, day: date, now: datetime) -> Money:
    """What a node cost on a UTC day, by our meter."""
    so_far = node if node.gone_at is not None else replace(node, gone_at=now)
    return total([cost for on, cost in cost_by_day(so_far) if on == day.isoformat()])


@dataclass(slots=True)
class UsageCheck:
    """Compares each day once.

    Attributes:
        tolerance: by which share of ours the two may differ.
        compared: told of each comparison.
        last: the newest of this process, None before one was made.
    """

    store: Store
    cloud: Cloud
    clock: Clock
    tolerance: float
    compared: Callable[[Reconciled], None] = lambda found: None
    last: Reconciled | None = None
    trouble: str = ""

    async def run(self) -> None:
        """Look every hour, for ever; a day that the cloud does not tell yet is asked for again."""
        while True:
            try:
                await self.look()
                self.trouble = ""
            except AutoscalerError as exc:
                if str(exc) != self.trouble:
                    log.warning("usage_not_read", why=str(exc))
                self.trouble = str(exc)
            await self.clock.sleep(_LOOK.total_seconds())

    async def look(self) -> None:
        """Compare yesterday, unless that is done, or nothing of ours ran, or the cloud has not told it yet.

        Raises:
            CloudUnavailable, EndpointMissing, SchemaError, StoreUnavailable: another time.
        """
        now = self.clock.now().astimezone(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        began = midnight - timedelta(days=1)
        day = began.date()
        if await self._is_done(day):
            return
        nodes = await self.store.nodes(closed_since=began)
        if not any(metered(node, day, now) for node in nodes):
            return  # what others run in the project is theirs
        lines = await self.cloud.usage(began, began)
        if not any(line.date == day.isoformat() for line in lines) and now - midnight < _LATE:
            return
        await self._note(reconcile_day(day, nodes, lines, self.tolerance, now))

    async def _is_done(self, day: date) -> bool:
        text = await self.store.meta(USAGE)
        return text is not None and json.loads(text).get("day") == day.isoformat()

    async def _note(self, found: Reconciled) -> None:
        await self.store.set_meta(USAGE, found.to_json())
        self.last = found
        self.compared(found)
        if not found.differs:
            log.info("usage_agrees", words=found.words)
            return
        log.error("usage_differs", words=found.words)
        event = NodeEvent(
            self.clock.now(), "usage_differs", None, None, None, found.words, actor="daemon"
        )
        await self.store.add_event(event)
