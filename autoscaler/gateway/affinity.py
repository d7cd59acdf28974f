"""Which endpoint a request's key prefers, so that what an engine has cached of a session is found again.

Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads", SODA
2018): every key has an order of all endpoints, and goes to the first of them that holds less than `bound` times its
share of what is in flight. The order is that of weighted rendezvous hashing (Thaler, Ravishankar 1998), which needs no
ring to be kept: an endpoint's score depends on the key and on itself alone, so one that comes takes only the keys that
it now wins, one that goes gives back only its own, and one of twice the weight wins twice as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from math import ceil, log
from typing import Protocol, TypeVar

import orjson

from autoscaler.gateway.settings import Affinity

_MASK = (1 << 64) - 1
# Below this share of its places an endpoint takes whatever prefers it. With two requests in flight on four endpoints
# the bound alone would part two of one session, and no engine is the better for it.
_FREE_SHARE = 0.25
_DEEPEST = 6  # lists within lists of a message; what is deeper is no part of the key


class Bin(Protocol):
    """What the choice must know of an endpoint."""

    @property
    def seed(self) -> int:
        """64 bits that are its own for ever."""

    @property
    def weight(self) -> float: ...

    @property
    def load(self) -> int:
        """Requests in flight there."""

    @property
    def max_inflight(self) -> int:
        """Its places; 0 when they are not bounded."""


_Bin = TypeVar("_Bin", bound=Bin)


def hash64(data: bytes) -> int:
    """Hash to 64 bits, the same in every process and every version."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def choose(key: int, bins: Sequence[_Bin], bound: float) -> _Bin | None:
    """Take the first in the key's order that is below its bound; None only when there are no bins.

    Args:
        bins: the endpoints that may take a request now.
        bound: above 1; how much more than its share one may hold. The bounds add up to more than all that is in
            flight, so one of them always has room.
    """
    share = bound * (sum(one.load for one in bins) + 1) / (sum(one.weight for one in bins) or 1.0)
    best: _Bin | None = None
    least = 0.0
    for one in bins:
        if one.load >= max(ceil(share * one.weight), one.max_inflight * _FREE_SHARE):
            continue
        score = _score(key, one)
        if best is None or score < least:
            best, least = one, score
    return best


def key_of(affinity: Affinity, headers: Mapping[str, str], body: bytes) -> int | None:
    """Draw a request's key: its header, else the head of its prompt; None when it has neither."""
    if affinity.header is not None and (named := headers.get(affinity.header)):
        return hash64(b"header:" + named.encode("utf-8", "surrogateescape"))
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    head = _prompt_head(fields, affinity.prompt_chars)
    return hash64(b"prompt:" + head.encode("utf-8", "surrogatepass")) if head else None


def _score(key: int, one: Bin) -> float:
    """An exponential variable of rate `weight`: the least of several belongs to each by its weight."""
    mixed = (key ^ one.seed) & _MASK  # then the finalizer of MurmurHash3, so that every bit counts
    mixed = ((mixed ^ (mixed >> 33)) * 0xFF51AFD7ED558CCD) & _MASK
    mixed = ((mixed ^ (mixed >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK
    mixed ^= mixed >> 33
    return -log((mixed + 0.5) / 2.0**64) / one.weight


def _prompt_head(fields: object, chars: int) -> str:
    """The first characters up to the end of the first user's message, which all turns of a conversation share."""
    if not isinstance(fields, dict):
        return ""
    messages = fields.get("messages")
    if not isinstance(messages, list):
        return _cut(_texts(fields.get("prompt") or fields.get("input")), chars)
    return _cut(_opening(messages), chars)


def _opening(messages: Sequence[object]) -> Iterable[str]:
    for message in messages:
        if isinstance(message, dict):
            yield str(message.get("role"))
            yield from _texts(message.get("content"))
            if message.get("role") == "user":
                return


def _texts(value: object, depth: int = _DEEPEST) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _texts(item, depth - 1)
    elif isinstance(value, dict) and depth:  # a part of a message: its text, or a picture's address
        yield from _texts(value.get("text") or list(value.values()), depth - 1)
    elif isinstance(value, int):  # a prompt may be given as tokens
        yield f"{value},"


def _cut(pieces: Iterable[str], chars: int) -> str:
    kept: list[str] = []
    left = chars
    for piece in pieces:
        kept.append(piece[:left])
        left -= len(kept[-1])
        if left <= 0:
            break
    return "".join(kept)
