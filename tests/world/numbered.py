"""Answers whose tokens are numbered: what a client got is held against what it asked for, token by token.

A status of 200 says nothing of a stream's end, and a length nothing of its order. Each event carries the request's own
number and its place, so that one that is missing, twice, or somebody else's is seen.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

DONE = "[DONE]"
QUIET_S = 300.0  # the longest silence of an answer: a request may be held so long


@dataclass(slots=True)
class Books:
    """What became of all requests, by their numbers.

    Attributes:
        served: how often a server began to work on each.
        whole: answers that came whole, by the way they came.
        failed: the others, by what went wrong.
        long: of the whole ones, those that streamed for as long as the longest.
    """

    served: Counter[int] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    long: int = 0
    tokens: int = 0
    _asked: int = 0

    def number(self) -> int:
        """Number a request."""
        self._asked += 1
        return self._asked

    def note(self, way: str, failure: str | None, tokens: int, *, is_long: bool = False) -> None:
        """Count one answer; `failure` is None when it was whole."""
        if failure is not None:
            self.failed[f"{way}: {failure}"] += 1
            return
        self.whole[way] += 1
        self.tokens += tokens
        self.long += is_long

    @property
    def twice(self) -> list[int]:
        """Requests that were worked on more than once."""
        return [number for number, times in self.served.items() if times > 1]


def body_of(
    model: str, number: int, tokens: int, gap_s: float, first_s: float = 0.0
) -> dict[str, object]:
    """A request for so many tokens, of which the first, and with it the answer's head, comes after `first_s`."""
    asked: dict[str, object] = {"number": number, "tokens": tokens, "gap_s": gap_s}
    return {"model": model, "stream": True, "first_s": first_s} | asked


def failure_of(status: int, text: str, number: int, tokens: int) -> str | None:
    """Say what is wrong with an answer; None when every token is there once, in order, and its own."""
    if status != 200:
        return f"HTTP {status} {text[:200]!r}"
    events = [line.removeprefix("data: ") for line in text.split("\n") if line[:6] == "data: "]
    wanted = [*(f"{number}.{at}" for at in range(tokens)), DONE]
    if events == wanted and text.endswith("\n\n"):
        return None
    at = next(
        (i for i, pair in enumerate(zip(events, wanted, strict=False)) if len({*pair}) > 1), None
    )
    if at is not None:
        return f"token {at} is {events[at]!r}, not {wanted[at]!r}"
    return f"{len(events)} events of {len(wanted)}"


@dataclass(eq=False)
class NumberedServer:
    """An emulated engine: it streams numbered tokens at the pace asked for.

    Attributes:
        running: numbers of the requests that it works on.
        cut: numbers of those that it was working on when it was killed.
    """

    books: Books
    running: set[int] = field(default_factory=set)
    cut: set[int] = field(default_factory=set)
    url: str = ""
    _runner: web.AppRunner | None = None

    @property
    def in_flight(self) -> int:
        return len(self.running)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def kill(self) -> None:
        """End at once, whatever it works on: its port refuses, its connections are cut."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self.cut = set(self.running)
        await asyncio.gather(*(site.stop() for site in list(runner.sites)))
        for connection in list(runner.server.connections if runner.server is not None else ()):
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        number = int(asked["number"])
        self.books.served[number] += 1
        self.running.add(number)
        try:
            await asyncio.sleep(float(asked["first_s"]))
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for at in range(int(asked["tokens"])):
                await response.write(b"data: %d.%d\n\n" % (number, at))
                await asyncio.sleep(float(asked["gap_s"]))
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
            return response
        finally:
            self.running.discard(number)


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    number: int,
    tokens: int,
    gap_s: float,
    first_s: float = 0.0,
) -> str | None:
    """Ask once by HTTP/1.1; None when the whole answer came, else what went wrong. Never repeats."""
    try:
        body = body_of(model, number, tokens, gap_s, first_s)
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            return failure_of(answer.status, await answer.text(), number, tokens)
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        return f"{type(exc).__name__}: {exc}"


def session() -> aiohttp.ClientSession:
    """Clients that keep their connections."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=QUIET_S),
    )


def curl_config(
    url: str, authority: Path, asks: Iterable[tuple[int, dict[str, object]]], folder: Path
) -> str:
    """What curl reads by -K: each of these requests, its answer into a file named after its number.

    Args:
        authority: the certificate that vouches for the server.
    """
    parts = []
    for number, body in asks:
        quoted = json.dumps(json.dumps(body))  # curl reads the same escapes as JSON
        parts.append(
            f'url = "{url}/v1/completions"\ncacert = "{authority}"\nhttp2\nno-buffer\n'
            f'header = "Content-Type: application/json"\ndata = {quoted}\n'
            f'output = "{folder}/{number}"\n'
            f'write-out = "{number} %{{http_code}} %{{http_version}} %{{exitcode}}\\n"\n'
        )
    return "next\n".join(parts)
