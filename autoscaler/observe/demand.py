"""Learns from the gateway, the moment it happens, that requests wait, so that a cold start need not wait for its turn.

It only wakes passes. What is wanted is decided from the signals that a pass reads, as always: a wake that is lost costs
one interval, one too many costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import aiohttp
import structlog
from pydantic import BaseModel, Field, ValidationError

from autoscaler.domain.ids import ModelName
from autoscaler.errors import SourceUnavailable
from autoscaler.observe.page import read_body

log = structlog.get_logger(__name__)

_POLL_S = 30.0
_SLACK_S = 5.0
# At zero nodes every request is news: at most 20 questions a second, however many come.
_BREATH_S = 0.05
_FIRST_BACKOFF_S = 0.5


class _News(BaseModel):
    boot_id: Annotated[str, Field(max_length=100)]
    generation: Annotated[int, Field(ge=0)]
    models: Mapping[ModelName, Annotated[int, Field(ge=0)]]


class DemandWatch:
    """Asks one gateway, over and over, to be told of new demand (its `POST /v1/wait`).

    Args:
        control: the gateway's control socket.
        interval: a model is woken at most once in it: the passes that come by the clock see the rest.
        poll_s: how long the gateway may keep one question open.
    """

    def __init__(self, control: Path, interval: timedelta, poll_s: float = _POLL_S) -> None:
        self._control = control
        self._interval_s = interval.total_seconds()
        self._poll_s = poll_s
        self._boot_id: str | None = None
        self._generation = 0

    async def run(self, wake: Callable[[ModelName], None]) -> None:
        """Call `wake` with each model for which requests begin to wait. Runs until cancelled."""
        clock = asyncio.get_running_loop().time
        woken_at: dict[ModelName, float] = {}
        trouble, backoff_s = "", _FIRST_BACKOFF_S
        connector = aiohttp.UnixConnector(str(self._control), force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False, trust_env=False
        ) as session:
            while True:
                asked = clock()
                try:
                    models = await self._next(session)
                except SourceUnavailable as exc:
                    # Cold starts wait for their pass meanwhile, which is what they did before there was this.
                    if str(exc) != trouble:
                        log.warning("demand_not_watched", why=str(exc))
                    trouble = str(exc)
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(2 * backoff_s, max(self._interval_s, _FIRST_BACKOFF_S))
                    continue
                trouble, backoff_s = "", _FIRST_BACKOFF_S
                for model in models:
                    if clock() - woken_at.get(model, float("-inf")) >= self._interval_s:
                        woken_at[model] = clock()
                        wake(model)
                # No news at once: the gateway is stopping, and answers every question so.
                is_stopping = not models and clock() - asked < _BREATH_S
                await asyncio.sleep(_FIRST_BACKOFF_S if is_stopping else _BREATH_S)

    async def _next(self, session: aiohttp.ClientSession) -> frozenset[ModelName]:
        """Wait until requests began to wait somewhere; the models that have some now. None after a quiet while."""
        body = {
            "generation": self._generation,
            "boot_id": self._boot_id,
            "timeout_s": self._poll_s,
        }
        try:
            async with (
                asyncio.timeout(self._poll_s + _SLACK_S),
                session.post(
                    "http://gateway/v1/wait", json=body, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    raise SourceUnavailable(f"the gateway answered {response.status} on /v1/wait")
                news = _News.model_validate_json(await read_body(response))
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise SourceUnavailable(
                f"the gateway on {self._control} cannot be asked ({type(exc).__name__}): is it running?"
            ) from exc
        except ValidationError as exc:
            raise SourceUnavailable(f"/v1/wait on {self._control} is not a gateway's") from exc
        self._boot_id, self._generation = news.boot_id, news.generation
        return frozenset(model for model, waiting in news.models.items() if waiting)
