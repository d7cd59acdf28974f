"""All balancers together: one that is away holds up only what must wait for it, and is told all when it returns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from autoscaler.balance.group import BalancerGroup
from autoscaler.balance.presence import Patience
from autoscaler.balance.protocol import Pool, PoolReport, ServerReport, ServerState
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import CLOSED, Endpoint, Node, State
from autoscaler.errors import BalancerUnavailable, LeaseLost
from tests.balance.test_balance_presence import MODEL, NOON, a_node

PATIENCE = Patience(timedelta(seconds=45), timedelta(minutes=10))
ONE = a_node("one", State.READY)
ID = ONE.endpoints[0].id


@dataclass
class Edge:
    """A balancer at the Protocol's edge, with one pool."""

    name: str
    servers: dict[str, ServerReport] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    is_silent: bool = False
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    forgets: bool = False
    settle_time: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def report(self, model: ModelName) -> PoolReport:
        self.asked += 1
        await self.may_answer.wait()
        self._answer()
        return PoolReport(model, tuple(self.servers.values()), "1", 0, NOON)

    async def ensure_pool(self, pool: Pool) -> None:
        self._answer()
        self.told.append("pool")

    async def register(self, model: ModelName, endpoint: Endpoint) -> None:
        self._answer()
        self.told.append(f"register {endpoint.id}")
        if not self.forgets:
            self.servers[endpoint.id] = ServerReport(endpoint.id, endpoint.url, ServerState.UP, 0)

    async def drain(self, model: ModelName, endpoint_id: str) -> None:
        self._answer()
        self.told.append(f"drain {endpoint_id}")
        known = self.servers[endpoint_id]
        self.servers[endpoint_id] = replace(known, state=ServerState.DRAINING)

    async def remove(self, model: ModelName, endpoint_id: str, *, force: bool = False) -> None:
        self._answer()
        self.told.append(f"remove {endpoint_id}")
        del self.servers[endpoint_id]

    async def drop_pool(self, model: ModelName) -> None: ...

    async def close(self) -> None: ...

    def _answer(self) -> None:
        if self.is_silent:
            raise BalancerUnavailable(f"{self.name}: no answer")


class Shelf:
    """Rows of a store."""

    def __init__(self, *rows: Node) -> None:
        self.rows = list(rows)

    async def nodes(self) -> Sequence[Node]:
        return [row for row in self.rows if row.state not in CLOSED]

    async def node(self, name: NodeName) -> Node | None:
        return next((row for row in self.rows if row.name == name), None)


