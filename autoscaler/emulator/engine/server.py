"""The HTTP side of the emulated engine: the OpenAI API, health and metrics of each dialect."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import struct
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from autoscaler.emulator.engine.asked import Asked, BadRequest, read_embedding, read_generation
from autoscaler.emulator.engine.commandline import Settings
from autoscaler.emulator.engine.hub import ModelShape
from autoscaler.emulator.engine.metrics import MetricsPage
from autoscaler.emulator.engine.running import Engine
from autoscaler.emulator.engine.text import answer

GARBAGE = "health_ok_generation_garbage"
MAX_BODY_BYTES = 16 * 2**20
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Server:
    """What answers. `is_ready` turns true once the weights are loaded."""

    settings: Settings
    shape: ModelShape
    engine: Engine
    context: int
    is_ready: bool = False
    started_at: int = field(default_factory=lambda: int(time.time()))

    def application(self) -> web.Application:
        """Every route of the dialect."""
        app = web.Application(middlewares=[self._guard()], client_max_size=MAX_BODY_BYTES)
        embedding = self.shape.is_embedding
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/health", self._health),
            ("GET", "/v1/models", self._models),
            ("GET", "/metrics", self._metrics),
            ("GET", "/version", self._version),
            ("POST", "/v1/embeddings", self._embeddings if embedding else self._wrong_kind),
            ("POST", "/v1/chat/completions", self._wrong_kind if embedding else self._chat),
            ("POST", "/v1/completions", self._wrong_kind if embedding else self._complete),
        ]
        match self.settings.dialect:
            case "sglang":
                routes += [
                    ("GET", "/health_generate", self._health_generate),
                    ("GET", "/get_model_info", self._model_info),
                    ("GET", "/get_server_info", self._server_info),
                ]
            case "llama.cpp":
                routes += [("GET", "/props", self._props), ("GET", "/slots", self._slots)]
            case "tei":
                routes += [("POST", "/embed", self._embed), ("GET", "/info", self._model_info)]
            case "infinity":
                routes += [
                    ("POST", "/embeddings", self._embeddings),
                    ("GET", "/models", self._models),
                ]
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)
        return app

    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self.is_ready:
                return self._error("Loading model", 503, "unavailable_error")
            if request.path.startswith("/v1/") and not self._is_let_in(request):
                return self._error("Unauthorized", 401, "AuthenticationError")
            began = time.monotonic()
            status = 500
            try:
                response = await handler(request)
                status = response.status
                return response
            except BadRequest as error:
                status = error.status
                return self._error(str(error), error.status, error.kind)
            finally:
                if request.method == "POST":
                    self._count(request, status, time.monotonic() - began)

        return guard

    def _count(self, request: web.Request, status: int, seconds: float) -> None:
        figures = self.engine.batch.figures
        handler = request.path.removeprefix("/v1")
        # only paths that exist: a label per guess of a stranger would grow without bound
        if request.match_info.http_exception is None:
            figures.http[handler, request.method, f"{status // 100}xx"] += 1
            figures.http_s.observe(seconds)

    def _is_let_in(self, request: web.Request) -> bool:
        key = self.settings.api_key
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return not key or hmac.compare_digest(given.encode(), key.encode())

    def _error(self, message: str, status: int, kind: str) -> web.Response:
        error: dict[str, object] = {"message": message, "type": kind, "code": status}
        if self.settings.dialect != "llama.cpp":
            error["param"] = None
        return web.json_response({"error": error}, status=status)

    async def _health(self, request: web.Request) -> web.Response:
        match self.settings.dialect:
            case "llama.cpp":
                return web.json_response({"status": "ok"})
            case "infinity":
                return web.json_response({"unix": time.time()})
            case _:
                return web.Response()

    async def _health_generate(self, request: web.Request) -> web.Response:
        async with aclosing(self.engine.generate(1, 1)) as progress:
            async for _ in progress:
                pass
        return web.Response()

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.11.0+emulated"})

    async def _models(self, request: web.Request) -> web.Response:
        batch = self.engine.up_to_date()
        models = []
        for name in self.settings.served_names:
            model: dict[str, object] = {
                "id": name,
                "object": "model",
                "created": self.started_at,
                "owned_by": self.settings.dialect,
                "root": self.settings.model,
                "max_model_len": self.context,
            }
            if self.settings.dialect == "infinity":
                queued = len(batch.waiting)
                model["stats"] = {
                    "queue_fraction": queued / batch.max_num_seqs,
                    "queue_absolute": queued,
                    "results_pending": queued + len(batch.running),
                    "batch_size": batch.max_num_seqs,
                }
            models.append(model)
        return web.json_response({"object": "list", "data": models})

    async def _model_info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "model_path": self.settings.model,
                "model_id": self.settings.model,
                "is_generation": not self.shape.is_embedding,
                "max_input_length": self.context,
                "max_concurrent_requests": self.settings.max_num_seqs,
            }
        )

    async def _server_info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "served_model_name": self.settings.served_names[0],
                "tp_size": self.settings.tensor_parallel,
                "max_running_requests": self.settings.max_num_seqs,
                "max_total_num_tokens": self.engine.batch.speed.kv_tokens,
            }
        )

    async def _props(self, request: web.Request) -> web.Response:
        settings = self.settings
        return web.json_response({"total_slots": settings.max_num_seqs, "model": settings.model})

    async def _slots(self, request: web.Request) -> web.Response:
        running, slots = len(self.engine.up_to_date().running), self.settings.max_num_seqs
        if "fail_on_no_slot" in request.query and running >= slots:
            return self._error("no slot available", 503, "unavailable_error")
        return web.json_response(
            [{"id": index, "is_processing": index < running} for index in range(slots)]
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self.settings.has_metrics:
            if self.settings.dialect == "llama.cpp":
                message = "This server does not support metrics endpoint. Start it with `--metrics`"
                return self._error(message, 501, "not_supported_error")
            raise web.HTTPNotFound
        page = MetricsPage(
            self.engine.up_to_date(),
            self.settings.dialect,
            self.settings.served_names[0],
            self.settings.metrics_generation,
        )
        return web.Response(body=page.render(), headers={"Content-Type": PROMETHEUS_TEXT})

    async def _wrong_kind(self, request: web.Request) -> web.Response:
        kind = "embeddings" if self.shape.is_embedding else "generation"
        raise BadRequest(f"The model serves {kind} only.")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        body = await read_json(request)
        asked = read_generation(body, request.headers, chat=chat, context=self.context)
        self._check_model(asked.model)
        if GARBAGE in self.settings.faults:
            return web.Response(text="\x00\x00<<garbage", content_type="application/json")
        reply = Reply(asked, chat, asked.model or self.settings.served_names[0])
        progress = self.engine.generate(
            asked.prompt_tokens,
            asked.output_tokens,
            cached_tokens=asked.cached_tokens,
            finish_reason=asked.finish_reason,
        )
        async with aclosing(progress):
            if asked.is_streaming:
                return await stream(request, reply, progress)
            async for _ in progress:
                pass
        return web.json_response(reply.whole())

    def _check_model(self, model: str) -> None:
        is_lenient = self.settings.dialect not in ("vllm", "infinity")
        if model and not is_lenient and model not in self.settings.served_names:
            raise BadRequest(f"The model `{model}` does not exist.", 404, "NotFoundError")

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request)
        model, counts = read_embedding(body, request.headers, context=self.context)
        self._check_model(model)
        if GARBAGE in self.settings.faults:
            return web.Response(text="\x00\x00<<garbage", content_type="application/json")
        await self._embed_all(counts)
        dimensions = body.get("dimensions") or self.shape.hidden
        vector = embedding(int(dimensions), body.get("encoding_format") == "base64")
        data = ",".join(
            f'{{"object":"embedding","index":{index},"embedding":{vector}}}'
            for index in range(len(counts))
        )
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        name = json.dumps(model or self.settings.served_names[0])
        text = f'{{"object":"list","data":[{data}],"model":{name},"usage":{json.dumps(usage)}}}'
        return web.Response(text=text, content_type="application/json")

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        body = await read_json(request)
        _, counts = read_embedding(body, request.headers, context=self.context, field="inputs")
        await self._embed_all(counts)
        vector = embedding(self.shape.hidden, in_base64=False)
        text = f"[{','.join([vector] * len(counts))}]"
        return web.Response(text=text, content_type="application/json")

    async def _embed_all(self, counts: list[int]) -> None:
        async with asyncio.TaskGroup() as group:
            for tokens in counts:
                group.create_task(self._embed_one(tokens))

    async def _embed_one(self, tokens: int) -> None:
        async with aclosing(self.engine.generate(tokens, 0, finish_reason="stop")) as progress:
            async for _ in progress:
                pass


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body, a JSON object.

    Raises:
        BadRequest: it is not.
    """
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body


