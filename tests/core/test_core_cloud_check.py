"""An endpoint on loopback is taken for an emulator by the file, and looked at by the daemon: it may be a tunnel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from autoscaler.cloud.mkinf.connect import settings_of
from autoscaler.cloud.mkinf.emulated import why_no_emulator
from autoscaler.cloud_check import CloudCheck
from autoscaler.config import Config
from autoscaler.errors import ConfigError
from autoscaler.health import Health
from autoscaler.policies import PolicyBook
from autoscaler.store.sqlite import SqliteStore
from tests.nodes.life_parts import AirCloud, HandClock, open_store

POLICY = 'schema = 1\nmodel = "org/chat"\nengine = "vllm"\n'
FIT: Mapping[str, Any] = {  # tables of a config file
    "limits": {"usd_per_hour": "5", "usd_per_month": "600", "nodes": 4},
    "firewall": {"sources": ["198.51.100.7/32"]},
}


@dataclass
class Endpoint:
    """Somebody at the other end of the tunnel."""

    answers: list[int] = field(default_factory=list)  # its statuses, the last one for ever
    asked: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.json_response({"time_factor": 1, "project_id": "p"}, status=status)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    there = Endpoint()
    app = web.Application()
    app.router.add_get("/_emulator/health", there.handle)
    async with TestServer(app) as server:
        there.url = str(server.make_url("/v0.1"))
        yield there


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = open_store(tmp_path)
    yield store
    await store.close()


def a_check(
    directory: Path, url: str, store: SqliteStore, policy: str = POLICY, **tables: object
) -> CloudCheck:
    (directory / "chat.toml").write_text(policy)
    cloud = {"owner": "abcdefgh", "key_file": "key", "url": url}
    config = Config.model_validate({"schema": 1, "cloud": cloud, "policies": directory, **tables})
    book = PolicyBook(directory)
    book.load()
    clock = HandClock()
    return CloudCheck(
        config=config,
        book=book,
        cloud=AirCloud(clock),
        why_no_emulator=lambda: why_no_emulator(settings_of(config.cloud)),
        store=store,
        clock=clock,
        health=Health(),
        done=lambda: None,
    )


async def test_a_tunnel_with_a_demos_durations_and_no_limits_is_refused_with_every_mistake(
    tmp_path: Path, endpoint: Endpoint, store: SqliteStore
) -> None:
    endpoint.answers = [404]
    fast = POLICY + '[scaling]\nstabilization = "2s"\n'
    check = a_check(tmp_path, endpoint.url, store, fast, timings={"sweep": "1s"})

    with pytest.raises(ConfigError) as refused:
        await check.run()

    said = str(refused.value)
    assert f"cloud.url: found {endpoint.url}, where no emulator answers" in said
    assert "GET /_emulator/health is answered by 404" in said
    assert "timings.sweep: found 1s, the least is 30s" in said
    assert "limits.usd_per_hour is missing" in said
    assert "limits.usd_per_month is missing" in said
    assert "policy of org/chat: scaling.stabilization: found 2s, the least is 1m" in said
    assert not check.known.is_set()
    assert not check.health.project_checked


async def test_a_tunnel_with_a_config_for_a_real_cloud_is_used_and_policies_get_floors(
    tmp_path: Path, endpoint: Endpoint, store: SqliteStore
) -> None:
    endpoint.answers = [404]
    check = a_check(tmp_path, endpoint.url, store, **FIT)

    await check.run()
    (tmp_path / "chat.toml").write_text(POLICY + '[scaling]\nstabilization = "2s"\n')
    change = check.book.reload()

    assert check.known.is_set()
    assert check.health.project_checked
    assert "scaling.stabilization: found 2s, the least is 1m" in (change.error or "")


async def test_the_emulator_may_be_fast(
    tmp_path: Path, endpoint: Endpoint, store: SqliteStore
) -> None:
    endpoint.answers = [200]
    check = a_check(tmp_path, endpoint.url, store, timings={"sweep": "1s"})

    await check.run()

    assert check.known.is_set()
    assert check.health.project_checked


async def test_an_endpoint_in_trouble_is_asked_until_it_says_what_it_is(
    tmp_path: Path, endpoint: Endpoint, store: SqliteStore
) -> None:
    endpoint.answers = [503, 429, 502, 200]
    check = a_check(tmp_path, endpoint.url, store, timings={"sweep": "1s"})

    async with asyncio.timeout(30):
        await check.run()

    assert endpoint.asked == 4
    assert check.known.is_set()


async def test_a_cloud_that_is_not_on_loopback_is_not_asked(
    tmp_path: Path, endpoint: Endpoint, store: SqliteStore
) -> None:
    check = a_check(tmp_path, "https://api.example.com/v0.1", store, **FIT)

    await check.run()

    assert check.known.is_set()
    assert endpoint.asked == 0
