"""One request of a trace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """When a request came and how large it was.

    Attributes:
        arrival_s: seconds since the start of the trace.
        prompt_tokens: of the whole prompt, before any prefix cache.
        output_tokens: generated.
        model: None in a trace of one model.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    model: str | None = None
