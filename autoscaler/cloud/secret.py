"""A text that must not be seen: keys, passwords, tokens, and links that open somebody's billing."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Holds a secret text. Nothing prints it but `reveal`, where it is used."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Give the text, to the one place that sends it or shows it to the operator."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('****')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("****", spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
