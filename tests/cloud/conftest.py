"""Fixtures: a scripted mkinf, a clock that does not wait, and clients of both."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.credentials import AccessKey, Credential
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.secret import Secret
from tests.cloud.scripted import KEY, PROJECT, Connect, FastClock, ScriptedMkinf, serve


@pytest.fixture
async def mkinf() -> AsyncIterator[ScriptedMkinf]:
    scripted = ScriptedMkinf()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    runner, port = await serve(app)
    scripted.url = f"http://127.0.0.1:{port}/v0.1"
    yield scripted
    await runner.cleanup()


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


@pytest.fixture
async def connect(mkinf: ScriptedMkinf, clock: FastClock) -> AsyncIterator[Connect]:
    """Make clients of the scripted server; unhurried ones, since tests send many requests."""
    async with AsyncExitStack() as opened:

        def connect(credential: Credential | None = None, **settings: Any) -> MkinfClient:
            client = MkinfClient(
                MkinfSettings(
                    **{
                        "url": mkinf.url,
                        "project_id": PROJECT,
                        "requests_per_s": 1000,
                        **settings,
                    }
                ),
                credential or AccessKey(Secret(KEY)),
                clock=clock,
                rng=random.Random(7),
            )
            opened.push_async_callback(client.close)
            return client

        yield connect


@pytest.fixture
def client(connect: Connect) -> MkinfClient:
    return connect()