class Place:
    """Two fronts and an activator behind them."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self.first, self.second = Edge("first"), Edge("second")
        self.activator = Edge("gateway")
        self.group = BalancerGroup(
            [self.activator, self.first, self.second],
            lambda: self.at_s,
            PATIENCE,
            behind={"gateway"},
        )
        self.shelf = Shelf(ONE)

    async def begin(self) -> None:
        """Let all of them count, and know the one node."""
        await self.group.welcome([MODEL], self.shelf)
        for edge in (self.first, self.second, self.activator):
            edge.told.clear()


@pytest.fixture
async def place() -> Place:
    made = Place()
    await made.begin()
    return made


async def test_what_is_asked_while_one_is_away_is_known_after_its_patience(place: Place) -> None:
    place.second.is_silent = True

    with pytest.raises(BalancerUnavailable, match="second: no answer"):
        await place.group.ask(MODEL, PATIENCE.grace)
    place.at_s += 45
    heard = await place.group.ask(MODEL, PATIENCE.grace)

    assert len(heard.reports) == 2
    assert heard.overlooked == {"second"}
    with pytest.raises(BalancerUnavailable, match="second: no answer"):
        await place.group.ask(MODEL, PATIENCE.absent_after)


async def test_a_node_is_registered_with_those_that_answer(place: Place) -> None:
    place.second.is_silent = True
    place.at_s += 45
    with pytest.raises(BalancerUnavailable):
        await place.group.ask(MODEL, PATIENCE.absent_after)

    await place.group.register(ONE)

    assert place.first.told == [f"register {ID}"]


async def test_one_that_refuses_does_not_keep_the_others_from_being_told(place: Place) -> None:
    place.activator.is_silent = True  # and nobody has noticed yet

    with pytest.raises(BalancerUnavailable, match="gateway: no answer"):
        await place.group.register(ONE)

    assert place.first.told == place.second.told == [f"register {ID}"]


async def test_scale_in_waits_from_the_first_silence_and_goes_on_once_it_is_absent(
    place: Place,
) -> None:
    assert place.group.why_no_release(MODEL) is None
    place.second.is_silent = True
    with pytest.raises(BalancerUnavailable):
        await place.group.ask(MODEL, PATIENCE.grace)

    assert "second has not answered" in (place.group.why_no_release(MODEL) or "")
    place.at_s += 600
    assert place.group.why_no_release(MODEL) is None


async def test_a_pass_knows_of_a_silence_that_no_node_has_noticed_yet(place: Place) -> None:
    place.second.is_silent = True

    with pytest.raises(BalancerUnavailable, match="second: no answer"):
        await place.group.ensure_pool(Pool(MODEL))

    assert "second has not answered" in (place.group.why_no_release(MODEL) or "")


async def test_one_that_returns_counts_once_it_was_told_what_serves(place: Place) -> None:
    await _leave_and_come_back(place)
    place.second.servers.clear()

    assert "just come back" in (place.group.why_no_release(MODEL) or "")
    await place.group.welcome([MODEL], place.shelf)

    assert place.second.told == [f"register {ID}"]
    assert place.first.told == []
    assert place.group.why_no_release(MODEL) is None


async def test_one_that_returns_does_not_count_while_it_does_not_keep_what_it_is_told(
    place: Place,
) -> None:
    await _leave_and_come_back(place)
    place.second.servers.clear()
    place.second.forgets = True

    await place.group.welcome([MODEL], place.shelf)

    assert place.group.why_no_release(MODEL) is not None


async def test_one_that_slept_through_the_end_of_a_node_forgets_it_and_drains_what_leaves(
    place: Place,
) -> None:
    leaving = a_node("two", State.READY)
    place.shelf.rows.append(leaving)
    await place.group.register(leaving)
    place.second.told.clear()
    place.shelf.rows = [
        replace(ONE, state=State.GONE),
        replace(leaving, state=State.DRAINING),
    ]
    await _leave_and_come_back(place)

    await place.group.welcome([MODEL], place.shelf)

    assert place.second.told == [f"drain {leaving.name}", f"drain {ID}", f"remove {ID}"]
    assert set(place.second.servers) == {leaving.name}


async def test_a_node_that_ends_while_another_is_told_is_not_put_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.shelf.rows.append(two := a_node("two", State.READY))
    await _leave_and_come_back(place)
    place.second.servers.clear()
    register = place.second.register

    async def slowly(model: ModelName, endpoint: Endpoint) -> None:
        await register(model, endpoint)
        place.shelf.rows[1] = replace(two, state=State.GONE)  # its address may be a stranger's now

    monkeypatch.setattr(place.second, "register", slowly)
    await place.group.welcome([MODEL], place.shelf)

    assert place.second.told == [f"register {ID}"]


async def test_an_entry_that_a_late_word_puts_back_after_its_node_ended_is_forgotten(
    place: Place,
) -> None:
    place.shelf.rows = [replace(ONE, state=State.GONE)]
    (late,) = ONE.endpoints
    await place.first.register(MODEL, late)
    place.at_s += 60

    await place.group.welcome([MODEL], place.shelf)

    assert place.first.servers == {}


async def test_a_daemon_that_slept_past_its_lease_registers_nothing(place: Place) -> None:
    def may() -> None:
        raise LeaseLost("its lease was not renewed in time")

    with pytest.raises(LeaseLost):
        await place.group.register(ONE, may)

    assert place.first.told == []


async def test_an_entry_that_no_row_knows_is_left_alone(place: Place) -> None:
    place.shelf.rows.clear()
    await _leave_and_come_back(place)

    await place.group.welcome([MODEL], place.shelf)

    assert place.second.told == []
    assert place.group.why_no_release(MODEL) is None


async def test_its_pool_is_made_before_its_endpoints(place: Place) -> None:
    await place.group.ensure_pool(Pool(MODEL))
    await _leave_and_come_back(place)
    place.second.told.clear()
    place.second.servers.clear()

    await place.group.welcome([MODEL], place.shelf)

    assert place.second.told == ["pool", f"register {ID}"]


async def test_a_silent_balancer_is_waited_for_by_one_asker_at_a_time(place: Place) -> None:
    place.second.is_silent = True
    with pytest.raises(BalancerUnavailable):
        await place.group.ask(MODEL, PATIENCE.grace)
    place.second.may_answer.clear()  # it hangs now
    asked = place.second.asked

    async with asyncio.TaskGroup() as tasks:
        slow = tasks.create_task(place.group.ask(MODEL, timedelta(0)))
        await asyncio.sleep(0)
        while place.second.asked == asked:  # noqa: ASYNC110 -- a figure sets no event
            await asyncio.sleep(0)
        for _ in range(20):
            assert (await place.group.ask(MODEL, timedelta(0))).overlooked == {"second"}
        place.second.may_answer.set()
    assert slow.result().overlooked == {"second"}
    assert place.second.asked == asked + 1


async def test_a_balancer_that_one_model_cannot_use_counts_for_the_others(place: Place) -> None:
    other = ModelName("mistral")
    place.shelf.rows.append(replace(a_node("two", State.READY), model=other))
    place.second.forgets = True

    await place.group.welcome([MODEL, other], place.shelf)

    assert place.group.why_no_release(MODEL) is None
    assert place.group.why_no_release(other) is not None


async def _leave_and_come_back(place: Place) -> None:
    place.second.is_silent = True
    with pytest.raises(BalancerUnavailable):
        await place.group.ask(MODEL, PATIENCE.absent_after)
    place.second.is_silent = False
    await place.group.ask(MODEL, PATIENCE.absent_after)
