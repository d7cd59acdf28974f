"""What is particular to HAProxy: its tables, its lies, its reloads, and the configuration that we ship."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from autoscaler.balance.haproxy import HaproxyBalancer, HaproxySettings
from autoscaler.balance.haproxy_socket import ask, show_servers_state, show_stat
from autoscaler.balance.protocol import Pool, ServerState
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable
from tests.balance.parts import (
    Balancing,
    HaproxyProcess,
    NewServer,
    StartFake,
    StartHaproxy,
    endpoint_of,
    haproxy_binary,
)
from tests.world.haproxy import SHIPPED

BACKEND = "qwen-qwen3-8b"
MODEL = ModelName("Qwen/Qwen3-8B")
ENDPOINT = Endpoint("as-teamaaaa-one-1-qwen", "http://127.0.0.1:9", capacity=7, weight=50)


@pytest.fixture
async def haproxy(start_haproxy: StartHaproxy) -> Balancing:
    started = await start_haproxy()
    await started.balancer.ensure_pool(Pool(started.model))
    return started


async def test_a_server_is_not_up_before_its_first_check_passed(
    haproxy: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    server.is_healthy = False
    endpoint = endpoint_of(server, "loading")

    await haproxy.balancer.register(MODEL, endpoint)

    rows = await show_servers_state(haproxy.control, BACKEND)
    assert rows is not None
    assert rows[-1].op_state == 2  # what HAProxy says, before it has looked
    assert (await haproxy.server(endpoint)).state is ServerState.DOWN
    server.is_healthy = True
    await haproxy.is_up(endpoint)


async def test_a_server_back_from_maintenance_is_not_up_by_an_old_check(
    haproxy: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "back")
    await haproxy.serve(endpoint)
    await ask(haproxy.control, f"set server {BACKEND}/as-{endpoint.id} state maint")
    assert (await haproxy.server(endpoint)).state is ServerState.DRAINING
    server.is_healthy = False

    await haproxy.balancer.register(MODEL, endpoint)

    assert (await haproxy.server(endpoint)).state is ServerState.DOWN


async def test_a_server_whose_check_wavers_but_still_takes_requests_is_up(
    haproxy: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "wavers")
    await haproxy.serve(endpoint)
    seen: set[ServerState] = set()
    server.is_healthy = False

    async with asyncio.timeout(10):
        while ServerState.DOWN not in seen:
            row = next(r for r in await show_stat(haproxy.control, BACKEND) if "wavers" in r.server)
            state = (await haproxy.server(endpoint)).state
            if row.status in ("UP 1/3", "UP 2/3") and row.check_status == "L7STS":
                assert state in (ServerState.UP, ServerState.DOWN)  # it may fall between the two
            seen.add(state)

    assert ServerState.UP in seen


async def test_servers_that_are_not_ours_are_neither_touched_nor_reported(
    haproxy: Balancing, new_server: NewServer
) -> None:
    theirs, ours = await new_server(), await new_server()
    address = theirs.url.removeprefix("http://")
    await ask(haproxy.control, f"add server {BACKEND}/legacy {address} weight 3")
    await ask(haproxy.control, f"set server {BACKEND}/legacy state drain")
    before = await show_servers_state(haproxy.control, BACKEND)

    endpoint = endpoint_of(ours, "one")
    await haproxy.serve(endpoint)
    report = await haproxy.balancer.report(MODEL)
    await haproxy.balancer.drain(MODEL, endpoint.id)
    await haproxy.balancer.drop_pool(MODEL)

    assert [server.endpoint_id for server in report.servers] == [endpoint.id]
    after = await show_servers_state(haproxy.control, BACKEND)
    assert before is not None
    assert after == [replace(row) for row in before]


async def test_registering_what_is_there_writes_nothing(fake_socket: StartFake) -> None:
    fake = await fake_socket(tables(f"3 m 3 as-{ENDPOINT.id} 127.0.0.1 2 0 50 50 9 15 3 4 6"))
    balancer = HaproxyBalancer(HaproxySettings(fake.path))

    await balancer.register(MODEL, ENDPOINT)

    assert fake.writes == []
    assert len(fake.commands) == 2


async def test_an_add_that_was_answered_and_not_done_is_found_out(fake_socket: StartFake) -> None:
    fake = await fake_socket(tables())
    balancer = HaproxyBalancer(HaproxySettings(fake.path))

    with pytest.raises(BalancerUnavailable, match="is not registered, whatever HAProxy answered"):
        await balancer.register(MODEL, ENDPOINT)

    assert fake.writes[0].startswith(f"add server {BACKEND}/as-{ENDPOINT.id} 127.0.0.1:9 check")


async def test_a_drain_that_was_answered_and_not_done_is_found_out(fake_socket: StartFake) -> None:
    fake = await fake_socket(tables(f"3 m 3 as-{ENDPOINT.id} 127.0.0.1 2 0 50 50 9 15 3 4 6"))
    balancer = HaproxyBalancer(HaproxySettings(fake.path))

    with pytest.raises(BalancerUnavailable, match="is not drained, whatever HAProxy answered"):
        await balancer.drain(MODEL, ENDPOINT.id)

    assert fake.writes[0] == f"set server {BACKEND}/as-{ENDPOINT.id} state drain"


async def test_a_removal_that_was_answered_and_not_done_is_found_out(
    fake_socket: StartFake,
) -> None:
    fake = await fake_socket(tables(f"3 m 3 as-{ENDPOINT.id} 127.0.0.1 2 8 50 50 9 15 3 4 6"))
    balancer = HaproxyBalancer(HaproxySettings(fake.path, removal_time=timedelta(seconds=0.1)))

    with pytest.raises(BalancerUnavailable, match="is not removed, whatever HAProxy answered"):
        await balancer.remove(MODEL, ENDPOINT.id)

    assert fake.writes[-1] == f"del server {BACKEND}/as-{ENDPOINT.id}"


async def test_a_server_that_haproxy_holds_on_to_is_not_called_removed(
    fake_socket: StartFake,
) -> None:
    told = tables(f"3 m 3 as-{ENDPOINT.id} 127.0.0.1 2 8 50 50 9 15 3 4 6")
    fake = await fake_socket(
        lambda command: (
            "Server still has connections attached to it, cannot remove it.\n"
            if command.startswith("del ")
            else told(command)
        )
    )
    settings = HaproxySettings(fake.path, removal_time=timedelta(seconds=0.2))

    with pytest.raises(BalancerUnavailable, match="still has connections"):
        await HaproxyBalancer(settings).remove(MODEL, ENDPOINT.id)

    assert len([command for command in fake.writes if command.startswith("del ")]) > 1


async def test_after_a_reload_the_old_process_counts_until_its_stream_has_ended(
    start_haproxy: StartHaproxy, new_server: NewServer
) -> None:
    haproxy = await start_haproxy(("timeout http-keep-alive 10s", "timeout http-keep-alive 50ms"))
    server = await new_server()
    await haproxy.serve(endpoint_of(server, "one"))
    async with asyncio.TaskGroup() as tasks:
        stream = tasks.create_task(haproxy.clients.ask(is_long=True))
        await haproxy.until(lambda: server.in_flight == 1)

        await haproxy.process.forget()

        report = await haproxy.balancer.report(MODEL)
        assert (report.servers, report.old_processes) == ((), 1)
        server.may_end.set()
    await haproxy.report_when(lambda report: report.old_processes == 0)
    assert stream.result().is_whole


async def test_a_request_after_a_reload_goes_to_the_activator_until_nodes_are_told_again(
    haproxy: Balancing, new_server: NewServer
) -> None:
    await haproxy.serve(endpoint_of(await new_server(), "one"))
    await haproxy.process.forget()

    answer = await haproxy.clients.ask()

    assert haproxy.activator.url in answer.text


async def test_the_queue_of_a_last_node_that_died_is_freed_by_the_next_pass(
    haproxy: Balancing, new_server: NewServer
) -> None:
    server = await new_server()
    endpoint = endpoint_of(server, "dies", capacity=2)
    await haproxy.serve(endpoint)
    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(haproxy.clients.ask(is_long=True)) for _ in range(10)]
        await haproxy.report_when(lambda report: report.waiting == 8)
        server.is_healthy = False
        await haproxy.report_when(lambda report: report.servers[0].state is ServerState.DOWN)
        assert haproxy.activator.in_flight == 0

        await haproxy.balancer.ensure_pool(Pool(MODEL))

        await haproxy.until(lambda: haproxy.activator.in_flight == 8)
        haproxy.activator.may_end.set()
        server.may_end.set()
    assert all(answer.result().is_whole for answer in answers)


async def test_a_removal_by_force_cuts_also_what_waited_when_the_server_came_up(
    haproxy: Balancing, new_server: NewServer
) -> None:
    full, coming = await new_server(), await new_server()
    await haproxy.serve(endpoint_of(full, "full", capacity=1))
    endpoint = endpoint_of(coming, "coming", capacity=5)
    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(haproxy.clients.ask(is_long=True)) for _ in range(4)]
        await haproxy.report_when(lambda report: report.waiting == 3)
        await haproxy.balancer.register(MODEL, endpoint)
        await haproxy.until(lambda: coming.in_flight == 3)

        await haproxy.balancer.remove(MODEL, endpoint.id, force=True)

        full.may_end.set()
    assert sorted(answer.result().is_whole for answer in answers) == [False, False, False, True]


async def test_freeing_a_queue_leaves_no_request_without_a_server(haproxy: Balancing) -> None:
    haproxy.activator.may_end.set()
    is_over = asyncio.Event()

    async def keep_asking() -> int:
        asked = 0
        while not is_over.is_set():
            assert (await haproxy.clients.ask()).is_whole
            asked += 1
        return asked

    cure = f"set server {BACKEND}/activator state maint; set server {BACKEND}/activator state ready"
    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(keep_asking()) for _ in range(16)]
        for _ in range(300):
            await ask(haproxy.control, cure)
        is_over.set()

    assert sum(client.result() for client in clients) > 100


async def test_an_activator_left_in_maintenance_is_put_back(haproxy: Balancing) -> None:
    for name in ("activator", "activator-spare"):
        await ask(haproxy.control, f"set server {BACKEND}/{name} state maint")

    await haproxy.balancer.ensure_pool(Pool(MODEL))

    assert haproxy.activator.url in (await haproxy.clients.ask()).text


async def test_a_model_without_a_backend_is_told_the_lines_to_add(haproxy: Balancing) -> None:
    model = ModelName("meta/Llama 3")
    for call in (
        haproxy.balancer.ensure_pool(Pool(model)),
        haproxy.balancer.register(model, replace(ENDPOINT, id="as-teamaaaa-one-1-meta")),
    ):
        with pytest.raises(
            BalancerUnavailable, match=r"add to haproxy\.cfg `backend meta-llama-3`"
        ):
            await call


async def test_a_backend_that_was_taken_out_of_the_configuration_holds_no_node(
    haproxy: Balancing,
) -> None:
    """Else its nodes could never be proven unregistered, and would bill for ever."""
    model = ModelName("meta/Llama 3")

    await haproxy.balancer.drain(model, "as-teamaaaa-one-1-meta")
    await haproxy.balancer.remove(model, "as-teamaaaa-one-1-meta", force=True)
    await haproxy.balancer.drop_pool(model)

    assert (await haproxy.balancer.report(model)).servers == ()


async def test_without_the_master_socket_it_says_that_old_processes_go_unseen(
    haproxy: Balancing,
) -> None:
    blind = HaproxyBalancer(HaproxySettings(haproxy.control))

    assert (await haproxy.balancer.report(MODEL)).counts_old_processes
    assert not (await blind.report(MODEL)).counts_old_processes


async def test_a_backend_without_a_spare_activator_is_refused(start_haproxy: StartHaproxy) -> None:
    haproxy = await start_haproxy(("    server activator-spare 127.0.0.1:8000 backup\n", ""))

    with pytest.raises(BalancerUnavailable, match="no backup server 'activator-spare'"):
        await haproxy.balancer.ensure_pool(Pool(MODEL))


async def test_two_models_may_not_share_a_backend(haproxy: Balancing) -> None:
    with pytest.raises(BalancerUnavailable, match="share the backend 'qwen-qwen3-8b'"):
        await haproxy.balancer.ensure_pool(Pool(ModelName("qwen/qwen3 8b")))


@pytest.mark.parametrize(
    "hostile", ["a b", "a;shutdown", "a/b", "a\nset", "", "Ä", "a" * 200, "A", "../x"]
)
async def test_a_name_that_would_be_a_second_command_is_refused(
    fake_socket: StartFake, hostile: str
) -> None:
    fake = await fake_socket(tables())
    balancer = HaproxyBalancer(HaproxySettings(fake.path))

    if hostile:
        with pytest.raises(ValueError, match="not a server name"):
            await balancer.drain(MODEL, hostile)
    with pytest.raises(ValueError, match="not a server name"):
        HaproxySettings(fake.path, server_prefix=hostile)
    if hostile not in ("A",):
        with pytest.raises(ValueError, match="not a backend name"):
            HaproxySettings(fake.path, backends={MODEL: hostile})

    assert fake.writes == []


@pytest.mark.parametrize("url", ["ftp://10.0.0.1:8000", "http://node:80", "http://10.0.0.1", "x"])
async def test_an_address_that_haproxy_cannot_take_is_refused(
    fake_socket: StartFake, url: str
) -> None:
    fake = await fake_socket(tables())

    with pytest.raises(BalancerUnavailable, match="HAProxy needs"):
        await HaproxyBalancer(HaproxySettings(fake.path)).register(
            MODEL, replace(ENDPOINT, url=url)
        )

    assert fake.writes == []


# the configuration that operators copy


async def test_the_shipped_configuration_gives_no_warning(folder: Path) -> None:
    process = HaproxyProcess(folder, "http://127.0.0.1:8000")
    config = folder / "haproxy.cfg"
    config.write_text(process.config())

    check = await asyncio.create_subprocess_exec(
        *(haproxy_binary(), "-c", "-f", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await check.communicate()

    assert check.returncode == 0
    assert "WARNING" not in said.decode()


async def test_every_backend_in_the_shipped_map_is_in_the_shipped_configuration() -> None:
    lines = (SHIPPED / "models.map").read_text().splitlines()
    backends = {line.split()[1] for line in lines if line and not line.startswith("#")}

    assert backends
    for backend in backends:
        assert f"\nbackend {backend}\n" in (SHIPPED / "haproxy.cfg").read_text()


async def test_the_shipped_configuration_routes_by_body_alias_and_header(
    haproxy: Balancing,
) -> None:
    haproxy.activator.may_end.set()

    assert (await haproxy.clients.ask()).is_whole
    assert (await haproxy.clients.ask(model="qwen3-8b")).is_whole
    unknown = await haproxy.clients.ask(model="nobody")

    assert (unknown.status, json.loads(unknown.text)["error"]["code"]) == (404, 404)
    large = json.dumps({"prompt": "x" * 1_000_000, "model": MODEL})
    url = f"{haproxy.process.url}/v1/completions"
    json_type = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=json_type) as session:
        async with session.post(url, data=large, headers={"x-model": MODEL}) as answer:
            assert answer.status == 200
        async with session.post(url, data=large) as answer:
            assert answer.status == 404
            assert "x-model" in await answer.text()


async def test_the_shipped_configuration_exports_its_figures(haproxy: Balancing) -> None:
    assert isinstance(haproxy.process, HaproxyProcess)
    url = f"http://127.0.0.1:{haproxy.process.metrics_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        page = await answer.text()

    assert f'haproxy_backend_current_queue{{proxy="{BACKEND}"}}' in page


async def test_with_neither_node_nor_activator_the_client_is_told_when_to_try_again(
    haproxy: Balancing,
) -> None:
    await haproxy.activator.stop()
    url = f"{haproxy.process.url}/v1/completions"

    async with aiohttp.ClientSession() as session, session.post(url, json={"model": MODEL}) as got:
        assert (got.status, got.headers["Retry-After"]) == (503, "60")


# what a socket in HAProxy's place answers

_STATE = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight"
_STATE += " srv_iweight srv_time_since_last_change srv_check_status srv_check_result"
_STATE += " srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id"
_STATE += " srv_fqdn srv_port"
_COLUMNS = "pxname,svname,qcur,scur,slim,stot,econ,eresp,wretr,wredis,status,weight,bck,lastchg"
_COLUMNS += ",rate,check_status,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,req_tot"
_COLUMNS += ",qtime,ctime,rtime,ttime,addr"


def tables(*states: str) -> Callable[[str], str | None]:
    """Answer like a HAProxy that says OK to every change and makes none."""

    def answer(command: str) -> str | None:
        if command.startswith("show servers state"):
            rows = "".join(f"{state} 0 0 0 - 9\n" for state in states)
            return f"1\n{_STATE}\n{rows}\n"
        if command.startswith("show stat"):
            names = [state.split()[3] for state in states]
            rows = "".join(
                f"{BACKEND},{name},0,0,7,0,0,0,0,0,UP,50,0,9,0,L7OK" + ",0" * 11 + ",\n"
                for name in names
            )
            backend = f"{BACKEND},BACKEND,0,0,,0,0,0,0,0,UP,1,0,9,0," + ",0" * 11 + ",\n"
            return f"# {_COLUMNS}\n{rows}{backend}\n"
        return "New server registered.\n" if command.startswith("add ") else "\n"

    return answer
