"""How many tokens a logged request had: as logged, else from its bytes, else as the operator says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, tzinfo

from autoscaler.traces.log_entry import Entry, Why, Work
from autoscaler.traces.reader import TOKEN_LIMIT

# What surrounds the text, in bytes: of a chat by the openai package, answered by vLLM.
REQUEST_ENVELOPE = 130  # the JSON around the prompt
RESPONSE_ENVELOPE = 560  # the JSON around an answer that is not streamed
STREAM_ENVELOPE = 560  # the events with the role, with the reason to finish, and [DONE]
_USUAL_PER_S = 40.0  # tokens a second of one answer
_EARLY_SHARE, _EARLY_S = 0.05, 0.02


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How to read logs.

    Attributes:
        model: take this model's requests only.
        prompt_tokens, output_tokens: of a request whose log tells nothing of them; None leaves it out.
        bytes_per_token: of text. English has about 4, code 3, Chinese 3 (in UTF-8).
        stream_bytes_per_token: of a streamed answer, where every token comes in an event of its own.
        streamed: how answers came of which the log does not tell; None asks their length and speed.
        zone: of stamps that name none.
    """

    model: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    bytes_per_token: float = 4.0
    stream_bytes_per_token: float = 230.0
    streamed: bool | None = None
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of a request, and where each figure comes from.

    Attributes:
        prompt_is_logged, output_is_logged: else it is an estimate.
    """

    prompt_tokens: int
    output_tokens: int
    prompt_is_logged: bool
    output_is_logged: bool


def sizes(entry: Entry, options: LogOptions) -> Sizes | Why:
    """The tokens of a request, or why it does not count."""
    if entry.cached:
        return Why.CACHED
    if entry.status is not None and not 200 <= entry.status < 300:
        return Why.FAILED
    prompt = entry.prompt_tokens
    if prompt is None:
        prompt = _prompt(entry, options)
    if prompt is None:
        return Why.NO_PROMPT
    output = 0 if entry.work is Work.EMBEDS else entry.output_tokens
    is_logged = output is not None
    if output is None:
        output = _output(entry, options)
    if output is None:
        return Why.NO_OUTPUT
    if max(prompt, output) > TOKEN_LIMIT:
        return Why.BEYOND
    return Sizes(prompt, output, entry.prompt_tokens is not None, is_logged)


def _prompt(entry: Entry, options: LogOptions) -> int | None:
    if entry.request_bytes is None:
        return options.prompt_tokens
    return _tokens(entry.request_bytes - REQUEST_ENVELOPE, options.bytes_per_token)


def _output(entry: Entry, options: LogOptions) -> int | None:
    if entry.response_bytes is None:
        return options.output_tokens
    size = entry.response_bytes
    streamed = _tokens(size - STREAM_ENVELOPE, options.stream_bytes_per_token)
    whole = _tokens(size - RESPONSE_ENVELOPE, options.bytes_per_token)
    is_streamed = options.streamed if entry.streamed is None else entry.streamed
    if is_streamed is None:
        is_streamed = _is_likelier(streamed, whole, entry.answer_s)
    return streamed if is_streamed else whole


def _tokens(size: int, each: float) -> int:
    return max(1, round(size / each))


def _is_likelier(one: int, other: int, seconds: float | None) -> bool:
    """Which of two lengths makes for the more usual speed; of an unknown time, the first."""
    if seconds is None or seconds <= 0:
        return True
    usual = math.log(_USUAL_PER_S)
    return abs(math.log(one / seconds) - usual) <= abs(math.log(other / seconds) - usual)


def came_in_pieces(head_s: float, body_s: float) -> bool:
    """Whether an answer was streamed, by the time to its head and from there to its end.

    One that is made first and sent then follows its head at once.
    """
    return body_s > max(_EARLY_S, _EARLY_SHARE * (head_s + body_s))
