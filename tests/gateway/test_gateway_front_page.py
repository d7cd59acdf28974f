"""What the metrics page tells of the front door, with few enough series."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import openai
from prometheus_client.parser import text_string_to_metric_families

from autoscaler.gateway.exposition import render
from autoscaler.gateway.front_page import FrontPage
from autoscaler.gateway.pools import Pools
from tests.gateway.front_parts import put, write_keys, write_pair

MODEL = "org/chat-8b"


def samples(page: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("autoscaler_gateway_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


async def test_the_page_tells_of_connections_keys_and_certificate(
    start: Any, engine: Any, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys.toml", ann={"requests_per_minute": 1}, bob={})
    pair = write_pair(tmp_path / "tls")
    async with start(client_keys=tmp_path / "keys.toml", tls=pair) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        base = gateway.url.replace("http://", "https://") + "/v1"
        for key in (keys["ann"], keys["ann"], "wrong"):
            trust = ssl.create_default_context(cafile=str(pair / "fullchain.pem"))
            http = openai.DefaultAsyncHttpxClient(verify=trust)
            async with openai.AsyncOpenAI(
                base_url=base, api_key=key, max_retries=0, http_client=http
            ) as client:
                try:
                    await client.chat.completions.create(model=MODEL, messages=[])
                except openai.APIStatusError as refused:
                    await refused.response.aread()
        put(tmp_path / "keys.toml", b"nonsense")
        await gateway.gateway.door.reload()
        async with gateway.control.get("http://gateway/metrics") as response:
            found = samples(await response.read())
        expires_at = gateway.gateway.door.identity.expires_at

    assert found["key_requests_total", "ann", "admitted"] == 1
    assert found["key_requests_total", "ann", "limited_requests"] == 1
    assert found["key_requests_in_flight", "ann"] == 0
    assert found["key_requests_in_flight", "bob"] == 0
    assert found["unauthorized_requests_total", "invalid_api_key"] == 1
    assert found["certificate_expiry_timestamp_seconds",] == expires_at.timestamp()
    assert found["reload_refused", "client_keys"] == 1
    assert found["reload_refused", "tls"] == 0
    assert found["body_bytes",] == 0
    assert found["tls_handshake_failures_total",] == 0


async def test_many_keys_make_no_more_series_than_a_bound(start: Any, tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml", **{f"k{number:03}": {} for number in range(250)})
    async with start(client_keys=tmp_path / "keys.toml") as gateway:
        door = gateway.gateway.door
        for account in door.admission.accounts.values():
            account.results["admitted"] += 1
        page, _ = render(Pools(asyncio.get_running_loop()), FrontPage(door))

    found = {key: value for key, value in samples(page).items() if key[0] == "key_requests_total"}
    assert len(found) == 201
    assert found["key_requests_total", "(others)", "admitted"] == 50
