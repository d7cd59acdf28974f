"""The daemon's HTTP server: the same read-only API on loopback and on the Unix socket, and the verbs on the socket.

A page in a browser can reach loopback, so the TCP side checks `Host` and serves nothing that changes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

import structlog
from aiohttp import web

from autoscaler.bounded_http import BoundedPage
from autoscaler.decide.explain import explain_json, explain_lines
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.errors import AutoscalerError, ConfigError, StoreUnavailable
from autoscaler.policies import find_model
from autoscaler.rise import risen, with_rise
from autoscaler.serve.adopting import Adoptions
from autoscaler.serve.cost import cost_view
from autoscaler.serve.glance import glance, plan_figures
from autoscaler.serve.scrape import scrape
from autoscaler.serve.verbs import Verbs
from autoscaler.serve.views import Json, shadow_view
from autoscaler.serve.witness import witness

if TYPE_CHECKING:
    from autoscaler.daemon import Daemon
    from autoscaler.think import Inputs

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_BODY_LIMIT = 1024 * 1024
_STALL = timedelta(minutes=3)


class Server:
    """Serves one daemon."""

    def __init__(self, daemon: Daemon, adoptions: Adoptions | None = None) -> None:
        self._daemon = daemon
        self._adoptions = adoptions
        self.listening = asyncio.Event()
        self._profiles = Profiles.load()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            ConfigError: the port or the socket cannot be used.
        """
        config = self._daemon.config
        host, _, port = config.serve.listen.rpartition(":")
        host = host.strip("[]")
        runners = [
            web.AppRunner(self._app(verbs=False), access_log=None),
            web.AppRunner(self._app(verbs=True), access_log=None),
        ]
        async with contextlib.AsyncExitStack() as stack:
            for runner in runners:
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
            await _serve_port(stack, runners[0], host, int(port))
            await _serve_socket(stack, runners[1], config.socket)
            self.listening.set()
            await asyncio.Event().wait()

    def _app(self, *, verbs: bool) -> web.Application:
        app = web.Application(
            client_max_size=_BODY_LIMIT, middlewares=[_errors] if verbs else [_errors, _local_host]
        )
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/sd", self._targets)
        app.router.add_get("/api/v1/status", self._status)
        app.router.add_get("/api/v1/cost", self._cost)
        app.router.add_get("/api/v1/nodes", self._nodes)
        app.router.add_get("/api/v1/inventory", self._inventory)
        app.router.add_get("/api/v1/events", self._events)
        app.router.add_get("/api/v1/explain", self._explain)
        app.router.add_get("/api/v1/plan", self._plan)
        if verbs:
            Verbs(self._daemon).add_to(app)
            if self._adoptions is not None:
                self._adoptions.add_to(app)
        return app

    # reading

    async def _metrics(self, request: web.Request) -> web.Response:
        page = await scrape(self._daemon)
        return web.Response(body=page, content_type="text/plain", charset="utf-8")

    async def _healthz(self, request: web.Request) -> web.Response:
        """Alive: passes end. A stalled loop is found by this, a slow cloud is not."""
        last = self._daemon.health.last_pass_s
        age = self._daemon.clock.boot_s() - last if last else 0.0
        limit = max(_STALL, self._daemon.config.timings.reconcile * 3).total_seconds()
        status = 200 if age < limit else 503
        return web.json_response({"ok": status == 200, "last_pass_age_s": age}, status=status)

    async def _readyz(self, request: web.Request) -> web.Response:
        """Ready to act: swept, market known, every lease held."""
        daemon = self._daemon
        missing = [
            text
            for text, missing in (
                ("the first sweep has not ended", not daemon.health.swept),
                ("the market was not read yet", daemon.market.last is None),
                ("a lease is not held", not set(daemon.book.policies) <= daemon.leases.models),
            )
            if missing
        ]
        return web.json_response(
            {"ready": not missing, "missing": missing}, status=503 if missing else 200
        )

    async def _targets(self, request: web.Request) -> web.Response:
        paths = {n: p.server.metrics_path for n, p in self._daemon.book.policies.items()}
        return web.json_response(await self._daemon.views.targets(paths))

    async def _status(self, request: web.Request) -> web.Response:
        daemon = self._daemon
        view = await daemon.views.status(daemon.book.policies)
        for model in cast(list[Json], view["models"]):
            self._freshen(model)
        limits = daemon.config.limits
        swept = daemon.sweeper.swept_at
        view |= {
            "limits": {
                "usd_per_hour": str(limits.usd_per_hour.usd) if limits.usd_per_hour else None,
                "usd_per_month": str(limits.usd_per_month.usd) if limits.usd_per_month else None,
                "nodes": limits.nodes,
            },
            "unaccounted": len(daemon.sweeper.findings.orphans),
            "swept_at": swept.isoformat() if swept else None,
            "trouble": [*self._trouble(), *cast(list[str], view["forgotten"])],
            "unproven": [belief.name for belief in daemon.proof.unproven],
        }
        return web.json_response(view)

    def _freshen(self, model: Json) -> None:
        """What the last pass thought, which is recorded only when it says something new."""
        name = ModelName(str(model["model"]))
        thought = self._daemon.reconciler.last.get(name)
        policy = self._daemon.book.policies.get(name)
        if thought is not None and policy is not None:
            model |= glance(str(model["mode"]), thought, policy, self._daemon.clock.now())
        if thought is not None:
            decision = thought.decision
            model |= {
                "demand": decision.demand,
                "want": decision.want,
                "ready": decision.ready,
                "verdict": decision.verdict.value,
                "reason": decision.reason,
                "decided_at": decision.at.isoformat(),
            }
        if thought is not None and thought.shadow is not None:
            model["shadow"] = shadow_view(thought.shadow, self._daemon.clock.now())

    def _trouble(self) -> list[str]:
        daemon = self._daemon
        stale = [f"{model}: its policy file vanished" for model in daemon.book.vanished]
        stale += [f"{model}: it has nodes and no policy" for model in daemon.health.stray]
        stale += [growth.held for growth in daemon.book.held.values()]
        stale += daemon.runner.unreached
        usage = daemon.usage.last
        if usage is not None and usage.differs:
            stale.append(f"{usage.words}: `autoscaler cost`, and compare with mkinf's console")
        failing = daemon.health.store_trouble
        found = (
            f"{failing}; nothing is launched until it can, nodes go on" if failing else None,
            daemon.book.error,
            str(daemon.market.trouble) if daemon.market.trouble else None,
            daemon.sweeper.findings.held,
            daemon.runner.held,
            daemon.health.forbidden(),
        )
        tight = [text for model in daemon.book.policies for text in daemon.operations.tight(model)]
        return stale + [text for text in (*found, *daemon.balancers.troubles, *tight) if text]

    async def _cost(self, request: web.Request) -> web.Response:
        """What was spent, what it will come to, and when each limit bites."""
        daemon = self._daemon
        market = daemon.market.last
        offers = market.offers if market is not None else ()
        limits = daemon.reconciler.limits()
        view = await cost_view(daemon.store, limits, offers, daemon.clock.now())
        return web.json_response(view)

    async def _nodes(self, request: web.Request) -> web.Response:
        nodes = await self._daemon.views.nodes(closed=request.query.get("all") == "1")
        for node in nodes:
            name = NodeName(str(node["name"]))
            node["stage"] = self._daemon.runner.stage(name) or node["stage"]
            node["in_flight"] = self._daemon.runner.in_flight(name)
        return web.json_response(nodes)

    async def _inventory(self, request: web.Request) -> web.Response:
        """What this daemon accounts for: what `autoscaler audit` holds the cloud's list against."""
        return web.json_response(await witness(self._daemon))

    async def _events(self, request: web.Request) -> web.Response:
        node, model = request.query.get("node"), request.query.get("model")
        limit = _whole(request, "limit", 200)
        return web.json_response(
            await self._daemon.views.events(
                NodeName(node) if node else None, ModelName(model) if model else None, limit
            )
        )

    async def _explain(self, request: web.Request) -> web.Response:
        model = self._model(request.query.get("model"))
        thought = self._daemon.reconciler.last.get(model)
        if thought is None:
            raise ConfigError(f"{model}: no pass has ended yet; try again in a moment")
        inputs = await self._inputs(model)
        decision = with_rise(thought.decision, risen(inputs, thought.decision, self._profiles))
        return web.json_response(
            {
                "text": explain_lines(decision, thought.plan),
                **explain_json(decision, thought.plan),
                "figures": plan_figures(inputs, thought),
            }
        )

    async def _plan(self, request: web.Request) -> web.Response:
        """What a pass would do now. It records nothing and rents nothing."""
        daemon = self._daemon
        model = self._model(request.query.get("model"))
        inputs = await self._inputs(model)
        thought = daemon.reconciler.consider(inputs)
        decision = with_rise(thought.decision, risen(inputs, thought.decision, self._profiles))
        refused = [
            {"offer": str(thought.plan.launches[number].offer), "why": why}
            for number, why in thought.refused
        ]
        tight = daemon.operations.tight(model)
        return web.json_response(
            {
                "text": [
                    *explain_lines(decision, thought.plan),
                    *(f"  ! refused: {one['offer']}: {one['why']}" for one in refused),
                    *(f"  ! {text}" for text in tight),
                ],
                **explain_json(decision, thought.plan),
                "figures": plan_figures(inputs, thought),
                "refused": refused,
                "too_low": tight,
            }
        )

    async def _inputs(self, model: ModelName) -> Inputs:
        daemon = self._daemon
        record = await daemon.store.record(model)
        policy = daemon.book.policies[model]
        return await daemon.reconciler.observe(policy, record, daemon.clock.now())

    def _model(self, given: object) -> ModelName:
        return find_model(self._daemon.book.policies, given)


