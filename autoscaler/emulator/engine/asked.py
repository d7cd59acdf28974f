"""Requests of the OpenAI API, checked and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoscaler.emulator.engine.text import TOKENS_PER_MESSAGE, count_tokens, natural_length

PROMPT_HEADER = "x-emulated-prompt-tokens"
CACHED_HEADER = "x-emulated-cached-tokens"
OUTPUT_HEADER = "x-emulated-output-tokens"


class BadRequest(Exception):
    """The client's fault: a status, and the type that OpenAI's errors carry."""

    def __init__(self, message: str, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants, in tokens."""

    model: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    finish_reason: str
    is_streaming: bool
    includes_usage: bool


def read_generation(
    body: Mapping[str, Any], headers: Mapping[str, str], *, chat: bool, context: int
) -> Asked:
    """Read a chat or plain completion.

    Raises:
        BadRequest: a field is missing or wrong, or the prompt is too long.
    """
    text, messages = _chat_text(body) if chat else (_prompt_text(body), 0)
    prompt = _header(headers, PROMPT_HEADER, count_tokens(text) + messages * TOKENS_PER_MESSAGE)
    wanted = body.get("max_completion_tokens", body.get("max_tokens"))
    if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
        raise BadRequest(f"max_tokens must be at least 1, got {wanted}.")
    if body.get("n") not in (None, 1):
        raise BadRequest("n other than 1 is not emulated.")
    room = context - prompt
    if room < (wanted or 1):
        raise BadRequest(
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{prompt + (wanted or 0)} tokens ({prompt} in the messages, {wanted or 0} in the "
            "completion). Please reduce the length of the messages or completion."
        )
    limit = wanted or (room if chat else 16)
    natural = _header(headers, OUTPUT_HEADER, natural_length(text))
    stays = bool(body.get("ignore_eos")) and wanted is not None
    output = limit if stays else min(limit, max(natural, _integer(body, "min_tokens")))
    options = body.get("stream_options") or {}
    return Asked(
        model=_model(body),
        prompt_tokens=prompt,
        cached_tokens=min(_header(headers, CACHED_HEADER, 0), prompt - 1),
        output_tokens=output,
        finish_reason="length" if output == limit else "stop",
        is_streaming=bool(body.get("stream")),
        includes_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def read_embedding(
    body: Mapping[str, Any], headers: Mapping[str, str], *, context: int, field: str = "input"
) -> tuple[str, list[int]]:
    """Read an embeddings request: the model, and the tokens of each input.

    Raises:
        BadRequest: there is no input, or one is too long.
    """
    given = body.get(field)
    if isinstance(given, list) and given and all(isinstance(item, int) for item in given):
        given = [given]
    inputs: list[Any] = given if isinstance(given, list) else [given]
    if not inputs or not all(isinstance(item, str | list) for item in inputs):
        raise BadRequest(f"{field} must be a text, or a list of them.")
    counts = [count_tokens(item) if isinstance(item, str) else len(item) for item in inputs]
    if len(counts) == 1:
        counts = [_header(headers, PROMPT_HEADER, counts[0])]
    if (longest := max(counts)) > context:
        raise BadRequest(
            f"This model's maximum context length is {context} tokens. However, you requested "
            f"{longest} tokens in the input for embedding generation."
        )
    return _model(body), counts


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model", "")
    if not isinstance(model, str):
        raise BadRequest("model must be a string.")
    return model


def _chat_text(body: Mapping[str, Any]) -> tuple[str, int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message.")
    parts: list[str] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest("each message must have a role.")
        content = message.get("content") or ""
        if isinstance(content, list):
            parts += [str(part.get("text", "")) for part in content if isinstance(part, dict)]
        else:
            parts.append(str(content))
    return "".join(parts), len(messages)


def _prompt_text(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return "abcd" * len(prompt)
    raise BadRequest("prompt must be one text, or one list of tokens.")


def _integer(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key) or 0
    if not isinstance(value, int) or value < 0:
        raise BadRequest(f"{key} must be a number, 0 or more.")
    return value


def _header(headers: Mapping[str, str], name: str, default: int) -> int:
    text = headers.get(name)
    if text is None:
        return default
    try:
        return max(int(text), 0 if name == CACHED_HEADER else 1)
    except ValueError:
        raise BadRequest(f"{name} must be a number, got {text!r}.") from None
