"""What we did not add is never touched: servers in our backends, and backends of which we know nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from autoscaler.balance.group import BalancerGroup
from autoscaler.balance.haproxy_socket import ServerRow, StatRow, ask, show_servers_state, show_stat
from autoscaler.balance.protocol import Pool
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import Endpoint, State
from tests.balance.parts import Balancing, HaproxyProcess, NewServer, StartHaproxy, endpoint_of
from tests.balance.test_balance_group import Shelf
from tests.balance.test_balance_presence import a_node

MODEL = ModelName("Qwen/Qwen3-8B")
OURS, THEIRS = "qwen-qwen3-8b", "accounting"
PASSES = 100


async def test_a_hundred_passes_and_a_reload_leave_foreign_servers_as_they_were(
    start_haproxy: StartHaproxy, new_server: NewServer
) -> None:
    foreign = (await new_server()).url.removeprefix("http://")
    haproxy = await _with_foreign_servers(start_haproxy, foreign)
    group = BalancerGroup([haproxy.balancer], time.monotonic)
    servers = [await new_server() for _ in range(3)]
    before = await _foreign(haproxy.control)

    for number in range(PASSES):
        if number == PASSES // 2:
            assert await _foreign(haproxy.control) == before
            assert isinstance(haproxy.process, HaproxyProcess)
            await haproxy.process.forget()
            await _arrange(haproxy.control)
            before = await _foreign(haproxy.control)
        endpoint = endpoint_of(servers[number % 3], f"n{number // 3}")
        await _pass(group, endpoint, number % 3)

    assert await _foreign(haproxy.control) == before
    names = {name for _, name in before[0]}
    assert {"legacy", "drained", "as", "asx-mine", "batch-1", "batch-2"} <= names
    await haproxy.balancer.drop_pool(MODEL)
    assert await _foreign(haproxy.control) == before


async def _pass(group: BalancerGroup, endpoint: Endpoint, turn: int) -> None:
    """What one round does to a balancer: a node comes, drains or goes, and all is held against the rows."""
    node = replace(
        a_node("one", (State.READY, State.DRAINING, State.GONE)[turn]),
        name=NodeName(endpoint.id),
        model=MODEL,
        endpoints=(endpoint,),
    )
    await group.ensure_pool(Pool(MODEL))
    match turn:
        case 0:
            await group.register(node)
        case 1:
            await group.register(node)
            await group.drain(node)
        case _:
            await group.register(node)
            await group.remove(node, force=True)
    await group.welcome([MODEL], Shelf(node))


async def _with_foreign_servers(start_haproxy: StartHaproxy, address: str) -> Balancing:
    """The shipped configuration with an operator's own servers, some named almost as ours are."""
    spare = "    server activator-spare 127.0.0.1:8000 backup\n"
    haproxy = await start_haproxy(
        (
            spare,
            f"{spare}    server legacy {address} weight 7 maxconn 5\n"
            f"    server drained {address} weight 3\n    server as {address} backup\n"
            f"    server asx-mine {address} disabled\n",
        ),
        (
            "backend activator-only\n",
            f"backend {THEIRS}\n    server batch-1 {address} check inter 10m weight 9\n"
            f"    server batch-2 {address} disabled\n\nbackend activator-only\n",
        ),
    )
    await _arrange(haproxy.control)
    return haproxy


async def _arrange(control: Path) -> None:
    """What the operator did at run time; the next reload forgets it."""
    await ask(control, f"set server {OURS}/drained state drain")
    await ask(control, f"set server {THEIRS}/batch-1 weight 5")


Foreign = tuple[dict[tuple[str, str], ServerRow], dict[tuple[str, str], StatRow]]


async def _foreign(control: Path) -> Foreign:
    """Both tables' rows of all that is not ours, without what changes by itself."""
    states = {
        (backend, row.server): row
        for backend in (OURS, THEIRS, "activator-only")
        for row in await show_servers_state(control, backend) or []
        if not row.server.startswith("as-")
    }
    stats = {
        (row.proxy, row.server): replace(row, last_change_s=0, check_status="", ttime_ms=0)
        for row in await show_stat(control)
        if not row.server.startswith("as-")
        and (row.proxy in (THEIRS, "activator-only") or (row.proxy, row.server) in states)
        and not row.server.startswith("activator")  # a drain turns it off and on
    }
    return states, stats
