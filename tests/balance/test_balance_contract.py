"""What every balancer does, asked of a real HAProxy and of the real gateway."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from autoscaler.balance.protocol import Pool, ServerState
from autoscaler.errors import BalancerUnavailable
from tests.balance.parts import Answer, Balancing, NewServer, endpoint_of


async def test_a_registered_server_is_up_and_gets_the_traffic(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "one", capacity=7, weight=50)

    await balancing.balancer.register(balancing.model, endpoint)

    await balancing.is_up(endpoint)
    reported = await balancing.server(endpoint)
    assert (reported.url, reported.weight, reported.in_flight) == (server.url, 50, 0)
    answer = await balancing.clients.ask()
    assert answer.is_whole
    assert server.url in answer.text


async def test_a_drained_server_ends_its_streams_and_gets_nothing_new(
    balancing: Balancing, new_server: NewServer
) -> None:
    leaving, staying = await new_server(), await new_server()
    gone, kept = endpoint_of(leaving, "gone"), endpoint_of(staying, "kept")
    await balancing.serve(gone, kept)
    async with asyncio.TaskGroup() as tasks:
        streams = [tasks.create_task(balancing.clients.ask(is_long=True)) for _ in range(12)]
        await balancing.until(lambda: leaving.in_flight + staying.in_flight == 12)

        await balancing.balancer.drain(balancing.model, gone.id)

        assert (await balancing.server(gone)).state is ServerState.DRAINING
        assert (await balancing.server(gone)).in_flight == leaving.in_flight > 0
        assert (await balancing.server(kept)).in_flight == staying.in_flight
        served = leaving.served
        later = [await balancing.clients.ask() for _ in range(10)]
        assert all(answer.is_whole for answer in later)
        assert leaving.served == served
        leaving.may_end.set()
        await balancing.is_idle(gone)
        await balancing.balancer.remove(balancing.model, gone.id)
        staying.may_end.set()
    assert all(stream.result().is_whole for stream in streams)
    report = await balancing.balancer.report(balancing.model)
    assert report.server(gone.id) is None


async def test_forgetting_or_draining_what_is_unknown_is_no_error(balancing: Balancing) -> None:
    await balancing.balancer.drain(balancing.model, "as-teamaaaa-never-1-qwen")
    await balancing.balancer.remove(balancing.model, "as-teamaaaa-never-1-qwen")

    assert (await balancing.balancer.report(balancing.model)).servers == ()


async def test_a_server_with_requests_in_flight_is_not_removed(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "busy")
    await balancing.serve(endpoint)
    async with asyncio.TaskGroup() as tasks:
        stream = tasks.create_task(balancing.clients.ask(is_long=True))
        await balancing.until(lambda: server.in_flight == 1)
        await balancing.balancer.drain(balancing.model, endpoint.id)

        with pytest.raises(BalancerUnavailable, match="1 requests in flight"):
            await balancing.balancer.remove(balancing.model, endpoint.id)

        server.may_end.set()
    assert stream.result().is_whole
    assert (await balancing.balancer.report(balancing.model)).server(endpoint.id) is not None


async def test_registering_a_draining_server_brings_it_back(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "wanted")
    await balancing.serve(endpoint)
    await balancing.balancer.drain(balancing.model, endpoint.id)

    await balancing.balancer.register(balancing.model, endpoint)

    await balancing.is_up(endpoint)
    assert (await balancing.clients.ask()).is_whole
    assert server.served == 1


async def test_a_server_told_anew_takes_its_new_weight_and_capacity(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    await balancing.serve(endpoint_of(server, "one", capacity=8, weight=10))

    await balancing.balancer.register(
        balancing.model, endpoint_of(server, "one", capacity=1, weight=20)
    )

    assert (await balancing.server(endpoint_of(server, "one"))).weight == 20
    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(balancing.clients.ask(is_long=True)) for _ in range(3)]
        await balancing.report_when(lambda report: report.waiting == 2)
        assert server.in_flight == 1
        server.may_end.set()
    assert all(answer.result().is_whole for answer in answers)


async def test_where_the_engine_queues_the_balancer_does_not(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "one", capacity=1)
    await balancing.balancer.ensure_pool(Pool(balancing.model, queue_in_engine=True))
    await balancing.balancer.register(balancing.model, endpoint)
    await balancing.is_up(endpoint)

    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(balancing.clients.ask(is_long=True)) for _ in range(3)]
        await balancing.until(lambda: server.in_flight == 3)
        server.may_end.set()

    assert all(answer.result().is_whole for answer in answers)


async def test_a_server_at_a_new_address_under_its_name_replaces_the_old_one(
    balancing: Balancing, new_server: NewServer
) -> None:
    before, after = await new_server(), await new_server()
    await balancing.serve(endpoint_of(before, "moved"))

    await balancing.balancer.register(balancing.model, endpoint_of(after, "moved"))

    await balancing.is_up(endpoint_of(after, "moved"))
    assert (await balancing.server(endpoint_of(after, "moved"))).url == after.url
    assert after.url in (await balancing.clients.ask()).text


async def test_the_last_node_drained_with_fifty_requests_queued_fails_none(
    balancing: Balancing, new_server: NewServer
) -> None:
    leaving, coming = await new_server(), await new_server()
    last, next_one = endpoint_of(leaving, "last", capacity=4), endpoint_of(coming, "next")
    await balancing.serve(last)
    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(balancing.clients.ask(is_long=True)) for _ in range(54)]
        await balancing.report_when(lambda report: report.waiting == 50)
        assert leaving.in_flight == (await balancing.server(last)).in_flight == 4

        await balancing.balancer.drain(balancing.model, last.id)

        if balancing.kind == "haproxy":
            await balancing.until(lambda: balancing.activator.in_flight == 50)
        report = await balancing.report_when(lambda report: report.waiting == 50)
        assert [server.state for server in report.servers] == [ServerState.DRAINING]
        leaving.may_end.set()
        await balancing.is_idle(last)
        await balancing.balancer.remove(balancing.model, last.id)
        balancing.activator.may_end.set()  # in production it passes them to the next node
        coming.may_end.set()
        await balancing.balancer.register(balancing.model, next_one)
    assert [answer.result() for answer in answers if not answer.result().is_whole] == []
    assert leaving.served == 4


async def test_clients_with_kept_connections_notice_no_scale_in(
    balancing: Balancing, new_server: NewServer
) -> None:
    servers = [await new_server() for _ in range(2)]
    staying = endpoint_of(servers[0], "stays", capacity=3)
    await balancing.serve(staying)
    answers: list[Answer] = []
    is_over = asyncio.Event()

    async def keep_asking() -> None:
        while not is_over.is_set():
            answers.append(await balancing.clients.ask())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(keep_asking())
        for life in range(5):
            coming = endpoint_of(servers[1], f"life{life}", capacity=3)
            await balancing.balancer.register(balancing.model, coming)
            await balancing.is_up(coming)
            served = servers[1].served
            await balancing.until(lambda served=served: servers[1].served > served + 3)  # type: ignore[misc]
            await balancing.balancer.drain(balancing.model, coming.id)
            await balancing.is_idle(coming)
            await balancing.balancer.remove(balancing.model, coming.id)
        is_over.set()

    assert len(answers) > 40
    assert [answer for answer in answers if not answer.is_whole] == []


async def test_a_balancer_that_forgot_says_so_and_is_told_again(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "one")
    await balancing.serve(endpoint)
    before = await balancing.balancer.report(balancing.model)

    await balancing.process.forget()

    after = await balancing.balancer.report(balancing.model)
    assert after.incarnation != before.incarnation
    assert after.servers == ()
    await balancing.serve(endpoint)
    assert server.url in (await balancing.clients.ask()).text


async def test_a_balancer_that_runs_on_keeps_its_incarnation(balancing: Balancing) -> None:
    first = await balancing.balancer.report(balancing.model)
    second = await balancing.balancer.report(balancing.model)

    assert first.incarnation == second.incarnation
    assert first.at.tzinfo is not None
    assert first.old_processes == second.old_processes == 0


async def test_a_balancer_that_is_down_names_its_socket_and_what_to_do(
    balancing: Balancing, new_server: NewServer
) -> None:
    endpoint = endpoint_of(await new_server(), "one")
    balancer, model = balancing.balancer, balancing.model
    await balancing.process.stop()

    for call in (
        balancer.report(model),
        balancer.ensure_pool(Pool(model)),
        balancer.register(model, endpoint),
        balancer.drain(model, endpoint.id),
        balancer.remove(model, endpoint.id),
        balancer.drop_pool(model),
    ):
        with pytest.raises(BalancerUnavailable, match="start it") as raised:
            await call
        assert str(balancing.control) in str(raised.value)


async def test_a_removal_by_force_forgets_a_busy_server(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "stuck")
    await balancing.serve(endpoint)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(balancing.clients.ask(is_long=True))
        await balancing.until(lambda: server.in_flight == 1)
        await balancing.balancer.drain(balancing.model, endpoint.id)

        await balancing.balancer.remove(balancing.model, endpoint.id, force=True)

        assert (await balancing.balancer.report(balancing.model)).servers == ()
        server.may_end.set()


async def test_a_dropped_pool_has_no_server_left(
    balancing: Balancing, new_server: NewServer
) -> None:
    endpoint = endpoint_of(await new_server(), "one")
    await balancing.serve(endpoint)
    await balancing.balancer.drain(balancing.model, endpoint.id)

    await balancing.balancer.drop_pool(balancing.model)
    await balancing.balancer.drop_pool(balancing.model)

    assert (await balancing.balancer.report(balancing.model)).servers == ()


async def test_the_settle_time_outlasts_a_connection_attempt(balancing: Balancing) -> None:
    assert (
        balancing.balancer.settle_time
        >= {
            "haproxy": timedelta(seconds=2.5),
            "gateway": timedelta(0),
        }[balancing.kind]
    )
    assert balancing.balancer.name == balancing.kind


async def test_events_are_passed_on_as_they_come_and_a_client_that_left_is_noticed(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "one")
    await balancing.serve(endpoint)

    event = await balancing.clients.first_event()

    assert server.url in event
    await balancing.is_idle(endpoint)


async def test_a_client_that_gave_up_while_waiting_is_not_served(
    balancing: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "one", capacity=1)
    await balancing.serve(endpoint)
    async with asyncio.TaskGroup() as tasks:
        served = tasks.create_task(balancing.clients.ask(is_long=True))
        await balancing.until(lambda: server.in_flight == 1)
        waiting = tasks.create_task(balancing.clients.ask())
        await balancing.report_when(lambda report: report.waiting == 1)

        waiting.cancel()

        await balancing.report_when(lambda report: report.waiting == 0)
        server.may_end.set()
    assert served.result().is_whole
    assert server.served == 1
