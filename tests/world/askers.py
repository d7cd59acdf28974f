"""Clients that ask all the time, each by a way of its own: kept HTTP/1.1 connections, or HTTP/2 by curl."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from autoscaler.domain.ids import ModelName
from tests.world.numbered import Books, ask, body_of, curl_config, failure_of, session

_BATCH = 20  # requests of one curl, by one connection
_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Appetite:
    """What clients ask for, by each way of HTTP/1.1 and for each model.

    Attributes:
        streams, longs, shorts: how many clients ask for answers of `stream_s`, of `long_s`, of one token.
        gap_s: between two tokens.
        curls: how many ask by HTTP/2, each by one connection at a time, for all models.
    """

    streams: int = 2
    longs: int = 1
    shorts: int = 1
    stream_s: tuple[float, float] = (2.0, 12.0)
    long_s: float = 180.0
    gap_s: float = 0.5
    curls: int = 2


@dataclass(eq=False)
class Askers:
    """All clients.

    Attributes:
        ways: the addresses that are asked by HTTP/1.1, by their names.
        http2: the address that is asked by HTTP/2, and the certificate that vouches for it.
        is_open: until then nobody asks.
        is_over: they finish what they have asked for, and ask no more.
    """

    books: Books
    models: Sequence[ModelName]
    ways: Mapping[str, str]
    http2: tuple[str, Path]
    appetite: Appetite
    dice: random.Random
    is_open: asyncio.Event
    is_over: asyncio.Event
    are_done: bool = False
    curl: str = field(default_factory=lambda: shutil.which("curl") or "curl")

    async def run(self) -> None:
        """Ask until it is over, and until the last answer has come."""
        await self.is_open.wait()
        want = self.appetite
        async with session() as kept, asyncio.TaskGroup() as clients:
            for way, url in self.ways.items():
                for model in self.models:
                    for seconds in (
                        *[want.stream_s] * want.streams,
                        *[(want.long_s, want.long_s)] * want.longs,
                        *[(0.0, 0.0)] * want.shorts,
                    ):
                        clients.create_task(self._keep_asking(kept, way, url, model, seconds))
            for _ in range(want.curls):
                clients.create_task(self._keep_curling())
        self.are_done = True

    async def _keep_asking(
        self,
        kept: aiohttp.ClientSession,
        way: str,
        url: str,
        model: ModelName,
        seconds: tuple[float, float],
    ) -> None:
        await asyncio.sleep(self.dice.uniform(0, 3))
        while not self.is_over.is_set():
            number, tokens = self.books.number(), self._tokens(seconds)
            failure = await ask(kept, url, model, number, tokens, self.appetite.gap_s)
            is_long = seconds[1] == self.appetite.long_s
            self.books.note(way, failure, tokens, is_long=is_long)
            await asyncio.sleep(self.dice.uniform(0, self.appetite.gap_s))

    def _tokens(self, seconds: tuple[float, float]) -> int:
        return max(1, round(self.dice.uniform(*seconds) / self.appetite.gap_s))

    async def _keep_curling(self) -> None:
        with tempfile.TemporaryDirectory(prefix="curl-") as name:
            while not self.is_over.is_set():
                await self._curl(Path(name))

    async def _curl(self, folder: Path) -> None:
        """Ask a batch by HTTP/2, many at a time by one connection, and look at each answer."""
        asked: dict[int, tuple[int, dict[str, object]]] = {}
        for _ in range(_BATCH):
            number, tokens = self.books.number(), self._tokens(self.appetite.stream_s)
            model = self.dice.choice(self.models)
            asked[number] = tokens, body_of(model, number, tokens, self.appetite.gap_s)
        config = folder / "batch"
        config.write_text(
            curl_config(*self.http2, ((n, body) for n, (_, body) in asked.items()), folder)
        )
        process = await asyncio.create_subprocess_exec(
            *(self.curl, "--disable", "--parallel", "--parallel-max", str(_AT_ONCE)),
            *("--config", str(config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await process.communicate()
        said = {int(line.split()[0]): line.split()[1:] for line in out.decode().splitlines()}
        for number, (tokens, _) in asked.items():
            answer = folder / str(number)
            text = answer.read_text() if answer.exists() else ""
            answer.unlink(missing_ok=True)
            self.books.note("http2", _failure(said.get(number), text, number, tokens), tokens)


def _failure(said: Sequence[str] | None, text: str, number: int, tokens: int) -> str | None:
    if said is None:
        return "curl said nothing of it"
    status, version, code = said
    if code != "0" or version != "2":
        return f"curl ended with {code}, HTTP/{version} {status}"
    return failure_of(int(status), text, number, tokens)
