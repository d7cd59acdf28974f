"""The daemon's side: pools, endpoints, drains, waking up, and what errors say."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import Any

import pytest

from autoscaler.errors import ConfigError

MODEL = "org/chat-8b"


async def test_every_change_may_be_repeated_and_counts_once(gateway: Any, engine: Any) -> None:
    first = await gateway.tell("endpoints/add", model=MODEL, id="a", url=engine.url, weight=2)
    again = await gateway.tell("endpoints/add", model=MODEL, id="a", url=engine.url, weight=2)
    drained = await gateway.tell("endpoints/drain", model=MODEL, id="a")
    redrained = await gateway.tell("endpoints/drain", model=MODEL, id="a")
    await gateway.tell("endpoints/remove", model=MODEL, id="a")
    removed = await gateway.tell("endpoints/remove", model=MODEL, id="a")

    assert first["generation"] == again["generation"]
    assert drained["generation"] == redrained["generation"] == first["generation"] + 1
    assert drained["pool"]["endpoints"]["a"]["state"] == "draining"
    assert removed["pool"]["endpoints"] == {}


async def test_a_drained_endpoint_finishes_its_streams_and_takes_no_new_request(
    gateway: Any, engines: Any
) -> None:
    old, new = await engines(), await engines()
    old.gate.clear()
    await gateway.add("old", old.url)
    streams = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(4)]
    await gateway.until(lambda pool: pool["endpoints"]["old"]["in_flight"] == 4)
    await gateway.add("new", new.url)

    await gateway.tell("endpoints/drain", model=MODEL, id="old")
    await asyncio.gather(*(gateway.chat() for _ in range(6)))
    during = (await gateway.pool_state())["endpoints"]["old"]
    refused = await gateway.tell("endpoints/remove", 409, model=MODEL, id="old")
    old.gate.set()
    answers = await asyncio.gather(*streams)
    after = await gateway.until(lambda pool: pool["endpoints"]["old"]["in_flight"] == 0)

    assert during["in_flight"] == 4
    assert during["drained_at"] is None
    assert "4 requests in flight" in refused["error"]["message"]
    assert all(body.endswith(b"[DONE]\n\n") for _, body, _ in answers)
    assert len(old.bodies) == 4
    assert after["endpoints"]["old"]["drained_at"] is not None


async def test_adding_a_draining_endpoint_again_makes_it_active(gateway: Any, engine: Any) -> None:
    await gateway.add("a", engine.url)
    await gateway.tell("endpoints/drain", model=MODEL, id="a")

    await gateway.add("a", engine.url)

    state = (await gateway.pool_state())["endpoints"]["a"]
    assert state["state"] == "active"
    assert state["drained_at"] is None
    assert (await gateway.chat())[0] == 200


async def test_an_endpoint_is_not_moved_while_it_serves(gateway: Any, engines: Any) -> None:
    one, two = await engines(), await engines()
    one.gate.clear()
    await gateway.add("a", one.url)
    asked = asyncio.create_task(gateway.chat())
    await gateway.until(lambda pool: pool["running"] == 1)

    refused = await gateway.tell("endpoints/add", 409, model=MODEL, id="a", url=two.url)
    one.gate.set()
    await asked

    assert "url" in refused["error"]["fields"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("pools/put", {}, "model"),
        ("pools/put", {"model": "m", "hold": {"max_requests": -1}}, "hold.max_requests"),
        ("pools/put", {"model": "m", "retry_after_s": "soon"}, "retry_after_s"),
        ("pools/put", {"model": "m", "wieght": 1}, "wieght"),
        ("pools/put", {"model": "m\n"}, "model"),
        ("endpoints/add", {"model": MODEL, "id": "a"}, "url"),
        ("endpoints/add", {"model": MODEL, "id": "a", "url": "ftp://h:1"}, "url"),
        ("endpoints/add", {"model": MODEL, "id": "a", "url": "http://u:p@h:1"}, "url"),
        ("endpoints/add", {"model": MODEL, "id": "a", "url": "http://169.254.169.254"}, "url"),
        ("endpoints/add", {"model": MODEL, "id": "a", "url": "http://h:99999"}, "url"),
        ("endpoints/add", {"model": MODEL, "id": "a", "url": "http://h", "weight": 0}, "weight"),
        ("wait", {"timeout_s": 1e9}, "timeout_s"),
    ],
)
async def test_a_wrong_request_is_refused_with_the_field_that_is_wrong(
    gateway: Any, path: str, body: dict[str, Any], field: str
) -> None:
    refused = await gateway.tell(path, 400, **body)

    assert field in refused["error"]["fields"]
    assert field in refused["error"]["message"]


async def test_unknown_pools_and_endpoints_are_404(gateway: Any) -> None:
    await gateway.tell("endpoints/add", 404, model="nope", id="a", url="http://127.0.0.1:1")
    await gateway.tell("endpoints/drain", 404, model=MODEL, id="nope")
    await gateway.tell("nope", 404)


async def test_one_name_belongs_to_one_pool(gateway: Any) -> None:
    await gateway.pool(aliases=["fast"])

    await gateway.tell("pools/put", 409, model="fast")
    await gateway.tell("pools/put", 409, model="other", aliases=[MODEL])
    await gateway.pool(aliases=[])
    await gateway.tell("pools/put", 200, model="fast")


async def test_a_pool_in_use_is_removed_only_by_force_and_then_refuses_who_waits(
    gateway: Any,
) -> None:
    asked = asyncio.create_task(gateway.chat())
    await gateway.until(lambda pool: pool["waiting"] == 1)

    await gateway.tell("pools/remove", 409, model=MODEL)
    await gateway.tell("pools/remove", 200, model=MODEL, force=True)

    assert (await asked)[0] == 503
    assert (await gateway.chat())[0] == 404


async def test_a_waiting_daemon_is_told_at_once_of_a_request_at_zero(gateway: Any) -> None:
    before = (await gateway.ask("state"))["generation"]
    told = asyncio.create_task(gateway.tell("wait", generation=before, timeout_s=20, model=MODEL))
    asked = asyncio.create_task(gateway.chat())

    async with asyncio.timeout(5):
        answer = await told

    assert answer["models"] == {MODEL: 1}
    assert answer["generation"] > before
    quiet = await gateway.tell("wait", generation=answer["generation"], timeout_s=0.05)
    assert quiet["models"] == {}
    asked.cancel()


async def test_a_daemon_that_knew_another_boot_is_answered_at_once(gateway: Any) -> None:
    async with asyncio.timeout(5):
        answer = await gateway.tell("wait", generation=10**9, boot_id="old", timeout_s=60)

    assert answer["boot_id"] == (await gateway.ask("state"))["boot_id"]


async def test_the_control_socket_is_for_owner_and_group_only(settings: Any, start: Any) -> None:
    async with start():
        mode = stat.S_IMODE(os.stat(settings.control).st_mode)
    assert mode == 0o660
    assert not settings.control.exists()


async def test_a_stale_control_socket_is_replaced_and_a_living_one_is_not(
    settings: Any, start: Any, dead_socket: None
) -> None:
    async with start():
        with pytest.raises(ConfigError, match="already serves"):
            async with start():
                pass


async def test_a_port_in_use_is_named_with_a_remedy(
    gateway: Any, start: Any, tmp_path: Any
) -> None:
    address = gateway.gateway.addresses[0]

    with pytest.raises(ConfigError, match=f"{address[1]}.*choose another"):
        async with start(listen=(address,), control=tmp_path / "other.sock"):
            pass


async def test_two_gateways_share_a_port_with_reuse_port(start: Any, tmp_path: Any) -> None:
    async with start(reuse_port=True, state_file=None) as one:
        address = one.gateway.addresses[0]
        other = tmp_path / "other.sock"
        async with start(reuse_port=True, listen=(address,), control=other, state_file=None) as two:
            assert two.gateway.addresses == [address]
