"""Continuous batching, as arithmetic: which request gets how many tokens when.

No I/O and no clock: `now` comes in, in seconds of any steady clock. While nothing arrives or ends,
many decode steps are taken as one, which is what keeps an emulated server cheap; an arrival cuts
that short at the next token's boundary, as the real scheduler would see it then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from autoscaler.emulator.engine.figures import Figures
from autoscaler.emulator.engine.speed import Speed

WATERMARK = 0.01  # of the KV cache, kept free at admission: without it the youngest thrash


@dataclass(slots=True, eq=False)
class Request:
    """One request's way through the engine. Times are instants of the caller's clock.

    Attributes:
        cached_tokens: how much of the prompt the prefix cache has.
        output_tokens: how many it will generate; 0 for an embedding.
        on_progress: called when there is something to send: the first token, the last, and between
            them no more often than the batch's `emit_every_s`.
    """

    prompt_tokens: int
    output_tokens: int
    arrived_at: float
    cached_tokens: int = 0
    finish_reason: str = "length"
    on_progress: Callable[[], None] = lambda: None
    generated: int = 0
    computed: int = 0  # of prompt and, after a preemption, of what had been generated
    to_compute: int = 0
    is_finished: bool = False
    is_cancelled: bool = False
    scheduled_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    told_at: float = -math.inf

    @property
    def held_tokens(self) -> int:
        """What it holds in the KV cache."""
        return self.context_tokens if self.is_prefilled else self.computed

    @property
    def context_tokens(self) -> int:
        """What it will hold, once prefilled."""
        return self.prompt_tokens + self.generated

    @property
    def is_prefilled(self) -> bool:
        return self.computed >= self.to_compute


@dataclass(slots=True)
class _Step:
    """What the GPU does now: some prefill, and `tokens` decode steps of each of `decoding`."""

    began_at: float
    token_s: float
    tokens: int
    decoding: list[Request]
    prefilling: list[tuple[Request, int]]

    @property
    def ends_at(self) -> float:
        return self.began_at + self.tokens * self.token_s


@dataclass(slots=True, eq=False)
class Batch:
    """The engine's scheduler: a queue, the running requests, and the step under way."""

    speed: Speed
    figures: Figures
    max_num_seqs: int
    prefill_tokens_per_step: int = 2048
    emit_every_s: float = 0.25
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    _step: _Step | None = None

    def submit(self, request: Request, now: float) -> None:
        """Queue a request."""
        self.advance(now)
        request.to_compute = max(request.prompt_tokens - request.cached_tokens, 1)
        self.figures.prefix_queried += request.prompt_tokens
        self.figures.prefix_hit += min(request.cached_tokens, request.prompt_tokens - 1)
        self.waiting.append(request)
        if self._step is None:
            self._begin(now)
        else:
            self._cut(now)

    def cancel(self, request: Request, now: float) -> None:
        """Drop a request whose client has gone. Its slot and its cache are free at once."""
        self.advance(now)
        if request.is_finished or request.is_cancelled:
            return
        request.is_cancelled = True
        self.figures.finished["abort"] += 1
        if request in self.running:
            self.running.remove(request)
            self._cut(now)
        else:
            self.waiting.remove(request)

    @property
    def due_at(self) -> float | None:
        """When `advance` is to be called next; None while idle."""
        return self._step.ends_at if self._step else None

    @property
    def tokens_per_s(self) -> float:
        """The rate of generation right now."""
        return len(self._step.decoding) / self._step.token_s if self._step else 0.0

    @property
    def kv_used(self) -> int:
        """Cached tokens that running requests hold."""
        return sum(request.held_tokens for request in self.running)

    def advance(self, now: float) -> None:
        """Do all that is due by `now`. A late call catches up: no time is lost."""
        while self._step is not None and self._step.ends_at <= now:
            ended_at = self._step.ends_at
            self._finish(self._step)
            self._begin(ended_at)

    def _cut(self, now: float) -> None:
        """Shorten a long step to the token boundary at or after `now`."""
        step = self._step
        if step is not None and step.tokens > 1:
            passed = math.ceil((now - step.began_at) / step.token_s)
            step.tokens = min(max(passed, 1), step.tokens)

    def _begin(self, now: float) -> None:
        self._admit(now)
        self._make_room()
        budget = self.prefill_tokens_per_step
        prefilling: list[tuple[Request, int]] = []
        decoding: list[Request] = []
        for request in self.running:
            if request.is_prefilled:
                decoding.append(request)
            elif budget > 0:
                chunk = min(request.to_compute - request.computed, budget)
                prefilling.append((request, chunk))
                budget -= chunk
        if not prefilling and not decoding:
            self._step = None
            return
        prompt_tokens = self.prefill_tokens_per_step - budget
        token_s = self.speed.step_s(len(decoding), self.kv_used, prompt_tokens)
        tokens = 1 if prefilling else self._steps_until_news(decoding, token_s)
        self._step = _Step(now, token_s, tokens, decoding, prefilling)

    def _admit(self, now: float) -> None:
        room = self.speed.kv_tokens * (1 - WATERMARK)
        used = sum(request.context_tokens + 1 for request in self.running)
        while self.waiting and len(self.running) < self.max_num_seqs:
            need = self.waiting[0].context_tokens + 1
            if self.running and used + need > room:
                return
            request = self.waiting.popleft()
            used += need
            self.running.append(request)
            if request.scheduled_at is None:
                request.scheduled_at = now
                self.figures.queue_s.observe(now - request.arrived_at)

    def _make_room(self) -> None:
        """Preempt the youngest while the next token of each would not fit."""
        while len(self.running) > 1 and self.kv_used + len(self.running) > self.speed.kv_tokens:
            victim = self.running.pop()
            victim.computed = 0
            victim.to_compute = victim.prompt_tokens + victim.generated
            self.waiting.appendleft(victim)
            self.figures.preemptions += 1

    def _steps_until_news(self, decoding: list[Request], token_s: float) -> int:
        until_end = min(request.output_tokens - request.generated for request in decoding)
        until_told = int(self.emit_every_s / token_s)
        room = (self.speed.kv_tokens - self.kv_used) // len(decoding)
        return max(1, min(until_end, until_told, room))

    def _finish(self, step: _Step) -> None:
        at = step.ends_at
        for request, chunk in step.prefilling:
            if request.is_cancelled:
                continue
            request.computed += chunk
            if request.generated == 0:
                self.figures.prompt_tokens += chunk
            if request.is_prefilled:
                self._after_prefill(request, at)
        going_on = [request for request in step.decoding if not request.is_cancelled]
        self.figures.count_tokens(step.token_s, step.tokens * len(going_on))
        for request in going_on:
            request.generated += step.tokens
            self._tell(request, at)
        self.running = [request for request in self.running if not request.is_finished]

    def _after_prefill(self, request: Request, at: float) -> None:
        if request.first_token_at is None:
            request.first_token_at = at
            self.figures.prompt_tokens += request.prompt_tokens - request.computed  # cached ones
            self.figures.count_first_token(at - request.arrived_at)
        if request.output_tokens > request.generated:
            request.generated += 1
            self.figures.generation_tokens += 1
        self._tell(request, at)

    def _tell(self, request: Request, at: float) -> None:
        if request.generated >= request.output_tokens:
            request.is_finished = True
            request.finished_at = at
            self.figures.count_finished(request)
        elif at - request.told_at < self.emit_every_s * 0.99:
            return
        request.told_at = at
        request.on_progress()
