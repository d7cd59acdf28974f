"""The line before the endpoints, at the moments where two things happen at once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.gateway.endpoint import Endpoint, EndpointState
from autoscaler.gateway.pool import Pool, Refused
from autoscaler.gateway.settings import PoolSettings, WaitBounds


def pool_of(*endpoints: Endpoint, bounds: WaitBounds | None = None) -> Pool:
    bounds = bounds or WaitBounds(1000, 1 << 20, 60.0)
    settings = PoolSettings("m", hold=bounds, queue=bounds)
    pool = Pool(settings, asyncio.get_running_loop(), lambda _: None)
    for endpoint in endpoints:
        pool.put_endpoint(endpoint)
    return pool


async def waits(pool: Pool, owner: str | None = None, size: int = 10) -> asyncio.Task[Endpoint]:
    """Start a request that has to wait, and let it come to its place in the line."""
    task = asyncio.create_task(pool.acquire(pool.arrive(size, owner)))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_a_client_that_goes_in_the_moment_of_its_turn_leaves_nothing_in_flight() -> None:
    pool = pool_of()
    first, second = await waits(pool), await waits(pool)

    endpoint = Endpoint("a", "http://a", max_inflight=1)
    pool.put_endpoint(endpoint)  # the first one's turn, but it has not run yet
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    assert await second is endpoint
    pool.release(endpoint)
    assert endpoint.in_flight == pool.in_flight == pool.waiting_bytes == 0


async def test_a_request_whose_connection_failed_goes_to_the_front_of_the_line() -> None:
    dead = Endpoint("a", "http://a", max_inflight=1)
    pool = pool_of(dead)
    ticket = pool.arrive(10)
    await pool.acquire(ticket)
    later = await waits(pool)

    ticket.tries += 1
    pool.connect_failed(dead)
    again = asyncio.create_task(pool.acquire(ticket))
    await asyncio.sleep(0)
    alive = Endpoint("b", "http://b", max_inflight=1)
    pool.put_endpoint(alive)

    assert await again is alive
    assert not later.done()
    pool.close("shutdown", "stopping")
    with pytest.raises(Refused):
        await later


async def test_an_endpoint_that_refuses_is_tried_by_one_request_at_a_time() -> None:
    endpoint = Endpoint("a", "http://a")
    pool = pool_of(endpoint)
    await pool.acquire(pool.arrive(1))
    pool.connect_failed(endpoint)
    waiting = [await waits(pool) for _ in range(5)]

    async with asyncio.timeout(5):
        while not endpoint.in_flight:  # noqa: ASYNC110 - the pool has no such event
            await asyncio.sleep(0.01)
    tried = endpoint.in_flight
    pool.connected(endpoint)

    assert tried == 1
    assert endpoint.in_flight == 5
    await asyncio.gather(*waiting)
    pool.close("shutdown", "stopping")


async def test_at_most_a_third_of_the_endpoints_rest_for_long() -> None:
    endpoints = [Endpoint(str(index), "http://a") for index in range(6)]
    pool = pool_of(*endpoints)
    for _ in range(10):
        for endpoint in endpoints:
            endpoint.in_flight += 1
            pool.in_flight += 1
            pool.connect_failed(endpoint)

    now = pool.loop.time()
    long = [endpoint for endpoint in endpoints if endpoint.resting_until - now > 0.6]

    assert len(long) <= 2
    pool.close("shutdown", "stopping")


async def test_a_wait_that_began_before_the_last_node_left_has_the_bounds_of_holding() -> None:
    queue, hold = WaitBounds(10, 1 << 20, 0.1), WaitBounds(10, 1 << 20, 60.0)
    pool = Pool(
        PoolSettings("m", hold=hold, queue=queue), asyncio.get_running_loop(), lambda _: None
    )
    only = Endpoint("a", "http://a", max_inflight=1)
    pool.put_endpoint(only)
    await pool.acquire(pool.arrive(1))
    ticket = pool.arrive(1)
    waiting = asyncio.create_task(pool.acquire(ticket))
    await asyncio.sleep(0)

    pool.drain(only)
    done, _ = await asyncio.wait((waiting,), timeout=0.3)

    assert not done
    assert ticket.is_cold
    pool.close("shutdown", "stopping")
    with pytest.raises(Refused):
        await waiting


async def test_a_turn_passes_from_client_to_client_however_many_one_of_them_sends() -> None:
    pool = pool_of()
    owners = [*("loud",) * 6, "ann", "ben", "ann"]
    tasks = [await waits(pool, owner) for owner in owners]
    only = Endpoint("a", "http://a", max_inflight=1)
    pool.put_endpoint(only)

    served = []
    left = list(zip(owners, tasks, strict=True))
    while left:
        await asyncio.wait([task for _, task in left], return_when=asyncio.FIRST_COMPLETED)
        (turn,) = [pair for pair in left if pair[1].done()]
        left.remove(turn)
        served.append(turn[0])
        pool.release(only)

    assert served[:6] == ["loud", "ann", "ben", "loud", "ann", "loud"]
    assert tasks[0].done()


async def test_in_a_full_line_who_has_most_gives_up_the_newest_to_who_has_less() -> None:
    pool = pool_of(bounds=WaitBounds(4, 1 << 20, 60.0))
    loud = [await waits(pool, "loud") for _ in range(4)]

    ann = await waits(pool, "ann")
    with pytest.raises(Refused, match="your key has the most") as displaced:
        await loud[3]
    with pytest.raises(Refused, match="4 requests already wait"):
        await (await waits(pool, "loud"))
    await waits(pool, "ann")
    third = await waits(pool, "ann")  # two each by now
    with pytest.raises(Refused, match="4 requests already wait"):
        await third

    assert displaced.value.reason == "hold_requests"
    assert [task.done() for task in loud] == [False, False, True, True]
    assert not ann.done()
    assert pool.waiting == 4
    await _ended(pool)


async def test_in_a_line_full_of_bytes_too_and_what_cannot_fit_costs_nobody_anything() -> None:
    pool = pool_of(bounds=WaitBounds(100, 100, 60.0))
    loud = [await waits(pool, "loud", size=30) for _ in range(3)]

    with pytest.raises(Refused, match="90 bytes already wait") as refused:
        await (await waits(pool, "ann", size=101))
    assert not any(task.done() for task in loud)
    ann = await waits(pool, "ann", size=20)
    with pytest.raises(Refused):
        await loud[2]

    assert refused.value.reason == "hold_bytes"
    assert pool.waiting_bytes == 80
    assert not ann.done()
    await _ended(pool)


async def _ended(pool: Pool) -> None:
    pool.close("shutdown", "stopping")
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("ask", "gone", "end", "fail", "add", "drain", "remove")),
        st.integers(0, 20),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_every_request_is_somewhere_and_bounds_hold(
    steps: list[tuple[str, int]],
) -> None:
    asyncio.run(_walk(steps))


async def _walk(steps: list[tuple[str, int]]) -> None:
    pool = pool_of(bounds=WaitBounds(8, 1 << 20, 60.0))
    asked: list[asyncio.Task[Endpoint]] = []
    served: list[asyncio.Task[Endpoint]] = []
    names = 0
    for step, number in steps:
        serving = [t for t in asked if t not in served and t.done() and _got(t)]
        active = [e for e in pool.endpoints.values() if e.state is EndpointState.ACTIVE]
        match step:
            case "ask":
                owner = (None, "ann", "ben")[number % 3]
                asked.append(asyncio.create_task(pool.acquire(pool.arrive(10, owner))))
            case "gone" if asked:
                asked[number % len(asked)].cancel()
            case "end" | "fail" if serving:
                task = serving[number % len(serving)]
                served.append(task)
                (pool.release if step == "end" else pool.connect_failed)(task.result())
            case "add":
                names += 1
                pool.put_endpoint(Endpoint(f"e{names}", "http://a", max_inflight=number % 4))
            case "drain" if active:
                pool.drain(active[number % len(active)])
            case "remove":
                idle = [e for e in pool.endpoints.values() if not e.in_flight]
                if idle:
                    pool.remove(idle[number % len(idle)])
        for _ in range(number % 4):
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)

    holding = [t for t in asked if t not in served and t.done() and _got(t)]
    unfinished = [t for t in asked if not t.done()]
    assert pool.in_flight == len(holding) == sum(e.in_flight for e in pool.endpoints.values())
    assert pool.waiting == len(unfinished) <= 8
    assert pool.waiting_bytes == 10 * pool.waiting
    assert all(not e.max_inflight or e.in_flight <= e.max_inflight for e in pool.endpoints.values())
    pool.close("shutdown", "stopping")
    await asyncio.gather(*asked, return_exceptions=True)


def _got(task: asyncio.Task[Endpoint]) -> bool:
    return not task.cancelled() and task.exception() is None
