"""Operations of a cloud that tells each end once: whoever reads it first reads it for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest

from autoscaler.domain.ids import NodeName, OperationId
from autoscaler.domain.machine import Operation, OperationState
from autoscaler.domain.node import State
from autoscaler.errors import CloudUnavailable, OutcomeUnknown
from autoscaler.nodes.operations import OperationsFeed
from tests.nodes.life_parts import (
    NOON,
    AirCloud,
    HandClock,
    intent_id,
    life,
    node,
    open_store,
    seconds,
)


@dataclass
class ForgetfulCloud(AirCloud):
    """Tells the end of an operation once, then 404."""

    asked: list[str] = field(default_factory=list)

    async def operation(self, operation_id: OperationId) -> Operation | None:
        self.asked.append(operation_id)
        found = await super().operation(operation_id)
        if found is not None and found.state is not OperationState.IN_PROGRESS:
            del self.ops[operation_id]
        return found

    async def operations(self, since: datetime) -> Sequence[Operation]:
        self.asked.append("all")
        told = await super().operations(since)
        self.ops = {o.id: o for o in told if o.state is OperationState.IN_PROGRESS}
        return told


def operation(name: str, state: OperationState = OperationState.FAILED) -> Operation:
    return Operation(OperationId(f"op-{name}"), state, "create", request_name=name)


def cloud_with(*operations: Operation) -> ForgetfulCloud:
    return ForgetfulCloud(HandClock(), ops={each.id: each for each in operations})


async def test_a_listing_for_one_node_keeps_what_ended_for_another() -> None:
    cloud = cloud_with(operation("a"), operation("b"))
    feed = OperationsFeed(cloud, cloud.clock)

    mine = await feed.by_name(NodeName("a"), NOON)
    others = await feed.by_id(OperationId("op-b"))
    again = await feed.by_name(NodeName("a"), NOON)

    assert mine is not None
    assert others is not None
    assert others.state is OperationState.FAILED
    assert again == mine
    assert cloud.asked == ["all"]


async def test_many_lost_answers_cost_one_listing() -> None:
    cloud = cloud_with()
    feed = OperationsFeed(cloud, cloud.clock)

    for name in "abcdef":
        await feed.by_name(NodeName(name), NOON)
    earlier = await feed.by_name(NodeName("g"), NOON - seconds(60))
    cloud.clock.move(5)
    await feed.by_name(NodeName("a"), NOON)

    assert earlier is None
    assert cloud.asked == ["all"] * 3  # one for six, one that reaches back further, one later


async def test_a_listing_that_failed_is_not_repeated_at_once() -> None:
    cloud = cloud_with()
    cloud.unreadable = CloudUnavailable("502")
    feed = OperationsFeed(cloud, cloud.clock)

    for name in "abc":
        with pytest.raises(CloudUnavailable, match="502"):
            await feed.by_name(NodeName(name), NOON)

    assert cloud.asked == ["all"]


async def test_an_operation_is_polled_every_2_s_and_later_every_5_s(tmp_path: Path) -> None:
    cloud = ForgetfulCloud(HandClock())
    store = open_store(tmp_path)
    alive = await life(store, cloud.clock, cloud)
    alive.pause_s = 1
    row = await alive.add(node())
    await alive.step(row.name)
    cloud.vms.clear()
    ended = cloud.ops[OperationId(f"op-{row.name}")]
    cloud.ops[ended.id] = replace(ended, state=OperationState.IN_PROGRESS, machine_id=None)

    await alive.steps(row.name, 20)
    soon = len(cloud.asked)
    await alive.steps(row.name, 20)
    await store.close()

    assert (soon, len(cloud.asked) - soon) == (10, 4)


async def test_a_failed_create_is_noticed_although_another_node_read_its_end(
    tmp_path: Path,
) -> None:
    cloud = ForgetfulCloud(HandClock())
    store = open_store(tmp_path)
    alive = await life(store, cloud.clock, cloud)
    lost, failing = [await alive.add(node(intent=intent_id(n))) for n in range(2)]
    cloud.create_raises = [OutcomeUnknown("timeout")]
    await alive.step(lost.name)
    await alive.step(failing.name)
    cloud.vms.clear()
    for each in list(cloud.ops.values()):
        cloud.ops[each.id] = replace(each, state=OperationState.FAILED, message="boom")

    await alive.steps(lost.name, 2)
    noticed = await alive.until(failing.name, State.FAILED, most=5)
    await store.close()

    assert noticed.failure == "create: boom"
