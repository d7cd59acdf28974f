"""A minute of load on one model: so many clients, each asking again as soon as it was answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

_ANSWER_S = 120.0
_CHECK_S = 0.2
_LAST_S = 30.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What to ask, and how often at once."""

    url: str
    model: str
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    embeddings: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """What was measured. Times to the first token are in seconds, None where no answer has one.

    Attributes:
        tokens_per_s: of answers, all clients together.
        why: what the first failure was, empty when none.
    """

    seconds: float
    concurrency: int
    done: int
    failed: int
    requests_per_s: float
    tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    why: str = ""


@dataclass(slots=True)
class Load:
    """Runs the clients and counts."""

    ask: Ask
    done: int = 0
    failed: int = 0
    tokens: int = 0
    firsts: list[float] = field(default_factory=list)
    why: str = ""
    _is_over: bool = False

    async def run(self, seconds: float, must_stop: Callable[[], bool]) -> Capacity:
        """Ask for so long, or until it must stop; answers under way then are waited for, half a minute at most."""
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=connector, trust_env=False
        ) as session:
            clients = [
                asyncio.create_task(self._client(session), name=f"trial client {number}")
                for number in range(self.ask.concurrency)
            ]
            try:
                await _until(began + seconds, must_stop)
                self._is_over = True
                if not must_stop():
                    await asyncio.wait(clients, timeout=_LAST_S)
                took_s = time.monotonic() - began
            finally:
                for client in clients:
                    client.cancel()
                ended = await asyncio.gather(*clients, return_exceptions=True)
        broken = [each for each in ended if isinstance(each, Exception)]
        if broken:
            raise broken[0]
        return self._measured(took_s)

    def _measured(self, seconds: float) -> Capacity:
        firsts = sorted(self.firsts)
        return Capacity(
            seconds=seconds,
            concurrency=self.ask.concurrency,
            done=self.done,
            failed=self.failed,
            requests_per_s=self.done / seconds,
            tokens_per_s=self.tokens / seconds,
            ttft_p50_s=_quantile(firsts, 0.50),
            ttft_p95_s=_quantile(firsts, 0.95),
            why=self.why,
        )

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._is_over:
            try:
                await self._one(session)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
                self._fail(f"{type(exc).__name__}: {exc}")
                await asyncio.sleep(0.2)  # a server that refuses at once is not to be hammered

    async def _one(self, session: aiohttp.ClientSession) -> None:
        ask = self.ask
        text = "all " * ask.prompt_tokens
        path = "/v1/embeddings" if ask.embeddings else "/v1/chat/completions"
        more = {"input": text} if ask.embeddings else _chat(text, ask.output_tokens)
        began = time.monotonic()
        async with session.post(ask.url + path, json={"model": ask.model, **more}) as answer:
            if answer.status != 200:
                self._fail(f"HTTP {answer.status}: {(await answer.text())[:200]}")
                await asyncio.sleep(0.2)
                return
            if ask.embeddings:
                await answer.read()
                self.firsts.append(time.monotonic() - began)
            elif not await self._stream(answer, began):
                self._fail("the stream ended without [DONE]")
                return
        self.done += 1

    async def _stream(self, answer: aiohttp.ClientResponse, began: float) -> bool:
        """Read server-sent events; whether they ended as they should."""
        is_first, pieces, told = True, 0, None
        async for line in answer.content:
            if not line.startswith(b"data:"):
                continue
            if is_first:
                self.firsts.append(time.monotonic() - began)
                is_first = False
            data = line[5:].strip()
            if data == b"[DONE]":
                self.tokens += told if told is not None else pieces
                return True
            pieces += 1
            if b'"completion_tokens"' in data:
                told = int((json.loads(data).get("usage") or {}).get("completion_tokens") or pieces)
        return False

    def _fail(self, why: str) -> None:
        self.failed += 1
        self.why = self.why or why


def _chat(text: str, output_tokens: int) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max(1, output_tokens),
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _until(end_s: float, must_stop: Callable[[], bool]) -> None:
    # must_stop counts money, which no event announces
    while (left_s := end_s - time.monotonic()) > 0 and not must_stop():  # noqa: ASYNC110
        await asyncio.sleep(min(_CHECK_S, left_s))


def _quantile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
