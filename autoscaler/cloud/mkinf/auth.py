"""The bearer text of each call, and what is done when it is refused.

An access key is read from its file and, when refused, read again: it may have been replaced.
A password is exchanged for a pair of tokens. The pair is renewed at 80 % of its life by one task
that all callers wait for; that task outlives any of them, because a refresh token works once and
the pair that comes back for it must not be lost with the caller that asked first.

Refused, a credential is left alone for a while that doubles up to a minute: no retry storm. A
replaced key file ends the wait at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.mkinf.credentials import AccessKey, Credential, Password
from autoscaler.cloud.mkinf.values import Token
from autoscaler.cloud.secret import Secret
from autoscaler.errors import AuthFailed, CloudUnavailable, ConfigError, OutcomeUnknown, Rejected

log = structlog.get_logger(__name__)

_RENEW_AT: Final = 0.8
_LONGEST_HOLD_S: Final = 60.0

Exchange = Callable[[dict[str, str]], Awaitable[Token]]
"""POST a grant to `/auth/token`.

Raises:
    AuthFailed, Rejected: the grant is refused.
    CloudUnavailable: nothing happened. OutcomeUnknown: the grant may have been used up.
"""


class Authorizer(Protocol):
    """Knows what to send as bearer."""

    async def bearer(self) -> Secret:
        """Give the text to send.

        Raises:
            AuthFailed: there is none, or it was refused a moment ago. CloudUnavailable: as ever.
        """

    async def renew(self, refused: Secret) -> bool:
        """Look for another text than `refused`; say whether there is one to try.

        Raises:
            AuthFailed, CloudUnavailable: no other could be had.
        """

    def accepted(self) -> None:
        """Note that the cloud took the bearer."""

    def refused(self) -> None:
        """Note that the cloud refused it for good: leave it alone for a while."""

    def secrets(self) -> tuple[Secret, ...]:
        """List what must be masked where the cloud's own words are shown."""

    async def close(self) -> None:
        """End what runs."""


def authorizer(credential: Credential, exchange: Exchange, clock: Clock) -> Authorizer:
    """Make the authorizer of a credential."""
    if isinstance(credential, AccessKey):
        return KeyAuthorizer(credential, clock)
    return TokenAuthorizer(credential, exchange, clock)


class Hold:
    """Leaves a refused credential alone: 1 s, then twice as long each time, up to a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_s = 1.0
        self._until = 0.0

    def begin(self) -> None:
        self._until = self._clock.boot_s() + self._next_s
        self._next_s = min(self._next_s * 2, _LONGEST_HOLD_S)

    def end(self) -> None:
        self._next_s, self._until = 1.0, 0.0

    def left_s(self) -> float:
        return max(0.0, self._until - self._clock.boot_s())

    def failure(self) -> AuthFailed:
        return AuthFailed(
            f"mkinf refused the credential; not asked again for {self.left_s():.0f} s. Replace it:"
            " the file is read again"
        )


class KeyAuthorizer:
    """A project's access key."""

    def __init__(self, credential: AccessKey, clock: Clock) -> None:
        self._credential = credential
        self._hold = Hold(clock)
        self._key: Secret | None = None

    async def bearer(self) -> Secret:
        if self._key is None:
            self._key = self._read()
        elif self._hold.left_s() and not self._is_replaced():
            raise self._hold.failure()
        return self._key

    async def renew(self, refused: Secret) -> bool:
        return self._key != refused or self._is_replaced()

    def accepted(self) -> None:
        self._hold.end()

    def refused(self) -> None:
        self._hold.begin()

    def secrets(self) -> tuple[Secret, ...]:
        return () if self._key is None else (self._key,)

    async def close(self) -> None:
        return

    def _is_replaced(self) -> bool:
        key = self._read()
        if key == self._key:
            return False
        log.info("cloud_key_replaced")
        self._key = key
        self._hold.end()
        return True

    def _read(self) -> Secret:
        try:
            return self._credential.read()
        except ConfigError as exc:
            raise AuthFailed(f"no access key: {exc}") from exc


