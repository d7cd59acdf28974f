"""What can be said of a prompt without a tokenizer: an estimate of its tokens, and whether it is surely too long."""

from __future__ import annotations

from collections.abc import Mapping

# No vocabulary in use has a token of more bytes than this (the longest are runs of 128 spaces).
_LONGEST_TOKEN_BYTES = 256
_LEAST_BYTES = 2  # of one token in a body: a digit and a comma

Fields = Mapping[str, object]


def allowed_output(fields: Fields) -> int:
    """Say how many tokens a request lets the model generate; 0 where it does not say."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            count = fields.get("n")
            times = count if isinstance(count, int) and 1 <= count <= 1000 else 1
            return min(value, 10_000_000) * times
    return 0


def surely_too_long(fields: Fields, size: int, limit: int) -> tuple[str, int] | None:
    """Find a prompt of more than `limit` tokens: its field, and how many tokens it has at least; else None.

    Token ids are counted; of text, as much as the longest tokens could hold. Lists of prompts count one by one.

    Args:
        size: bytes of the body, which most often settle it without a look inside.
    """
    if size < limit * _LEAST_BYTES or fields.get("truncate_prompt_tokens"):
        return None
    for name in ("messages", "prompt", "input"):
        least = _least(fields.get(name))
        if least > limit:
            return name, least
    return None


def _least(value: object) -> int:
    match value:
        case [{"content": _} | {"role": _}, *_]:
            return sum(map(_characters, value)) // _LONGEST_TOKEN_BYTES
        case [str() | [*_], *_]:
            return max(map(_least_of_one, value))
        case _:
            return _least_of_one(value)


def _least_of_one(prompt: object) -> int:
    match prompt:
        case str():
            return len(prompt) // _LONGEST_TOKEN_BYTES  # characters: at most as many as bytes
        case [int(), *_]:
            return len(prompt)
        case _:
            return 0


def _characters(message: object) -> int:
    match message:
        case {"content": str(text)}:
            return len(text)
        case {"content": [*parts]}:
            texts = (part.get("text") for part in parts if isinstance(part, dict))
            return sum(len(text) for text in texts if isinstance(text, str))
        case _:
            return 0
