"""Clients: each request of the trace is really sent at its time, streamed, and what its client saw is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import orjson

from autoscaler.traces.request import TracedRequest

_CLIENT_TIMEOUT_S = 120.0


@dataclass(slots=True)
class Seen:
    """What one client saw. Times are Unix seconds.

    Attributes:
        node: the endpoint that answered, None when none did.
        error: why it failed, "" when it did not.
        complete: the stream ended as it should, with `[DONE]` and a finish reason.
    """

    sent_at: float
    prompt_tokens: int
    output_tokens: int
    status: int = 0
    node: str | None = None
    first_at: float | None = None
    ended_at: float | None = None
    held: bool = False
    complete: bool = False
    error: str = ""

    @property
    def failed(self) -> bool:
        return self.ended_at is not None and not self.complete

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_at is None else self.first_at - self.sent_at


def node_of(request: Seen) -> str:
    """The node that answered, "" when none did; an endpoint is the node's name, or that with `.replica`."""
    return (request.node or "").partition(".")[0]


@dataclass(slots=True)
class Load:
    """All clients of one run."""

    seen: list[Seen] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        return sum(1 for s in self.seen if s.ended_at is None)

    @property
    def done(self) -> int:
        return sum(1 for s in self.seen if s.complete)

    @property
    def failed(self) -> int:
        return sum(1 for s in self.seen if s.failed)

    def rate(self, window_s: float) -> float:
        """Requests sent per second lately."""
        since = time.time() - window_s
        return sum(1 for s in reversed(self.seen) if s.sent_at >= since) / window_s

    async def play(self, requests: Sequence[TracedRequest], url: str, model: str) -> None:
        """Send every request at its time and wait until the last one has ended."""
        start = time.monotonic()
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=_CLIENT_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as clients,
        ):
            for request in requests:
                await asyncio.sleep(max(0.0, start + request.arrival_s - time.monotonic()))
                clients.create_task(self._ask(session, url, model, request))

    async def _ask(
        self, session: aiohttp.ClientSession, url: str, model: str, request: TracedRequest
    ) -> None:
        seen = Seen(time.time(), request.prompt_tokens, request.output_tokens)
        self.seen.append(seen)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "all " * request.prompt_tokens}],
            "max_tokens": request.output_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        try:
            async with session.post(url + "/v1/chat/completions", json=body) as answer:
                seen.status = answer.status
                seen.node = answer.headers.get("x-autoscaler-endpoint")
                seen.held = "x-autoscaler-cold-start" in answer.headers
                if answer.status == 200:
                    await _read_stream(answer, seen)
                else:
                    seen.error = f"HTTP {answer.status}: {(await answer.text())[:200]}"
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            seen.error = f"{type(exc).__name__}: {exc}"
        finally:
            seen.ended_at = time.time()
            seen.complete = seen.complete and not seen.error


async def _read_stream(answer: aiohttp.ClientResponse, seen: Seen) -> None:
    """Read server-sent events to their end; a stream without its end is an error, whatever its status said."""
    finish = None
    async for line in answer.content:
        if not line.startswith(b"data:"):
            continue
        if seen.first_at is None:
            seen.first_at = time.time()
        data = line[5:].strip()
        if data == b"[DONE]":
            seen.complete = finish is not None
            seen.error = "" if finish is not None else "the stream has no finish reason"
            return
        if b'"finish_reason"' in data:
            choices = orjson.loads(data).get("choices") or [{}]
            finish = choices[0].get("finish_reason") or finish
    seen.error = "the stream ended without [DONE]"
