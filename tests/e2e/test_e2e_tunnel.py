"""A tunnel to a cloud that is no emulator does not get an emulator's freedoms."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from tests.e2e.world import World

pytestmark = pytest.mark.e2e


async def test_a_demos_config_that_points_to_a_tunnel_rents_nothing_and_says_why(
    cloud: World,
) -> None:
    behind = cloud.cloud["url"].removesuffix("/v0.1")
    asked: list[str] = []

    async def forward(request: web.Request) -> web.Response:
        """The emulator's API without the pages of its own, as a real cloud's would be."""
        asked.append(f"{request.method} {request.path}")
        if request.path.startswith("/_emulator"):
            return web.Response(status=404)
        async with (
            ClientSession() as session,
            session.request(
                request.method,
                behind + request.path_qs,
                headers={"Authorization": request.headers["Authorization"]},
                data=await request.read(),
            ) as answer,
        ):
            return web.Response(
                status=answer.status, body=await answer.read(), content_type="application/json"
            )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    async with TestServer(app) as tunnel:
        cloud.config_edits = {"cloud": {"url": str(tunnel.make_url("/v0.1"))}}
        cloud.write_policy(nodes={"min": 1, "max": 2})
        cloud.write_config()
        await cloud.spawn("refused", "run", "--config", "config.toml")

        assert await cloud.exit_code("refused") != 0

    log = cloud.log_of("refused")
    assert "where no emulator answers" in log
    assert "timings.sweep: found 1s, the least is 30s" in log
    assert "scaling.stabilization: found 2s, the least is 1m" in log
    assert "Traceback" not in log
    assert not [call for call in asked if call.startswith(("POST", "DELETE", "PUT"))]
    assert await cloud.created_names() == []
