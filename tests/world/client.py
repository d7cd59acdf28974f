"""A client of the gateway, or of what stands before it: it asks once and says what became of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp


@dataclass(slots=True)
class Answer:
    """What a client got.

    Attributes:
        pieces: the text of each event, as it came.
        whole: the answer ended as it should.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    pieces: list[str] = field(default_factory=list)
    whole: bool = False
    error: str = ""
    finish: str | None = None
    tokens: int | None = None
    ended_at: float = 0.0

    @property
    def node(self) -> str:
        return self.headers.get("x-autoscaler-endpoint", "").partition(".")[0]


async def ask(
    session: aiohttp.ClientSession,
    base: str,
    model: str,
    *,
    tokens: int,
    stream: bool,
    seen: Answer | None = None,
) -> Answer:
    """Ask once, and read the answer to its end. Never raises: what broke is in `error`.

    Args:
        base: the address that is asked.
        seen: filled while the answer comes, for a test that looks at it on the way.
    """
    answer = seen or Answer()
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "all " * 50}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    try:
        async with session.post(f"{base}/v1/chat/completions", json=body) as response:
            answer.status, answer.headers = response.status, response.headers
            if stream and response.status == 200:
                await _read_stream(response, answer)
            else:
                answer.text = await response.text()
                answer.whole = response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        answer.error = f"{type(exc).__name__}: {exc}"
    answer.ended_at = time.time()
    return answer


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer) -> None:
    """Read server-sent events; only `[DONE]` after a finish reason is a whole answer."""
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == b"[DONE]":
            answer.whole = answer.finish is not None
            return
        chunk = json.loads(data)
        for choice in chunk.get("choices", ()):
            answer.pieces.append((choice.get("delta") or {}).get("content") or "")
            answer.finish = choice.get("finish_reason") or answer.finish
        answer.tokens = (chunk.get("usage") or {}).get("completion_tokens", answer.tokens)
