"""What a policy says of waiting and routing reaches the real gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.protocol import Affinity, Pool
from autoscaler.domain.ids import ModelName
from tests.balance.parts import GatewayProcess

MODEL = ModelName("Qwen/Qwen3-8B")


@pytest.fixture
async def process(folder: Path) -> AsyncIterator[GatewayProcess]:
    started = GatewayProcess(folder)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def balancer(process: GatewayProcess) -> AsyncIterator[GatewayBalancer]:
    made = GatewayBalancer(process.control)
    yield made
    await made.close()


async def pool_at(process: GatewayProcess) -> dict[str, Any]:
    connector = aiohttp.UnixConnector(str(process.control))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://gateway/v1/state") as answer,
    ):
        pool: dict[str, Any] = (await answer.json())["pools"][MODEL]
        return pool


async def test_comments_and_affinity_reach_the_gateway_and_leave_it_again(
    process: GatewayProcess, balancer: GatewayBalancer
) -> None:
    affinity = Affinity(header="X-Session-Id", prompt_chars=500, bound=1.5)
    await balancer.ensure_pool(Pool(MODEL, sse_comments=timedelta(seconds=10), affinity=affinity))
    with_both = await pool_at(process)
    await balancer.ensure_pool(Pool(MODEL))
    without = await pool_at(process)

    assert with_both["sse_comment_s"] == 10
    assert with_both["affinity"] == {"header": "x-session-id", "prompt_chars": 500, "bound": 1.5}
    assert (without["sse_comment_s"], without["affinity"]) == (0, None)


async def test_what_the_engines_take_reaches_the_gateway(
    process: GatewayProcess, balancer: GatewayBalancer
) -> None:
    await balancer.ensure_pool(Pool(MODEL, max_model_len=8192))

    assert (await pool_at(process))["max_model_len"] == 8192


async def test_the_time_to_readiness_counts_down_at_the_gateway(
    process: GatewayProcess, balancer: GatewayBalancer
) -> None:
    await balancer.ensure_pool(Pool(MODEL))
    unknown = (await pool_at(process))["expected_in_s"]
    await balancer.ensure_pool(Pool(MODEL, ready_in=timedelta(minutes=4)))
    first = (await pool_at(process))["expected_in_s"]
    later = (await pool_at(process))["expected_in_s"]

    assert unknown is None
    assert 0 < later < first < 240
