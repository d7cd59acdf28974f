"""Requests that wait: for the first node, for a free place, for too long."""

from __future__ import annotations

import asyncio
import json
from typing import Any

MODEL = "org/chat-8b"


async def test_fifty_requests_held_at_zero_are_served_when_an_endpoint_is_added(
    gateway: Any, engine: Any
) -> None:
    asked = [asyncio.create_task(gateway.chat(stream=True)) for _ in range(50)]
    await gateway.until(lambda pool: pool["waiting"] == 50)

    engine.gate.clear()
    await gateway.add("a", engine.url, max_inflight=8)
    await gateway.until(lambda pool: pool["running"] == 8 and pool["waiting"] == 42)
    engine.gate.set()

    answers = await asyncio.gather(*asked)
    assert [status for status, _, _ in answers] == [200] * 50
    assert all(body.endswith(b"data: [DONE]\n\n") for _, body, _ in answers)
    assert all(headers["x-autoscaler-cold-start"] == "1" for _, _, headers in answers)
    assert all(int(headers["x-autoscaler-held-ms"]) >= 0 for _, _, headers in answers)
    assert engine.most_running == 8


async def test_a_request_that_never_waited_carries_no_cold_start_header(
    gateway: Any, engine: Any
) -> None:
    await gateway.add("a", engine.url)

    _, _, headers = await gateway.chat()

    assert "x-autoscaler-cold-start" not in headers
    assert "x-autoscaler-held-ms" not in headers


async def test_beyond_the_hold_bound_the_answer_is_503_with_retry_after(gateway: Any) -> None:
    await gateway.pool(
        hold={"max_requests": 2, "max_bytes": 10000, "max_wait_s": 60}, retry_after_s=137.2
    )
    held = [asyncio.create_task(gateway.chat()) for _ in range(2)]
    await gateway.until(lambda pool: pool["waiting"] == 2)

    status, body, headers = await gateway.chat()

    assert status == 503
    assert headers["retry-after"] == "138"
    assert json.loads(body)["error"]["code"] == "hold_requests"
    for task in held:
        task.cancel()
    await gateway.until(lambda pool: pool["waiting"] == 0 and pool["waiting_bytes"] == 0)