@dataclass(frozen=True, slots=True)
class _Pair:
    token: Token
    got_at_s: float

    def age(self, now_s: float) -> float:
        """Say how much of its life has passed; 1 is its end."""
        return (now_s - self.got_at_s) / max(self.token.expires_in, 1)


class TokenAuthorizer:
    """An email and a password, exchanged for tokens."""

    def __init__(self, credential: Password, exchange: Exchange, clock: Clock) -> None:
        self._credential = credential
        self._exchange = exchange
        self._clock = clock
        self._hold = Hold(clock)
        self._pair: _Pair | None = None
        self._password: Secret | None = None
        self._renewal: asyncio.Task[_Pair] | None = None

    async def bearer(self) -> Secret:
        pair = self._pair
        if pair is None:
            return (await self._renewed()).token.access_token
        age = pair.age(self._clock.boot_s())
        if age < _RENEW_AT:
            return pair.token.access_token
        try:
            return (await self._renewed()).token.access_token
        except CloudUnavailable:
            if age >= 1:
                raise
            return pair.token.access_token  # still good: the next caller tries again

    async def renew(self, refused: Secret) -> bool:
        if self._pair is None or self._pair.token.access_token == refused:
            await self._renewed()
        return True

    def accepted(self) -> None:
        self._hold.end()

    def refused(self) -> None:
        self._hold.begin()

    def secrets(self) -> tuple[Secret, ...]:
        known = [self._password]
        if self._pair is not None:
            known += [self._pair.token.access_token, self._pair.token.refresh_token]
        return tuple(secret for secret in known if secret)

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
            self._renewal = None

    async def _renewed(self) -> _Pair:
        """Wait for the one renewal under way, starting it where there is none."""
        if self._renewal is None or self._renewal.done():
            if self._hold.left_s():
                raise self._hold.failure()
            self._renewal = asyncio.create_task(self._renew_pair(), name="mkinf-token-renewal")
            self._renewal.add_done_callback(_look_at)  # its callers may all be gone by then
        return await asyncio.shield(self._renewal)

    async def _renew_pair(self) -> _Pair:
        token = await self._refresh()
        if token is None:
            token = await self._sign_in()
        # Stored before anybody uses it: the old refresh token is spent from here on.
        self._pair = _Pair(token, self._clock.boot_s())
        log.debug("cloud_token_renewed", expires_in_s=token.expires_in)
        return self._pair

    async def _refresh(self) -> Token | None:
        """Use the refresh token; None when there is none that works."""
        if self._pair is None or self._pair.token.refresh_token is None:
            return None
        refresh_token = self._pair.token.refresh_token.reveal()
        try:
            return await self._exchange(
                {"grant_type": "refresh_token", "refresh_token": refresh_token}
            )
        except (AuthFailed, Rejected) as exc:
            log.info("cloud_refresh_token_refused", reason=str(exc))
        except OutcomeUnknown as exc:
            log.info("cloud_refresh_answer_lost", reason=str(exc))  # it may be spent
        return None

    async def _sign_in(self) -> Token:
        try:
            self._password = self._credential.read()
        except ConfigError as exc:
            raise AuthFailed(f"no password: {exc}") from exc
        try:
            return await self._exchange(
                {
                    "grant_type": "password",
                    "email": self._credential.email,
                    "password": self._password.reveal(),
                }
            )
        except (AuthFailed, Rejected) as exc:
            self._hold.begin()
            raise AuthFailed(f"mkinf refused email and password: {exc}") from exc
        except OutcomeUnknown as exc:
            raise CloudUnavailable(f"signing in: {exc}") from exc


def _look_at(task: asyncio.Task[_Pair]) -> None:
    if not task.cancelled():
        task.exception()
