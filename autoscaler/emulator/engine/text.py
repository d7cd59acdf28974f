"""Prompts measured, answers made up. A token is four characters, each way."""

from __future__ import annotations

from zlib import crc32

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4  # of a chat template
WORDS = (
    "the sun and sky are one big sea now you can see how far the old way has led our own men who saw "
    "its end but did not say why any day may yet get new ice for all who may act for us "
)
_PAGE = " ".join(word.ljust(3)[:3] for word in WORDS.split()) + " "
_BOOK = _PAGE * 64


def answer(begin: int, end: int) -> str:
    """The text of an answer's tokens from `begin` to `end`."""
    offset = begin * CHARACTERS_PER_TOKEN % len(_PAGE)
    length = (end - begin) * CHARACTERS_PER_TOKEN
    if offset + length <= len(_BOOK):
        return _BOOK[offset : offset + length]
    return (_PAGE * ((offset + length) // len(_PAGE) + 1))[offset : offset + length]


def count_tokens(text: str) -> int:
    """How many tokens a text is, at least one."""
    return max(len(text) // CHARACTERS_PER_TOKEN, 1)


def natural_length(prompt: str) -> int:
    """How long the answer to a prompt is when nobody says: 32 to 287 tokens, always the same."""
    return 32 + crc32(prompt.encode()) % 256
