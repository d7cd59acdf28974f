"""A scripted mkinf on loopback: the network's edge, so that every byte of an answer can be chosen."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from aiohttp import web

from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.credentials import Credential

KEY = "canary-access-key-1f7c"
PROJECT = "4b1e7f80-7c53-4c43-8f0e-2a4d0c0f2b02"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: object


@dataclass
class ScriptedMkinf:
    """Answers each path from its script, in order; the last answer is repeated."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    _scripts: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)

    def on(self, call: str, *answers: object, status: int = 200, **headers: str) -> None:
        """Script a call such as `GET P/vms`: JSON values, bytes or handlers, one per request."""
        method, path = call.split()
        path = "/v0.1" + path.replace("P/", f"/projects/{PROJECT}/", 1).replace("//", "/")
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._scripts[method, path] = [_answer(each, status, names) for each in answers]

    def calls(self, call: str) -> list[Seen]:
        method, path = call.split()
        path = "/v0.1" + path.replace("P/", f"/projects/{PROJECT}/", 1).replace("//", "/")
        return [each for each in self.seen if (each.method, each.path) == (method, path)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.seen.append(
            Seen(
                request.method,
                request.path,
                dict(request.query),
                dict(request.headers),
                json.loads(text) if text else None,
            )
        )
        script = self._scripts.get((request.method, request.path))
        if script is None:
            return web.json_response({"status": 501, "message": "Not Implemented"}, status=501)
        answer = script.pop(0) if len(script) > 1 else script[0]
        return await answer(request)


def _answer(content: object, status: int, headers: dict[str, str]) -> Answer:
    if callable(content):
        return content

    async def answer(_: web.Request) -> web.StreamResponse:
        if isinstance(content, bytes):
            return web.Response(body=content, status=status, headers=headers)
        return web.json_response(content, status=status, headers=headers)

    return answer


def status(code: int, content: object = None, **headers: str) -> Answer:
    """Answer with a status of its own."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return _answer(content if content is not None else {"message": "no"}, code, names)


async def cut(request: web.Request) -> web.StreamResponse:
    """Take the request and drop the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def serve(
    app: web.Application, tls: ssl.SSLContext | None = None
) -> tuple[web.AppRunner, int]:
    """Serve on a free loopback port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port: int = runner.addresses[0][1]
    return runner, port


class FastClock:
    """The machine's clock, except that waiting takes no time and is written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def boot_s(self) -> float:
        return time.monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Connect(Protocol):
    """Makes a client of the scripted server."""

    def __call__(
        self, credential: Credential | None = None, **settings: Any
    ) -> MkinfClient: ...  # Any: whatever MkinfSettings takes
