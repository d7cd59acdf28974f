"""The batch on a real clock: one task that steps it, and a stream of progress for each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from autoscaler.emulator.engine.batch import Batch, Request


class Engine:
    """Drives a batch. `drive` must run for anything to happen."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._woken = asyncio.Event()

    async def drive(self) -> None:
        """Advance the batch whenever something is due. Ends only by cancellation."""
        loop = asyncio.get_running_loop()
        while True:
            self.batch.advance(loop.time())
            try:
                async with asyncio.timeout_at(self.batch.due_at):
                    await self._woken.wait()
            except TimeoutError:
                pass  # a step has ended
            self._woken.clear()

    async def generate(
        self,
        prompt_tokens: int,
        output_tokens: int,
        *,
        cached_tokens: int = 0,
        finish_reason: str = "length",
    ) -> AsyncGenerator[int]:
        """Yield how many tokens there are, each time there are more to send; at least once.

        Closing it early, as when the client goes, frees the request's slot.
        """
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        request = Request(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            arrived_at=loop.time(),
            cached_tokens=cached_tokens,
            finish_reason=finish_reason,
            on_progress=news.set,
        )
        self.batch.submit(request, loop.time())
        self._woken.set()
        try:
            while not request.is_finished:
                await news.wait()
                news.clear()
                yield request.generated
        finally:
            self.batch.cancel(request, loop.time())
            self._woken.set()

    def up_to_date(self) -> Batch:
        """The batch as of now."""
        self.batch.advance(asyncio.get_running_loop().time())
        return self.batch
