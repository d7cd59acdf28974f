"""What may be changed over the daemon's Unix socket, and what each would do, asked beforehand."""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.override import Override
from autoscaler.errors import ConfigError
from autoscaler.policies import find_model
from autoscaler.preview import Consequence, Word, lines
from autoscaler.serve.views import Json, promise_lines, shadow_view, usd

if TYPE_CHECKING:
    from autoscaler.daemon import Daemon

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OF_A_MODEL = ("pause", "resume", "retire", "promote", "demote", "confirm", "scale")


class Verbs:
    """One daemon's verbs."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def add_to(self, app: web.Application) -> None:
        """Add every verb as a POST of its own, and `preview`."""
        for verb in _OF_A_MODEL:
            app.router.add_post(f"/api/v1/{verb}", handler(self._of_a_model(verb)))
        for name, handle in (
            ("drain", self._drain),
            ("preview", self._preview),
            ("sweep", self._sweep),
            ("reload", self._reload),
        ):
            app.router.add_post(f"/api/v1/{name}", handler(handle))

    def _of_a_model(self, verb: str) -> Callable[[Json, str], Awaitable[Json]]:
        async def say(body: Json, actor: str) -> Json:
            model = self._model(body.get("model"))
            operations = self._daemon.operations
            match verb:
                case "scale":
                    await operations.scale(model, self._override(body, actor), actor)
                case "promote":
                    await operations.promote(model, actor)
                case "demote":
                    await operations.demote(model, actor)
                case "confirm":
                    await operations.confirm(model, body.get("spec"), actor)
                case "pause":
                    await operations.pause(model, actor)
                case "resume":
                    await operations.resume(model, actor)
                case _:
                    await operations.retire(model, actor)
            return {"model": model, **await self._stands(model), "by": actor}

        return say

    async def _stands(self, model: ModelName) -> Json:
        view = await self._daemon.views.model(model, self._daemon.book.policies[model])
        found: Json = {"mode": view["mode"]}
        if view["override"] is not None:
            found["override"] = view["override"]
        return found

    async def _drain(self, body: Json, actor: str) -> Json:
        node = await self._daemon.operations.drain(NodeName(str(body.get("node"))), actor)
        return {"node": node.name, "state": node.state.value, "by": actor}

    async def _preview(self, body: Json, actor: str) -> Json:
        """What a verb would do and cost. It changes nothing."""
        verb, operations = body.get("verb"), self._daemon.operations
        if verb == "drain":
            node = NodeName(str(body.get("node")))
            model = await operations.node_model(node)
            word = Word("drain", actor, node)
        elif verb in _OF_A_MODEL:
            model = self._model(body.get("model"))
            override = self._override(body, actor) if verb == "scale" else None
            word = Word(str(verb), actor, None, override)
        else:
            raise ConfigError(f"verb: found {verb!r}, allowed: drain, {', '.join(_OF_A_MODEL)}")
        what, in_flight = await operations.preview(model, word)
        return await self._told(model, what, in_flight)

    async def _told(self, model: ModelName, what: Consequence, in_flight: int | None) -> Json:
        daemon = self._daemon
        told: Json = {
            "model": model,
            "verb": what.word.verb,
            "before": {"nodes": what.nodes_before, "usd_per_hour": usd(what.usd_per_hour_before)},
            "after": {"nodes": what.nodes_after, "usd_per_hour": usd(what.usd_per_hour_after)},
            "launches": [
                {"offer": str(row.offer), "usd_per_hour": usd(row.price_per_hour)}
                for row in what.first.rows
            ],
            "releases": [release.node for release in what.first.plan.releases],
            "refused": [why for _, why in what.first.refused],
            "in_flight": in_flight,
            "text": lines(what, in_flight),
        }
        if what.word.verb == "confirm":
            growth = daemon.book.held[model]
            told |= {"spec": growth.spec, "text": [growth.words, *lines(what, in_flight)]}
        if what.word.verb == "promote":
            thought = daemon.reconciler.last.get(model)
            shadow = thought.shadow if thought is not None else None
            told["shadow"] = shadow_view(shadow, what.inputs.now) if shadow else None
            policy, limits = daemon.book.policies[model], daemon.config.limits
            told["text"] = [
                *promise_lines(shadow, policy, limits, what.inputs.now),
                *lines(what, in_flight),
            ]
        return told

    async def _sweep(self, body: Json, actor: str) -> Json:
        if body.get("confirm") is True:
            log.warning("sweep_confirmed", actor=actor)
            self._daemon.sweeper.confirm()
        self._daemon.wakes.now("sweep")
        return {"sweep": "asked for"}

    async def _reload(self, body: Json, actor: str) -> Json:
        self._daemon.wakes.now("policies")
        return {"reload": "asked for"}

    def _model(self, given: object) -> ModelName:
        return find_model(self._daemon.book.policies, given)

    def _override(self, body: Json, actor: str) -> Override | None:
        if body.get("clear") is True:
            return None
        nodes, length_s = body.get("nodes"), body.get("for_s")
        if not isinstance(nodes, int) or isinstance(nodes, bool):
            raise ConfigError(f"nodes: found {nodes!r}, allowed: a whole number")
        if not isinstance(length_s, int | float) or isinstance(length_s, bool):
            raise ConfigError(f"for_s: found {length_s!r}, allowed: seconds")
        now = self._daemon.clock.now()
        try:
            until = now + timedelta(seconds=length_s)
        except (OverflowError, ValueError) as exc:
            raise ConfigError(f"for_s: found {length_s}, allowed: up to 30d") from exc
        return Override(nodes, until, actor, now, body.get("beyond_max") is True)


def handler(verb: Callable[[Json, str], Awaitable[Json]]) -> Handler:
    """Serve a verb: JSON in, JSON out, with who asked."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            raise ConfigError("send application/json")
        try:
            body = await request.json()
        except ValueError as exc:
            raise ConfigError(f"not JSON: {exc}") from exc
        if not isinstance(body, dict):
            raise ConfigError("send a JSON object")
        return web.json_response(await verb(body, _actor(request)))

    return handle


def _actor(request: web.Request) -> str:
    """Who is at the other end of the Unix socket, as the kernel says. What the client says of itself is not asked."""
    transport = request.transport
    peer = transport.get_extra_info("socket") if transport is not None else None
    if peer is None:
        return "unknown"
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
