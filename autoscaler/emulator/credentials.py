"""Access keys and sessions: who is calling, and which project is open to them.

Refresh tokens rotate: each is good once, and for a short grace time again (the first answer may have
been lost); used later than that it is taken for stolen, and the session ends.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from autoscaler.emulator.chance import Chance
from autoscaler.emulator.settings import Settings


@dataclass(slots=True)
class Session:
    """What one sign-in with a password has opened."""

    id: int
    email: str
    is_over: bool = False


@dataclass(slots=True)
class _Access:
    session: Session
    until: datetime


@dataclass(slots=True)
class _Refresh:
    session: Session
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: `label` may be logged. `project_id` None: every project is open."""

    label: str
    project_id: str | None


@dataclass(frozen=True, slots=True)
class TokenPair:
    access_token: str
    refresh_token: str


class SignInRefused(Exception):
    """Wrong password, or a refresh token that is unknown, used up, or of a session that is over."""


class Credentials:
    """Issues and checks. Secrets are kept in memory only and told to nobody else."""

    def __init__(self, settings: Settings, chance: Chance) -> None:
        self._settings = settings
        self._timings = settings.timings
        self._chance = chance
        self._access: dict[str, _Access] = {}
        self._refresh: dict[str, _Refresh] = {}
        self._sessions = 0
        self.revoked = False

    def identify(self, authorization: str, now: datetime) -> Caller | None:
        """Say who holds this `Authorization` header; None if it opens nothing."""
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret or self.revoked:
            return None
        key = self._settings.access_key
        if key is not None and hmac.compare_digest(secret.encode(), key.encode()):
            return Caller("access-key", self._settings.projects[0].id)
        access = self._access.get(secret)
        if access is None or access.session.is_over or now >= access.until:
            return None
        return Caller(f"session-{access.session.id}", None)

    def sign_in(self, email: str, password: str, now: datetime) -> TokenPair:
        """The password grant.

        Raises:
            SignInRefused: wrong, or there is no password.
        """
        expected = self._settings.password
        if (
            expected is None
            or self.revoked
            or email != self._settings.email
            or not hmac.compare_digest(password.encode(), expected.encode())
        ):
            raise SignInRefused("wrong email or password")
        self._sessions += 1
        return self._issue(Session(self._sessions, email), now)

    def refresh(self, token: str, now: datetime) -> TokenPair:
        """The refresh grant.

        Raises:
            SignInRefused: unknown, used before, or its session is over.
        """
        known = self._refresh.get(token)
        if known is None or known.session.is_over or self.revoked:
            raise SignInRefused("unknown refresh token")
        if known.used_at is None:
            known.used_at = now
        elif now - known.used_at > timedelta(seconds=self._timings.refresh_grace_s):
            known.session.is_over = True
            raise SignInRefused("refresh token was used before: the session is over")
        return self._issue(known.session, now)

    def expire_all(self) -> None:
        """All access tokens have expired; refresh tokens stay good."""
        self._access.clear()

    def life_told_s(self) -> int:
        """`expires_in`: what a token's life is on the client's clock."""
        return max(1, int(self._timings.token_life_s / self._settings.time_factor))

    def _issue(self, session: Session, now: datetime) -> TokenPair:
        self._access = {
            token: access for token, access in self._access.items() if access.until > now
        }
        pair = TokenPair(self._chance.new_token(), self._chance.new_token())
        until = now + timedelta(seconds=self._timings.token_life_s)
        self._access[pair.access_token] = _Access(session, until)
        self._refresh[pair.refresh_token] = _Refresh(session)
        return pair
