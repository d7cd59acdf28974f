"""Who may ask, and how much: client keys, their models and their rates. No I/O.

A request is known by its key before a byte of its body is read, and admitted once its model is known. What is refused
here never reaches a pool: a client beyond its rate is no demand, and rents nothing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from autoscaler.gateway.errors import RequestError
from autoscaler.gateway.keys import ClientKey, KeyRing
from autoscaler.gateway.rate import Bucket

_BEARER = "bearer "
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_LONGEST_KEY = 512


@dataclass(eq=False, slots=True)
class Account:
    """What one key has used and is using. It outlives readings of the file that keep its name.

    Attributes:
        buffered_bytes: bodies of its requests under way, also of those that are still being read.
    """

    key: ClientKey
    in_flight: int = 0
    buffered_bytes: int = 0
    results: Counter[str] = field(default_factory=Counter)
    requests: Bucket | None = None
    tokens: Bucket | None = None

    def set_key(self, key: ClientKey, now: float) -> None:
        """Take the bounds of a key as it now stands in the file."""
        self.key = key
        self.requests = _bucket(self.requests, key.requests_per_minute, now)
        self.tokens = _bucket(self.tokens, key.tokens_per_minute, now)


def _bucket(known: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    if known is None:
        return Bucket(per_minute, now)
    if known.per_minute != per_minute:
        known.set_rate(per_minute, now)
    return known


@dataclass(eq=False, slots=True)
class Admission:
    """Lets requests in, or says why not.

    Attributes:
        ring: the keys in force; None lets everybody in.
        accounts: by the key's name.
        strangers: requests refused for want of a valid key, by reason.
    """

    ring: KeyRing | None = None
    clock: Callable[[], float] = time.monotonic
    accounts: dict[str, Account] = field(default_factory=dict)
    strangers: Counter[str] = field(default_factory=Counter)

    def set_ring(self, ring: KeyRing) -> None:
        """Put keys in force. What runs goes on; who is still in keeps what it has used."""
        now = self.clock()
        named = {key.name: key for key in ring.by_digest.values()}
        for name, key in named.items():
            account = self.accounts.get(name)
            if account is None:
                account = self.accounts[name] = Account(key)
            account.set_key(key, now)
        for name in self.accounts.keys() - named.keys():
            del self.accounts[name]
        self.ring = ring

    def identify(self, headers: Mapping[str, str]) -> Account | None:
        """Say whose request this is; None where everybody may ask.

        Raises:
            RequestError: 401.
        """
        if self.ring is None:
            return None
        given = headers.get("Authorization", "")
        if given[:7].lower() != _BEARER or not given[7:].strip():
            raise self._stranger(
                "missing_api_key",
                "No API key was given: send it as `Authorization: Bearer KEY` (api_key= in the SDK)",
            )
        text = given[7:].strip()
        key = self.ring.find(text.encode()) if len(text) <= _LONGEST_KEY else None
        if key is None:
            raise self._stranger(
                "invalid_api_key", "The API key is not known here: ask whoever runs this gateway"
            )
        if key.is_disabled:
            raise self._stranger(
                "disabled_api_key", f"The API key of `{key.name}` is disabled: ask for another one"
            )
        return self.accounts[key.name]

    def allow(self, account: Account | None, *names: str) -> None:
        """Check that a key may use a model of one of these names.

        Whether there is such a model makes no difference: nobody learns what others have.

        Raises:
            RequestError: 403.
        """
        if account is not None and not account.key.may_use(*names):
            account.results["forbidden"] += 1
            raise RequestError(
                403,
                "model_not_allowed",
                f"This API key may not use the model `{names[0][:200]}`; "
                "GET /v1/models lists those that it may",
                param="model",
            )

    @contextmanager
    def admit(self, account: Account | None, tokens: int) -> Iterator[dict[str, str]]:
        """Count a request against its key's bounds while it runs; gives the headers that tell of them.

        Args:
            tokens: an estimate, of the prompt's and of the most that may be generated.

        Raises:
            RequestError: 429, with what is used up and when to come back.
        """
        if account is None:
            yield {}
            return
        now = self.clock()
        _check(account, tokens, now)
        account.results["admitted"] += 1
        if account.requests is not None:
            account.requests.take(1, now)
        if account.tokens is not None:
            account.tokens.take(tokens, now)
        account.in_flight += 1
        try:
            yield told(account, now)
        finally:
            account.in_flight -= 1

    def _stranger(self, code: str, message: str) -> RequestError:
        self.strangers[code] += 1
        return RequestError(401, code, message, headers=_CHALLENGE)


def _check(account: Account, tokens: int, now: float) -> None:
    key = account.key
    if key.concurrent is not None and account.in_flight >= key.concurrent:
        raise _limited(
            account, "concurrent", f"{key.concurrent} requests at the same time", 1.0, now
        )
    for bucket, need, what in (
        (account.requests, 1, "requests"),
        (account.tokens, tokens, "tokens"),
    ):
        wait_s = bucket.wait_s(need, now) if bucket is not None else 0.0
        if bucket is not None and wait_s > 0:
            raise _limited(account, what, f"{bucket.per_minute} {what} per minute", wait_s, now)


def _limited(account: Account, what: str, limit: str, wait_s: float, now: float) -> RequestError:
    account.results[f"limited_{what}"] += 1
    kind = "requests" if what == "concurrent" else what
    return RequestError(
        429,
        "rate_limit_exceeded",
        f"The API key of `{account.key.name}` may have {limit}; try again in {_duration(wait_s)}",
        kind=kind,
        retry_after_s=wait_s,
        headers=told(account, now),
    )


def told(account: Account, now: float) -> dict[str, str]:
    """Say in OpenAI's headers what is left to a key."""
    headers = {}
    for bucket, what in ((account.requests, "requests"), (account.tokens, "tokens")):
        if bucket is not None:
            headers[f"x-ratelimit-limit-{what}"] = str(bucket.per_minute)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, int(bucket.left(now))))
            headers[f"x-ratelimit-reset-{what}"] = _duration(bucket.full_in_s(now))
    return headers


def _duration(seconds: float) -> str:
    """Write seconds as OpenAI does: 250ms, 7s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60}s"