async def _serve_port(
    stack: contextlib.AsyncExitStack, runner: web.AppRunner, host: str, port: int
) -> None:
    loop = asyncio.get_running_loop()
    try:
        listener = await loop.create_server(_bounded(runner), host, port)
    except OSError as exc:
        raise ConfigError(
            f"serve.listen: cannot listen on {host}:{port}: {exc.strerror}: is another "
            "daemon running? (autoscaler status), or name another port"
        ) from exc
    stack.callback(listener.close)


async def _serve_socket(
    stack: contextlib.AsyncExitStack, runner: web.AppRunner, path: Path
) -> None:
    # the store's lock is held: whoever left this socket behind is dead
    _forget(path)
    stack.callback(_forget, path)
    loop = asyncio.get_running_loop()
    try:
        listener = await loop.create_unix_server(_bounded(runner), str(path))
        stack.callback(listener.close)
        os.chmod(path, 0o600)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot make the daemon's socket: {exc.strerror}") from exc


def _bounded(runner: web.AppRunner) -> BoundedPage:
    assert runner.server is not None  # it was set up
    return BoundedPage(runner.server)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _whole(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise ConfigError(f"{name}: found {text!r}, allowed: 1 to 10000")
    return int(text)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConfigError as exc:
        return web.json_response({"error": str(exc)}, status=400)
    except StoreUnavailable as exc:
        return web.json_response({"error": str(exc)}, status=503)
    except AutoscalerError as exc:
        return web.json_response({"error": f"{type(exc).__name__}: {exc}"}, status=503)
    except web.HTTPException as exc:
        return web.json_response({"error": exc.reason}, status=exc.status)
    except json.JSONDecodeError as exc:
        return web.json_response({"error": f"not JSON: {exc}"}, status=400)


@web.middleware
async def _local_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse other names than loopback's: a page of a rebound DNS name must not read this."""
    name = request.host.rpartition(":")[0] if ":" in request.host else request.host
    if name.strip("[]") not in ("127.0.0.1", "localhost", "::1"):
        return web.json_response({"error": f"unknown host {name!r}"}, status=421)
    return await handler(request)
