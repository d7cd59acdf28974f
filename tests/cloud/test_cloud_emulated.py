"""Whether an endpoint is the emulator is asked of the endpoint, without the key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from autoscaler.cloud.mkinf.emulated import why_no_emulator
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.errors import CloudUnavailable

Serve = Callable[[web.Response], Awaitable[MkinfSettings]]
HEALTH = {"status": "ok", "now": "2026-11-23T00:00:00Z", "time_factor": 100, "project_id": "p"}

seen: list[web.Request] = []


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(answer: web.Response) -> MkinfSettings:
            async def handle(request: web.Request) -> web.Response:
                seen.append(request)
                return answer

            seen.clear()
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handle)
            server = await stack.enter_async_context(TestServer(app))
            return MkinfSettings(url=str(server.make_url("/v0.1")))

        yield start


async def test_the_emulators_health_page_is_known_and_the_key_is_not_shown(serve: Serve) -> None:
    settings = await serve(web.json_response(HEALTH))

    assert await why_no_emulator(settings) is None

    (request,) = seen
    assert request.path == "/_emulator/health"
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("status", [302, 401, 403, 404])
async def test_a_cloud_that_has_no_such_page_is_no_emulator(serve: Serve, status: int) -> None:
    settings = await serve(web.Response(status=status))

    assert f"answered by {status}" in (await why_no_emulator(settings) or "")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"status": "ok"}', b"\xff", b""])
async def test_a_page_of_another_program_is_no_emulators(serve: Serve, body: bytes) -> None:
    settings = await serve(web.Response(body=body))

    assert "another program" in (await why_no_emulator(settings) or "")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_trouble_says_neither(serve: Serve, status: int) -> None:
    settings = await serve(web.Response(status=status))

    with pytest.raises(CloudUnavailable, match=str(status)):
        await why_no_emulator(settings)


async def test_nobody_says_neither() -> None:
    with pytest.raises(CloudUnavailable):
        await why_no_emulator(MkinfSettings(url="http://127.0.0.1:9/v0.1"))
