"""What clients see: the OpenAI-compatible API, routed by the `model` in the body."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

import orjson
from aiohttp import web

from autoscaler.gateway.admission import Account, Admission
from autoscaler.gateway.body import Bodies
from autoscaler.gateway.connection import ClientConnection
from autoscaler.gateway.errors import RequestError, error_response
from autoscaler.gateway.forward import Call, Forwarder
from autoscaler.gateway.paths import INFERENCE
from autoscaler.gateway.pool import Pool
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.prompt import allowed_output, surely_too_long


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a body asks for: a pool, itself as the pool's engines want it, and tokens, by an estimate."""

    pool: Pool
    body: bytes
    tokens: int


@dataclass(eq=False, slots=True)
class Front:
    """Answers one request of a client.

    Attributes:
        paths: what may be POSTed to besides the paths of inference.
    """

    pools: Pools
    forwarder: Forwarder
    admission: Admission
    bodies: Bodies
    paths: frozenset[str] = frozenset()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, ClientConnection):
            connection.asked()
        try:
            response = await self._route(request)
        except RequestError as error:
            response = error_response(error)
        finally:
            if isinstance(connection, ClientConnection):
                connection.answered()
        # A retired process says so in the head, or not at all: a client must not ask again on what just closes.
        if self.pools.is_stopping or (self.pools.is_retired and not response.prepared):
            response.force_close()
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path == "/health" and request.method in ("GET", "HEAD"):
            return web.Response(text="ok\n")
        account = self.admission.identify(request.headers)
        match request.method:
            case "POST" if (
                path in INFERENCE or path in self.paths
            ):  # as it is written, and so passed on
                return await self._forward(request, account)
            case "GET" | "HEAD" if path == "/v1/models":
                return self._models(account)
            case "GET" | "HEAD" if path.startswith("/v1/models/"):
                return self._model(unquote(path.removeprefix("/v1/models/")), account)
        raise RequestError(404, "unknown_url", _unknown(request.method, path))

    async def _forward(
        self, request: web.BaseRequest, account: Account | None
    ) -> web.StreamResponse:
        body = await self.bodies.read(request, account)
        try:
            asked = self._asked(body, account)
            with self.admission.admit(account, asked.tokens) as told:
                owner = account.key.name if account is not None else None
                ticket = asked.pool.arrive(len(asked.body), owner)
                call = Call(request, asked.pool, ticket, asked.body, told)
                return await self.forwarder.forward(call)
        finally:
            self.bodies.done(body, account)

    def _asked(self, body: bytes, account: Account | None) -> _Asked:
        """Find out what a body asks for, and whether it may."""
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise RequestError(
                400, "invalid_json", "the body is not valid JSON: send an object with a `model`"
            ) from exc
        model = fields.get("model") if isinstance(fields, dict) else None
        if not isinstance(model, str) or not model:
            raise RequestError(
                400, "missing_model", "the body has no `model`, a string", param="model"
            )
        pool = self._find(model, account)
        _check_length(fields, len(body), pool)
        tokens = int(len(body) * pool.tokens_per_byte) + allowed_output(fields)
        if model != pool.settings.model:
            fields["model"] = pool.settings.model  # the engine knows no alias
            body = orjson.dumps(fields)
        return _Asked(pool, body, tokens)

    def _find(self, model: str, account: Account | None) -> Pool:
        """Find the pool of a model that this key may use."""
        pool = self.pools.find(model)
        if account is not None:
            self.admission.allow(account, model, *((pool.settings.model,) if pool else ()))
        if pool is None:
            self.pools.unmatched_total += 1
            raise RequestError(
                404,
                "model_not_found",
                f"The model `{model[:200]}` does not exist; GET /v1/models lists those that do",
                param="model",
            )
        return pool

    def _models(self, account: Account | None) -> web.Response:
        models = [
            self._describe(name, pool)
            for _, pool in sorted(self.pools.by_model.items())
            for name in (pool.settings.model, *pool.settings.aliases)
            if account is None or account.key.may_use(name, pool.settings.model)
        ]
        return _json({"object": "list", "data": models})

    def _model(self, name: str, account: Account | None) -> web.Response:
        return _json(self._describe(name, self._find(name, account)))

    def _describe(self, name: str, pool: Pool) -> dict[str, str | int]:
        """Describe a model by one of its names; `root` is the one that its answers carry."""
        return {
            "id": name,
            "object": "model",
            "created": int(self.pools.started_at),
            "owned_by": "autoscaler",
            "root": pool.settings.model,
        }


def _unknown(method: str, path: str) -> str:
    way_out = ", unless its operator lists the path in [front] paths" if method == "POST" else ""
    return f"this gateway serves no {method} {path[:200]}{way_out}"


def _check_length(fields: dict[str, object], size: int, pool: Pool) -> None:
    """Refuse a prompt that no engine of the pool can take. In doubt it passes: engines can count."""
    limit = pool.settings.max_model_len
    if limit is None:
        return
    found = surely_too_long(fields, size, limit)
    if found is not None:
        field, least = found
        raise RequestError(
            400,
            "context_length_exceeded",
            f"This model's maximum context length is {limit} tokens, and the prompt has at least "
            f"{least}. Shorten it.",
            param=field,
        )


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