def embedding(dimensions: int, in_base64: bool) -> str:
    """A unit vector, as JSON text."""
    if not 1 <= dimensions <= 16384:
        raise BadRequest(f"dimensions must be between 1 and 16384, got {dimensions}.")
    value = dimensions**-0.5
    if in_base64:
        packed = struct.pack("<f", value) * dimensions
        return json.dumps(base64.b64encode(packed).decode())
    return f"[{','.join([f'{value:.6f}'] * dimensions)}]"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request, whole or in events."""

    asked: Asked
    is_chat: bool
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def _head(self) -> dict[str, object]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "created": self.created, "model": self.model}

    @property
    def _usage(self) -> dict[str, int]:
        prompt, output = self.asked.prompt_tokens, self.asked.output_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        }

    def whole(self) -> dict[str, object]:
        """The answer to a request that does not stream."""
        text = answer(0, self.asked.output_tokens)
        choice: dict[str, object] = {"index": 0, "finish_reason": self.asked.finish_reason}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice |= {"text": text, "logprobs": None}
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": self._usage}

    def event(self, begin: int, end: int) -> bytes:
        """The tokens from `begin` to `end`; the first has the role, the last the reason."""
        is_last = end >= self.asked.output_tokens
        reason = self.asked.finish_reason if is_last else None
        choice: dict[str, object] = {"index": 0, "finish_reason": reason}
        if self.is_chat:
            delta = {"content": answer(begin, end)}
            choice["delta"] = {"role": "assistant", **delta} if begin == 0 else delta
        else:
            choice["text"] = answer(begin, end)
        return self._data([choice])

    def end(self) -> bytes:
        """The usage, where it was asked for, and the end."""
        usage = self._data([], usage=self._usage) if self.asked.includes_usage else b""
        return usage + b"data: [DONE]\n\n"

    def _data(self, choices: list[dict[str, object]], **more: object) -> bytes:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        chunk = {**self._head, "object": kind, "choices": choices, **more}
        return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode()


async def stream(
    request: web.Request, reply: Reply, progress: AsyncIterator[int]
) -> web.StreamResponse:
    """Send the answer as it comes, by server-sent events."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    sent = 0
    async for generated in progress:
        await response.write(reply.event(sent, generated))
        sent = generated
    await response.write(reply.end())
    await response.write_eof()
    return response
