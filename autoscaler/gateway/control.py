"""The control API: JSON over a Unix socket, for the daemon alone.

Changes are POSTs with a JSON body, since model names have slashes. Each may be repeated. An error is
`{"error": {"message": …, "fields": {name: reason}}}`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import orjson
import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from autoscaler.gateway import report, schema
from autoscaler.gateway.endpoint import Endpoint
from autoscaler.gateway.exposition import render
from autoscaler.gateway.front_page import FrontPage
from autoscaler.gateway.handover import Handover
from autoscaler.gateway.outlook import Outlook
from autoscaler.gateway.pool import Pool
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.predecessors import Predecessors
from autoscaler.gateway.probe import probe
from autoscaler.gateway.state_file import StateFile
from autoscaler.gateway.upstream import Upstreams

log = structlog.get_logger(__name__)

_MAX_BODY_BYTES = 1024 * 1024
_Body = TypeVar("_Body", bound=BaseModel)


class _Refusal(Exception):
    def __init__(self, status: int, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields or {}


@dataclass(eq=False, slots=True)
class Control:
    """Answers the daemon."""

    pools: Pools
    state_file: StateFile
    handover: Handover
    predecessors: Predecessors
    upstreams: Upstreams
    front: FrontPage | None = None

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_errors], client_max_size=_MAX_BODY_BYTES)
        app.router.add_get("/health", _health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/state", self.state)
        app.router.add_get("/v1/signals", self.signals)
        app.router.add_get("/v1/history", self.history)
        app.router.add_post("/v1/wait", self.wait)
        app.router.add_post("/v1/probe", self.probe)
        app.router.add_post("/v1/pools/put", self.put_pool)
        app.router.add_post("/v1/pools/remove", self.remove_pool)
        app.router.add_post("/v1/pools/expect", self.expect)
        app.router.add_post("/v1/endpoints/add", self.add_endpoint)
        app.router.add_post("/v1/endpoints/drain", self.drain_endpoint)
        app.router.add_post("/v1/endpoints/remove", self.remove_endpoint)
        return app

    def metrics_app(self) -> web.Application:
        """Serve the metrics alone, for a TCP port that Prometheus reaches."""
        app = web.Application(middlewares=[_errors])
        app.router.add_get("/health", _health)
        app.router.add_get("/metrics", self.metrics)
        return app

    # reading

    async def metrics(self, _request: web.Request) -> web.Response:
        body, content_type = render(self.pools, self.front)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def state(self, _request: web.Request) -> web.Response:
        more = {
            "state_file_behind": self.state_file.is_behind,
            "predecessors": self.predecessors.report(),
        }
        return _json(report.state(self.pools) | more)

    async def signals(self, request: web.Request) -> web.Response:
        return _json(report.signals(self.pools, self._asked_pool(request)))

    async def history(self, request: web.Request) -> web.Response:
        text = request.query.get("seconds", "900")
        if not text.isdigit() or not 1 <= int(text) <= 900:
            raise _Refusal(400, "seconds is wrong", {"seconds": "want 1 to 900"})
        return _json(report.history(self.pools, self._asked_pool(request), int(text)))

    async def wait(self, request: web.Request) -> web.Response:
        asked = await _read(request, schema.WaitBody)
        is_other_boot = asked.boot_id not in (None, self.pools.boot_id)
        since = 0 if is_other_boot else asked.generation
        timeout_s = 0.0 if is_other_boot else asked.timeout_s
        fresh = await self.pools.demand_since(since, asked.model, timeout_s)
        return _json(
            {
                "boot_id": self.pools.boot_id,
                "generation": self.pools.generation,
                # one at least: what was refused in vain wants a node all the same
                "models": {pool.settings.model: max(1, pool.waiting) for pool in fresh},
            }
        )

    async def probe(self, request: web.Request) -> web.Response:
        return _json(await probe(self.upstreams, await _read(request, schema.ProbeBody)))

    # changing

    async def put_pool(self, request: web.Request) -> web.Response:
        settings = (await self._change(request, schema.PoolBody)).value()
        known = self.pools.by_model.get(settings.model)
        if known is None or known.settings != settings:
            try:
                known = self.pools.put(settings)
            except ValueError as exc:
                raise _Refusal(409, str(exc), {"aliases": str(exc)}) from exc
            self.pools.note_change()
        return await self._changed(known)

    async def remove_pool(self, request: web.Request) -> web.Response:
        asked = await self._change(request, schema.PoolRemoval)
        pool = self.pools.by_model.get(asked.model)
        if pool is not None:
            busy = pool.in_flight + pool.running_elsewhere + pool.waiting + pool.waiting_elsewhere
            if busy and not asked.force:
                raise _Refusal(409, f"{busy} requests are in the pool", {"model": "busy"})
            self.pools.remove(pool)
            self.pools.note_change()
        return await self._changed(None)

    async def expect(self, request: web.Request) -> web.Response:
        """Take note of an estimate. It is not kept over a restart: the next pass says it anew."""
        asked = await _read(request, schema.ExpectBody)
        now = time.monotonic()
        self._pool(asked.model).expect(
            Outlook(likely_at=now + asked.likely_s, soonest_at=now + asked.soonest_s)
        )
        return _json({"boot_id": self.pools.boot_id, "generation": self.pools.generation})

    async def add_endpoint(self, request: web.Request) -> web.Response:
        asked = await self._change(request, schema.EndpointBody)
        pool = self._pool(asked.model)
        known = pool.endpoints.get(asked.id)
        if known is not None and known.url != asked.url and known.load:
            raise _Refusal(
                409,
                f"endpoint {asked.id!r} has {known.load} requests in flight at {known.url}",
                {"url": "another one, with requests in flight"},
            )
        if known is None or not _is_same(known, asked.value()):
            pool.put_endpoint(asked.value())
            self.pools.note_change()
            log.info("endpoint_added", model=asked.model, endpoint=asked.id)
        return await self._changed(pool)

    async def drain_endpoint(self, request: web.Request) -> web.Response:
        asked = await self._change(request, schema.EndpointName)
        pool = self._pool(asked.model)
        endpoint = pool.endpoints.get(asked.id)
        if endpoint is None:
            raise _Refusal(404, f"no endpoint {asked.id!r}", {"id": "unknown"})
        if endpoint.state != "draining":
            pool.drain(endpoint)
            self.pools.note_change()
            log.info("endpoint_drained", model=asked.model, endpoint=asked.id)
        return await self._changed(pool, must_hear=True)

    async def remove_endpoint(self, request: web.Request) -> web.Response:
        asked = await self._change(request, schema.EndpointRemoval)
        pool = self._pool(asked.model)
        endpoint = pool.endpoints.get(asked.id)
        if endpoint is not None:
            if endpoint.load and not asked.force:
                raise _Refusal(
                    409,
                    f"endpoint {asked.id!r} has {endpoint.load} requests in flight",
                    {"id": f"in_flight is {endpoint.load}"},
                )
            pool.remove(endpoint)
            self.pools.note_change()
            log.info("endpoint_removed", model=asked.model, endpoint=asked.id)
        return await self._changed(pool, must_hear=True)

    # helpers

    async def _change(self, request: web.Request, kind: type[_Body]) -> _Body:
        """Read what is to be changed; from its return to the next wait nobody can take over."""
        asked = await _read(request, kind)
        await self.handover.may_change.wait()  # bounded: so is a handover
        if self.handover.is_retired:
            raise _Refusal(503, "another process of this gateway has taken over; ask again")
        return asked

    async def _changed(self, pool: Pool | None, *, must_hear: bool = False) -> web.Response:
        """Answer with the pool as it now is; the change is on disk, or `persisted` is false.

        With `must_hear` it is not done before the processes that this one took over from do it too.
        """
        is_heard = await self.predecessors.tell()
        is_kept = await self.state_file.keep()
        if must_hear and not is_heard:
            raise _Refusal(503, "an older process of this gateway did not confirm it; ask again")
        return _json(
            {
                "boot_id": self.pools.boot_id,
                "generation": self.pools.generation,
                "persisted": is_kept,
                "pool": report.pool_state(pool) if pool is not None else None,
            }
        )

    def _asked_pool(self, request: web.Request) -> Pool:
        model = request.query.get("model")
        if not model:
            raise _Refusal(400, "model is missing", {"model": "missing"})
        return self._pool(model)

    def _pool(self, model: str) -> Pool:
        pool = self.pools.by_model.get(model)
        if pool is None:
            raise _Refusal(404, f"no pool {model!r}", {"model": "unknown"})
        return pool


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Refusal as refusal:
        return _json({"error": {"message": str(refusal), "fields": refusal.fields}}, refusal.status)
    except web.HTTPException as exc:
        return _json({"error": {"message": exc.reason, "fields": {}}}, exc.status)


async def _health(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _read(request: web.Request, kind: type[_Body]) -> _Body:
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as exc:
        fields = {
            ".".join(str(part) for part in error["loc"]) or "body": error["msg"]
            for error in exc.errors(include_url=False, include_input=False, include_context=False)
        }
        named = "; ".join(f"{name}: {reason}" for name, reason in fields.items())
        raise _Refusal(400, f"the body is wrong: {named}", fields) from exc


def _is_same(known: Endpoint, asked: Endpoint) -> bool:
    return (known.url, known.trust, known.weight, known.max_inflight, known.state) == (
        *(asked.url, asked.trust, asked.weight, asked.max_inflight, asked.state),
    )


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")
