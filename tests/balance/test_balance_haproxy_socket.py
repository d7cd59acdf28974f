"""The runtime API's edge: whatever answers there, we understand it or say that we don't."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.balance import haproxy_channel
from autoscaler.balance.haproxy_socket import (
    ServerRow,
    ask,
    backend_name,
    count_old_processes,
    find_row,
    server_name,
    show_info,
    show_servers_state,
    show_stat,
)
from autoscaler.errors import BalancerUnavailable
from tests.balance.parts import NewServer, StartFake, StartHaproxy, endpoint_of

SHORT = timedelta(seconds=0.1)
BACKEND = "qwen-qwen3-8b"


async def test_all_of_a_real_page_is_read(
    start_haproxy: StartHaproxy, new_server: NewServer
) -> None:
    haproxy = await start_haproxy()
    endpoint = endpoint_of(await new_server(), "one", capacity=7, weight=50)
    await haproxy.serve(endpoint)
    assert (await haproxy.clients.ask()).is_whole
    assert (await haproxy.clients.ask(model="nobody")).status == 404

    rows = await show_stat(haproxy.control)

    frontend = next(row for row in rows if row.proxy == "models" and row.is_frontend)
    backend = next(row for row in rows if row.proxy == BACKEND and row.is_backend)
    server = find_row([row for row in rows if row.proxy == BACKEND], f"as-{endpoint.id}")
    activator = find_row(rows, "activator-spare")
    assert (frontend.req_tot, frontend.hrsp_2xx, frontend.hrsp_4xx) == (2, 1, 1)
    assert (backend.stot, backend.hrsp_2xx, backend.scur, backend.qcur) == (1, 1, 0, 0)
    assert server is not None
    assert (server.slim, server.weight, server.stot, server.status) == (7, 50, 1, "UP")
    assert server.check_status == "L7OK"
    assert server.ttime_ms >= server.rtime_ms >= 0
    assert server.address == endpoint.url.removeprefix("http://")
    assert activator is not None
    assert activator.is_backup
    assert (activator.slim, activator.status) == (None, "no check")
    assert len([row for row in rows if row.proxy == BACKEND]) == 4


async def test_one_backend_can_be_asked_for_and_an_unknown_one_is_empty(
    start_haproxy: StartHaproxy,
) -> None:
    haproxy = await start_haproxy()

    assert {row.proxy for row in await show_stat(haproxy.control, BACKEND)} == {BACKEND}
    assert await show_stat(haproxy.control, "nobody") == []
    assert await show_servers_state(haproxy.control, "nobody") is None


async def test_a_socket_without_admin_level_names_the_missing_word(
    start_haproxy: StartHaproxy,
) -> None:
    haproxy = await start_haproxy(("level admin expose-fd listeners", "level user"))

    with pytest.raises(BalancerUnavailable, match="level admin"):
        await ask(haproxy.control, f"set server {BACKEND}/activator state ready")


async def test_a_path_where_nobody_listens_is_named(folder: Path) -> None:
    with pytest.raises(BalancerUnavailable, match="No such file or directory") as raised:
        await show_info(folder / "nobody.sock")

    assert str(folder / "nobody.sock") in str(raised.value)


async def test_a_socket_whose_process_is_gone_is_unavailable(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "left.sock"))

    with pytest.raises(BalancerUnavailable, match="Connection refused"):
        await show_info(folder / "left.sock")


async def test_silence_ends_at_the_deadline(fake_socket: StartFake) -> None:
    fake = await fake_socket(lambda _command: None)

    with pytest.raises(BalancerUnavailable, match=r"did not answer on .* within 0\.1 s"):
        await show_stat(fake.path, timeout=SHORT)


async def test_an_answer_without_end_is_cut_at_the_limit(
    fake_socket: StartFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy_channel, "ANSWER_LIMIT", 100_000)
    fake = await fake_socket(lambda _command: "x" * 1_000_000)

    with pytest.raises(BalancerUnavailable, match="more than 100000 bytes"):
        await show_stat(fake.path)


@pytest.mark.parametrize(
    "page",
    [
        "",
        "\x00\xff",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "# pxname,svname,\nm,one,\n",
        "# pxname,svname,qcur\nm,one,many\n",
        "1\n# be_id be_name srv_id srv_name\n3 m 1 one\n",
        "1\n# be_id be_name\n\n\n",
        "1\n",
        "Pid: one\nUptime_sec: 3\n",
        "Pid 1",
    ],
)
async def test_a_page_that_is_not_haproxys_is_refused(fake_socket: StartFake, page: str) -> None:
    fake = await fake_socket(lambda _command: page)

    for call in (show_stat(fake.path), show_info(fake.path), count_old_processes(fake.path)):
        with pytest.raises(BalancerUnavailable, match="no table of HAProxy's"):
            await call
    if not page.startswith("1\n# be_id be_name\n"):
        with pytest.raises(BalancerUnavailable, match="no table of HAProxy's"):
            await show_servers_state(fake.path, BACKEND)


async def test_only_workers_that_a_reload_left_behind_are_counted(fake_socket: StartFake) -> None:
    fake = await fake_socket(
        lambda _command: (
            "#<PID>  <type>  <reloads>  <uptime>  <version>\n"
            "1  master  2 [failed: 0]  0d00h01m28s  2.6.12\n"
            "# workers\n9  worker  0  0d00h00m00s  2.6.12\n"
            "# old workers\n7  worker  1  0d00h00m59s  2.6.12\n5  worker  2  0d00h01m28s  2.6.12\n"
            "# programs\n\n"
        )
    )

    assert await count_old_processes(fake.path) == 2


@pytest.mark.parametrize(
    ("admin_state", "is_in_maintenance", "takes_requests"),
    [(0, False, True), (1, True, False), (8, False, False), (9, True, False), (32, True, False)],
)
def test_the_bits_of_the_administrative_state_are_told_apart(
    admin_state: int, is_in_maintenance: bool, takes_requests: bool
) -> None:
    row = ServerRow("m", "one", 2, admin_state, 1, True, "127.0.0.1", 80)

    assert row.is_in_maintenance is is_in_maintenance
    assert row.takes_requests is takes_requests


@given(st.text(max_size=40))
def test_a_name_that_passes_is_one_word_of_a_command(text: str) -> None:
    for check in (server_name, backend_name):
        try:
            passed = check(text)
        except ValueError:
            continue
        assert passed == text
        assert passed.split() == [text]
        assert not set(text) & set(";\\\"'#/ \t\r\n")


async def test_more_askers_than_haproxy_takes_wait_for_their_turn(
    start_haproxy: StartHaproxy,
) -> None:
    haproxy = await start_haproxy(("    stats maxconn 100\n", "    stats maxconn 2\n"))

    pages = await asyncio.gather(*(show_stat(haproxy.control, BACKEND) for _ in range(60)))

    assert all(len(page) == 3 for page in pages)
