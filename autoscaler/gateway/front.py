"""What clients see: the OpenAI-compatible API, routed by the `model` in the body."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import unquote

import orjson
from aiohttp import hdrs, web

from autoscaler.gateway.connection import ClientConnection
from autoscaler.gateway.errors import RequestError, error_response
from autoscaler.gateway.forward import Call, Forwarder
from autoscaler.gateway.pool import Pool
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.settings import GatewaySettings

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Engines serve their administration on the same port: clients have no business there.
_ADMINISTRATION = frozenset(
    (
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/load_lora_adapter"),
        *("/unload_lora_adapter", "/sleep", "/wake_up", "/pause", "/resume", "/shutdown"),
        *("/reset_prefix_cache", "/reset_mm_cache", "/collective_rpc", "/flush_cache"),
        *("/update_weights", "/update_weights_from_disk", "/abort_request", "/start_profile"),
        *("/stop_profile", "/scale_elastic_ep", "/slots", "/props"),
    )
)


@dataclass(eq=False, slots=True)
class Front:
    """Answers one request of a client."""

    settings: GatewaySettings
    pools: Pools
    forwarder: Forwarder

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, ClientConnection):
            connection.head_since = None
        try:
            response = await self._route(request)
        except RequestError as error:
            response = error_response(error)
        if self.pools.is_stopping:
            response.force_close()
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        match request.method:
            case "POST" if path.rstrip("/") not in _ADMINISTRATION:
                return await self._forward(request)
            case "GET" | "HEAD" if path == "/health":
                return web.Response(text="ok\n")
            case "GET" if path == "/v1/models":
                return self._models()
            case "GET" if path.startswith("/v1/models/"):
                return self._model(unquote(path.removeprefix("/v1/models/")))
        raise RequestError(404, "unknown_url", f"there is no {request.method} {path[:200]}")

    async def _forward(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                body = await self._read(request)
        except web.RequestPayloadError as exc:
            raise RequestError(400, "bad_body", "the body's encoding is broken") from exc
        except TimeoutError as exc:
            request.protocol.close()
            raise RequestError(408, "body_timeout", "the body did not arrive in time") from exc
        pool, body = self._pool_of(body)
        return await self.forwarder.forward(Call(request, pool, pool.arrive(len(body)), body))

    async def _read(self, request: web.BaseRequest) -> bytes:
        limit = self.settings.max_body_bytes
        if (request.content_length or 0) > limit:
            raise self._too_large(request)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport:
            request.transport.write(_CONTINUE)
        chunks: list[bytes] = []
        size = 0
        while chunk := await request.content.readany():
            size += len(chunk)
            if size > limit:
                raise self._too_large(request)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self, request: web.BaseRequest) -> RequestError:
        request.protocol.close()  # nobody reads the rest
        message = f"the body is larger than {self.settings.max_body_bytes} bytes"
        return RequestError(413, "request_too_large", message)

    def _pool_of(self, body: bytes) -> tuple[Pool, bytes]:
        """Find the pool that a body asks for, and the body as its engine wants it."""
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise RequestError(400, "invalid_json", "the body is not valid JSON") from exc
        model = fields.get("model") if isinstance(fields, dict) else None
        if not isinstance(model, str) or not model:
            raise RequestError(
                400, "missing_model", "the body has no `model`, a string", param="model"
            )
        pool = self.pools.find(model)
        if pool is None:
            self.pools.unmatched_total += 1
            raise RequestError(
                404,
                "model_not_found",
                f"The model `{model[:200]}` does not exist; GET /v1/models lists those that do",
                param="model",
            )
        if model != pool.settings.model:
            fields["model"] = pool.settings.model  # the engine knows no alias
            body = orjson.dumps(fields)
        return pool, body

    def _models(self) -> web.Response:
        models = [self._describe(pool) for _, pool in sorted(self.pools.by_model.items())]
        return _json({"object": "list", "data": models})

    def _model(self, name: str) -> web.Response:
        pool = self.pools.find(name)
        if pool is None:
            raise RequestError(
                404, "model_not_found", f"The model `{name[:200]}` does not exist", param="model"
            )
        return _json(self._describe(pool))

    def _describe(self, pool: Pool) -> dict[str, str | int]:
        return {
            "id": pool.settings.model,
            "object": "model",
            "created": int(self.pools.started_at),
            "owned_by": "autoscaler",
        }


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
