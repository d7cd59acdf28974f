"""What the engine counts: plain numbers, and histograms that take a value many times at once."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

FIRST_TOKEN_EDGES = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
INTER_TOKEN_EDGES = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
REQUEST_EDGES = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKEN_EDGES = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0),
    *(20000.0, 50000.0, 100000.0),
)
SGLANG_FIRST_TOKEN_EDGES = (
    *(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0),
    *(200.0, 400.0),
)
SGLANG_INTER_TOKEN_EDGES = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1),
    *(0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0),
)
HTTP_EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Finished(Protocol):
    """What a finished request tells."""

    prompt_tokens: int
    generated: int
    output_tokens: int
    arrived_at: float
    scheduled_at: float | None
    first_token_at: float | None
    finished_at: float | None
    finish_reason: str


class Histogram:
    """A Prometheus histogram whose edges are fixed."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(edges)
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Take in `value`, as often as said."""
        self.counts[bisect_left(self.edges, value)] += times
        self.total += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        """Buckets as Prometheus wants them, "+Inf" last."""
        buckets, seen = [], 0
        for edge, count in zip(self.edges, self.counts, strict=False):
            seen += count
            buckets.append((str(edge), float(seen)))
        return [*buckets, ("+Inf", float(seen + self.counts[-1]))]


@dataclass(slots=True)
class Figures:
    """Everything since the start of the process."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished_prompt_tokens: int = 0
    finished_generation_tokens: int = 0
    prefix_queried: int = 0
    prefix_hit: int = 0
    preemptions: int = 0
    prompt_seconds: float = 0.0
    predicted_seconds: float = 0.0
    finished: Counter[str] = field(default_factory=Counter)
    http: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    queue_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_EDGES))
    first_token_s: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_EDGES))
    inter_token_s: Histogram = field(default_factory=lambda: Histogram(INTER_TOKEN_EDGES))
    sglang_first_token_s: Histogram = field(
        default_factory=lambda: Histogram(SGLANG_FIRST_TOKEN_EDGES)
    )
    sglang_inter_token_s: Histogram = field(
        default_factory=lambda: Histogram(SGLANG_INTER_TOKEN_EDGES)
    )
    per_token_s: Histogram = field(default_factory=lambda: Histogram(INTER_TOKEN_EDGES))
    end_to_end_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_EDGES))
    prefill_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_EDGES))
    decode_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_EDGES))
    inference_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_EDGES))
    request_prompt_tokens: Histogram = field(default_factory=lambda: Histogram(TOKEN_EDGES))
    request_generation_tokens: Histogram = field(default_factory=lambda: Histogram(TOKEN_EDGES))
    http_s: Histogram = field(default_factory=lambda: Histogram(HTTP_EDGES))

    @property
    def completed(self) -> int:
        """Requests that ran to their end."""
        return self.finished["stop"] + self.finished["length"]

    def count_first_token(self, seconds: float) -> None:
        """Take in a time to first token."""
        self.first_token_s.observe(seconds)
        self.sglang_first_token_s.observe(seconds)

    def count_tokens(self, seconds_each: float, tokens: int) -> None:
        """Take in decoded tokens that took as long each."""
        self.generation_tokens += tokens
        self.inter_token_s.observe(seconds_each, tokens)
        self.sglang_inter_token_s.observe(seconds_each, tokens)

    def count_finished(self, request: Finished) -> None:
        """Take in a request that ran to its end."""
        assert request.scheduled_at is not None
        assert request.first_token_at is not None
        assert request.finished_at is not None
        prefill_s = request.first_token_at - request.scheduled_at
        decode_s = request.finished_at - request.first_token_at
        self.finished[request.finish_reason] += 1
        self.finished_prompt_tokens += request.prompt_tokens
        self.finished_generation_tokens += request.generated
        self.prompt_seconds += prefill_s
        self.predicted_seconds += decode_s
        self.end_to_end_s.observe(request.finished_at - request.arrived_at)
        self.prefill_s.observe(prefill_s)
        self.decode_s.observe(decode_s)
        self.inference_s.observe(prefill_s + decode_s)
        self.per_token_s.observe(decode_s / max(request.generated - 1, 1))
        self.request_prompt_tokens.observe(float(request.prompt_tokens))
        self.request_generation_tokens.observe(float(request.generated))
