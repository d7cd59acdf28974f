"""One model's sources, read together, and the history that decisions look at."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.domain.signals import Gap, Signals
from autoscaler.observe.merge import Answer, Role, merge
from autoscaler.observe.protocol import Reading, Source, Target

log = structlog.get_logger(__name__)

# A source bounds itself by its own timeout; this is for one that does not.
_SLACK_S = 1.0
# Who asks while another asks gets the other's answer, when it is no more than this much newer.
_SAME_READING = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Feeder:
    """One source of a feed.

    Attributes:
        timeout_s: after which its figures are gaps.
        max_age: a figure older than this is a gap.
        is_overlooked: whether its balancer is not waited for now.
    """

    source: Source
    role: Role
    timeout_s: float
    max_age: timedelta
    is_overlooked: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """What a feed measures and how much it remembers.

    Attributes:
        window: the length over which rates are taken.
        keep: how many past signals are remembered.
        horizon: how long they are remembered.
    """

    model: ModelName
    window: timedelta
    keep: int
    horizon: timedelta
    ttft_target_s: float | None = None
    itl_target_s: float | None = None


class SignalFeed:
    """Owns a model's sources.

    Reads may overlap (a pass, and an operator who asks for the plan): they take turns, since counters are followed from
    one reading to the next.

    Attributes:
        feeders: in the policy's order.
    """

    def __init__(self, feeders: Sequence[Feeder], settings: FeedSettings) -> None:
        self.feeders = tuple(feeders)
        self.settings = settings
        self._history: deque[Signals] = deque(maxlen=settings.keep)
        self._troubles: dict[str, str] = {}
        self._turn = asyncio.Lock()

    @property
    def history(self) -> Sequence[Signals]:
        """All remembered signals, the oldest first."""
        return tuple(self._history)

    async def read(
        self, endpoints: Sequence[Endpoint], starting: Sequence[str], now: datetime
    ) -> Sequence[Signals]:
        """Read all sources at once, and give the history with the new signals as its last.

        A source that is down is a gap. Nothing is raised but cancellation.

        Args:
            endpoints: of the model's ready nodes; its coverage is judged against them.
            starting: ids of endpoints that have been ready for less than two minutes.
        """
        target = Target(
            model=self.settings.model,
            endpoints=tuple(endpoints),
            window=self.settings.window,
            starting=tuple(starting),
            ttft_target_s=self.settings.ttft_target_s,
            itl_target_s=self.settings.itl_target_s,
        )
        async with self._turn:
            last = self._history[-1] if self._history else None
            if last is None or not timedelta(0) <= last.at - now < _SAME_READING:
                self._remember(merge(await self._ask_all(target, now), now, last))
            return self.history

    async def close(self) -> None:
        """Close every source, after the read that goes on, whatever another one's closing does."""
        async with self._turn:
            for feeder in self.feeders:
                try:
                    await feeder.source.close()
                except Exception:
                    log.exception("source_close_failed", source=feeder.source.name)

    async def _ask_all(self, target: Target, now: datetime) -> list[Answer]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(f, target, now)) for f in self.feeders]
        return [
            Answer(task.result(), feeder.role, feeder.max_age, feeder.is_overlooked())
            for task, feeder in zip(tasks, self.feeders, strict=True)
        ]

    async def _ask(self, feeder: Feeder, target: Target, now: datetime) -> Reading:
        source = feeder.source
        limit_s = feeder.timeout_s + _SLACK_S
        try:
            async with asyncio.timeout(limit_s):
                reading = await source.read(target, now)
        except TimeoutError:
            return self._down(source, now, f"no reading within {limit_s:g} s")
        except Exception as exc:
            # a bug or a page beyond imagination: the other sources, and the other models, go on
            log.exception("source_read_failed", source=source.name, model=target.model)
            return self._down(source, now, f"failed: {type(exc).__name__}")
        if target.endpoints or feeder.role is not Role.INSIDE:  # no node: silence is no news
            self._note(source.name, reading)
        return reading

    def _down(self, source: Source, now: datetime, reason: str) -> Reading:
        reading = Reading(
            source.name, now, gaps=tuple(Gap(f, source.name, reason) for f in sorted(source.gives))
        )
        self._note(source.name, reading)
        return reading

    def _note(self, source: str, reading: Reading) -> None:
        """Log when a source falls silent and when it speaks again, not in between."""
        was_down = source in self._troubles
        if reading.figures:
            self._troubles.pop(source, None)
            if was_down:
                log.info("source_recovered", source=source, model=self.settings.model)
        elif reading.gaps and not was_down:
            self._troubles[source] = reading.gaps[0].reason
            log.warning(
                "source_silent",
                source=source,
                model=self.settings.model,
                reason=reading.gaps[0].reason,
            )

    def _remember(self, signals: Signals) -> None:
        if self._history and signals.at < self._history[-1].at:
            # the clock was set back: what is dated ahead would stay newest for ever
            kept = [old for old in self._history if old.at < signals.at]
            self._history.clear()
            self._history.extend(kept)
        while self._history and signals.at - self._history[0].at > self.settings.horizon:
            self._history.popleft()
        self._history.append(signals)
