"""A feed: all sources at once, none of which can stop it, and a history that is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.domain.signals import Figure, FigureName, Gap
from autoscaler.observe.feed import Feeder, FeedSettings, SignalFeed
from autoscaler.observe.merge import Role
from autoscaler.observe.protocol import Reading, Target

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
F = FigureName
FRONT = frozenset({F.WAITING, F.RUNNING, F.ARRIVALS})


class Scripted:
    """A source that does what the test says: numbers, silence, or a fault."""

    def __init__(self, name: str, *script: float | str | Exception) -> None:
        self.name = name
        self.gives = FRONT
        self.targets: list[Target] = []
        self.asked = asyncio.Event()
        self.is_closed = False
        self._script = list(script)

    async def read(self, target: Target, now: datetime) -> Reading:
        self.targets.append(target)
        self.asked.set()
        step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(step, Exception):
            raise step
        if isinstance(step, str):
            await asyncio.Event().wait()
        figures = tuple((name, Figure(float(step), now, self.name)) for name in sorted(FRONT))
        return Reading(self.name, now, figures)

    async def close(self) -> None:
        self.is_closed = True
        raise OSError("closing failed")


class Mute(Scripted):
    """A source that answers with gaps until it is told to speak."""

    is_mute = True

    async def read(self, target: Target, now: datetime) -> Reading:
        if self.is_mute:
            return Reading(self.name, now, gaps=(Gap(F.RUNNING, self.name, "down"),))
        return Reading(self.name, now, ((F.RUNNING, Figure(1.0, now, self.name)),))


def feed(*sources: Scripted, keep: int = 100, role: Role = Role.FRONT) -> SignalFeed:
    """A feed that gives a source that hangs a tenth of a second: its timeout and the feed's own second."""
    minute = timedelta(minutes=1)
    return SignalFeed(
        [Feeder(source, role, timeout_s=-0.9, max_age=minute) for source in sources],
        FeedSettings(ModelName("m"), minute, keep, horizon=timedelta(hours=2), ttft_target_s=2.0),
    )


def waiting(history: Sequence[object]) -> list[float | None]:
    return [signals.value(F.WAITING) for signals in history]  # type: ignore[attr-defined]


async def test_each_read_adds_one_signals_and_gives_the_history_oldest_first() -> None:
    fed = feed(Scripted("a", 1.0, 2.0, 3.0))

    for step in range(3):
        history = await fed.read((), (), NOON + timedelta(seconds=15 * step))

    assert waiting(history) == [1, 2, 3]
    assert history == fed.history


async def test_the_sources_are_told_what_to_measure() -> None:
    source = Scripted("a", 1.0)
    endpoint = Endpoint("n0", "http://127.0.0.1:1", 8, 1)

    await feed(source).read([endpoint], ["n0"], NOON)

    told = source.targets[0]
    assert (told.endpoints, told.starting, told.ttft_target_s) == ((endpoint,), ("n0",), 2.0)


@pytest.mark.parametrize("fault", ["hangs", RuntimeError("a bug"), ValueError("x"), OSError("y")])
async def test_a_source_that_hangs_or_throws_is_a_gap_and_the_next_read_goes_on(
    fault: str | Exception,
) -> None:
    fed = feed(Scripted("a", fault, 4.0))

    first = await fed.read((), (), NOON)
    second = await fed.read((), (), NOON + timedelta(seconds=15))

    assert waiting(first) == [None]
    assert {gap.figure for gap in first[0].gaps} == FRONT
    assert waiting(second) == [None, 4]


async def test_a_cancelled_read_is_cancelled() -> None:
    source = Scripted("a", "hangs")
    minute = timedelta(minutes=1)
    fed = SignalFeed(
        [Feeder(source, Role.FRONT, 60, minute)], FeedSettings(ModelName("m"), minute, 9, minute)
    )

    reading = asyncio.create_task(fed.read((), (), NOON))
    await asyncio.wait_for(source.asked.wait(), 5)
    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading
    assert fed.history == ()


async def test_the_history_is_bounded_in_number_and_in_time() -> None:
    short, long = feed(Scripted("a", 1.0), keep=3), feed(Scripted("a", 1.0))

    for hour in range(6):
        few = await short.read((), (), NOON + timedelta(hours=hour))
        many = await long.read((), (), NOON + timedelta(hours=hour))

    assert len(few) == 3
    assert [signals.at.hour for signals in many] == [15, 16, 17]


async def test_a_clock_set_back_leaves_no_signals_of_the_future() -> None:
    fed = feed(Scripted("a", 1.0))
    for minute in range(5):
        await fed.read((), (), NOON + timedelta(minutes=minute))

    history = await fed.read((), (), NOON + timedelta(minutes=2, seconds=30))

    assert [signals.at.minute for signals in history] == [0, 1, 2, 2]


async def test_silence_is_said_once_and_not_where_there_is_no_node_to_ask() -> None:
    endpoint = Endpoint("n0", "http://127.0.0.1:1", 8, 1)
    minute = timedelta(minutes=1)
    source = Mute("engine")
    fed = SignalFeed(
        [Feeder(source, Role.INSIDE, 1.0, minute)], FeedSettings(ModelName("m"), minute, 9, minute)
    )

    with capture_logs() as at_zero:
        await fed.read((), (), NOON)
    with capture_logs() as logged:
        for second in (10, 20, 30):
            await fed.read([endpoint], (), NOON + timedelta(seconds=second))
        source.is_mute = False
        await fed.read([endpoint], (), NOON + timedelta(seconds=40))

    assert at_zero == []
    assert [entry["event"] for entry in logged] == ["source_silent", "source_recovered"]


async def test_reads_that_overlap_take_turns_and_share_an_answer() -> None:
    source = Scripted("a", 1.0, 2.0, 3.0)
    fed = feed(source)

    later, sooner = await asyncio.gather(
        fed.read((), (), NOON + timedelta(seconds=1)), fed.read((), (), NOON)
    )
    next_one = await fed.read((), (), NOON + timedelta(seconds=2))

    assert waiting(later) == waiting(sooner) == [1]
    assert waiting(next_one) == [1, 2]
    assert len(source.targets) == 2


async def test_closing_closes_every_source_though_one_fails() -> None:
    sources = [Scripted("a", 1.0), Scripted("b", 1.0)]

    await feed(*sources).close()

    assert [source.is_closed for source in sources] == [True, True]
