"""The control API: JSON over a Unix socket, for the daemon alone.

Each change may be repeated. An error is `{"error": {"message": …}}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from autoscaler.tunnels.schema import TunnelBody, TunnelName
from autoscaler.tunnels.state_file import StateFile
from autoscaler.tunnels.tunnel import TunnelReport
from autoscaler.tunnels.tunnels import NoPortLeft, OtherSpec, Tunnels

_MAX_BODY_BYTES = 64 * 1024
_Body = TypeVar("_Body", bound=BaseModel)


class _Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(eq=False, slots=True)
class Control:
    """Answers the daemon."""

    tunnels: Tunnels
    state_file: StateFile

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_errors], client_max_size=_MAX_BODY_BYTES)
        app.router.add_get("/health", _health)
        app.router.add_get("/v1/tunnels", self.listing)
        app.router.add_post("/v1/tunnels/put", self.put)
        app.router.add_post("/v1/tunnels/remove", self.remove)
        return app

    async def listing(self, _request: web.Request) -> web.Response:
        return _json(
            {
                "boot_id": self.tunnels.boot_id,
                "state_file_behind": self.state_file.is_behind,
                "tunnels": [_shown(report) for report in self.tunnels.report()],
            }
        )

    async def put(self, request: web.Request) -> web.Response:
        asked = await _read(request, TunnelBody)
        try:
            tunnel = self.tunnels.put(asked.value(), asked.local_port)
        except OtherSpec as exc:
            raise _Refusal(409, f"{exc}; remove it first") from exc
        except NoPortLeft as exc:
            raise _Refusal(507, str(exc)) from exc
        is_kept = await self.state_file.keep()
        return _json({"persisted": is_kept, "tunnel": _shown(tunnel.report())})

    async def remove(self, request: web.Request) -> web.Response:
        asked = await _read(request, TunnelName)
        cut = self.tunnels.remove(asked.id)
        return _json({"persisted": await self.state_file.keep(), "streams_cut": cut})


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Refusal as refusal:
        return _json({"error": {"message": str(refusal)}}, refusal.status)
    except web.HTTPException as exc:
        return _json({"error": {"message": exc.reason}}, exc.status)


async def _health(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _read(request: web.Request, kind: type[_Body]) -> _Body:
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as exc:
        named = "; ".join(
            f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False, include_context=False)
        )
        raise _Refusal(400, f"the body is wrong: {named}") from exc


def _shown(report: TunnelReport) -> dict[str, object]:
    spec = report.spec
    return {
        "id": spec.id,
        "address": spec.login.address,
        "port": spec.login.port,
        "user": spec.login.user,
        "host_key": spec.login.host_key,
        "remote_port": spec.remote_port,
        "local_port": report.local_port,
        "state": report.state,
        "why": report.why,
        "streams": report.streams,
    }


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")
