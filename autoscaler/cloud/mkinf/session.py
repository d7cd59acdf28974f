"""One call of the API, from an endpoint to its JSON: bearer, pace, deadline, repeats, refusals.

What may be repeated is said by the endpoint. A call with an effect that is not safe to repeat is
sent once; without an answer that was understood its outcome is unknown, whatever went wrong.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import urlencode

import orjson
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from autoscaler.clock import Clock
from autoscaler.cloud.mkinf import endpoints
from autoscaler.cloud.mkinf.auth import authorizer
from autoscaler.cloud.mkinf.credentials import Credential
from autoscaler.cloud.mkinf.endpoints import Endpoint
from autoscaler.cloud.mkinf.failures import failure_of, retry_after_s
from autoscaler.cloud.mkinf.pace import Pace
from autoscaler.cloud.mkinf.schema import decode, parse
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.mkinf.transport import Request, Response, Send
from autoscaler.cloud.mkinf.values import Token
from autoscaler.cloud.secret import Secret
from autoscaler.errors import (
    AuthFailed,
    AutoscalerError,
    CloudUnavailable,
    HeldBack,
    OutcomeUnknown,
    SchemaError,
)

log = structlog.get_logger(__name__)

V = TypeVar("V")

_LONGEST_PAUSE_S: Final = 300.0
_LONGEST_WAIT_S: Final = 30.0  # for a place, or because the cloud says Retry-After
_FIRST_BACKOFF_S: Final = 0.5
_USER_AGENT: Final = "mkinf-autoscaler"


@dataclass(frozen=True, slots=True)
class Call:
    """What to call.

    Attributes:
        repeatable: None takes the endpoint's word.
    """

    endpoint: Endpoint
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] | None = field(default=None, repr=False)
    repeatable: bool | None = None

    @property
    def may_repeat(self) -> bool:
        return self.endpoint.repeatable if self.repeatable is None else self.repeatable


@dataclass(frozen=True, slots=True)
class _Deadline:
    """When a call must have been started, and answered (None: its usual time after its start)."""

    start_by_s: float
    answered_by_s: float | None


class Session:
    """Calls the API for one project with one credential."""

    def __init__(
        self,
        settings: MkinfSettings,
        credential: Credential,
        send: Send,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._send = send
        self._clock = clock
        self._rng = rng
        self._pace = Pace(settings.requests_per_s, settings.in_flight)
        self._auth = authorizer(credential, self._exchange, clock)

    async def close(self) -> None:
        self._pace.close()
        await self._auth.close()

    async def call(self, call: Call) -> object:
        """Make the call and give its JSON, None for an empty answer.

        Raises:
            HeldBack: nothing was sent. CloudUnavailable, AuthFailed: no answer; repeat on the next pass.
            OutcomeUnknown: sent, not answered in a way we understand; only where not repeatable.
            Rejected and its kinds, OutOfStock, QuotaExceeded: refused.
            SchemaError: answered, not JSON; only where repeatable.
        """
        if call.may_repeat:
            return await self._call_repeatedly(call)
        return await self._call_once(call)

    async def _call_repeatedly(self, call: Call) -> object:
        async for attempt in AsyncRetrying(
            sleep=self._clock.sleep,
            stop=stop_after_attempt(self._settings.tries),
            wait=self._backoff_s,
            retry=retry_if_exception(_is_worth_repeating),
            before_sleep=_log_repeat,
            reraise=True,
        ):
            with attempt:
                try:
                    response = await self._authorized(call)
                except OutcomeUnknown as exc:
                    # Repeating is safe, so all that matters is that there was no answer.
                    raise CloudUnavailable(str(exc)) from exc
                return _json(call.endpoint, response)
        raise AssertionError("tenacity raises what the last attempt raised")

    async def _call_once(self, call: Call) -> object:
        response = await self._authorized(call)
        try:
            return _json(call.endpoint, response)
        except SchemaError as exc:
            raise OutcomeUnknown(f"accepted, but not understood: {exc}") from exc

    async def _authorized(self, call: Call) -> Response:
        """Send; if the credential is refused, once more with another where repeating is safe."""
        deadline = self._deadline(call)
        for is_last in (False, True):
            bearer = await self._in_time(deadline, self._auth.bearer())
            response = await self._paced(call, bearer, deadline)
            if 200 <= response.status < 300:
                self._auth.accepted()
                return response
            failure = self._failure(call, response)
            if not isinstance(failure, AuthFailed):
                raise failure
            try:
                if is_last or not await self._in_time(deadline, self._auth.renew(bearer)):
                    break
            except HeldBack as exc:
                # The call itself was sent: only its repeat was held back.
                raise CloudUnavailable(f"{failure}. It could not be renewed: {exc}") from exc
            if not call.may_repeat:
                # A name goes out in one create call, ever, even where the first was refused.
                raise CloudUnavailable(f"{failure}. It is renewed now; this is not sent twice")
        if response.status == 401 and call.endpoint.is_project_scoped:
            # Others may be closed to a project's key, which is no reason to leave it alone.
            self._auth.refused()
        raise failure

    def _deadline(self, call: Call) -> _Deadline:
        now = self._clock.boot_s()
        if call.may_repeat:
            return _Deadline(now + _LONGEST_WAIT_S, None)
        whole = self._settings.create_timeout_s
        return _Deadline(now + whole / 3, now + whole)

    async def _in_time(self, deadline: _Deadline, bearer: Awaitable[V]) -> V:
        try:
            async with asyncio.timeout(deadline.start_by_s - self._clock.boot_s()):
                return await bearer
        except TimeoutError:
            raise HeldBack("no token was to be had in time; nothing was sent") from None

    async def _paced(self, call: Call, bearer: Secret | None, deadline: _Deadline) -> Response:
        """Send in its turn; a turn that comes too late is not taken."""
        wait_s = deadline.start_by_s - self._clock.boot_s()
        if self._pace.paused_s() > wait_s:
            raise HeldBack(
                f"{call.endpoint.label}: mkinf asked us to wait; nothing was sent",
                retry_after_s=self._pace.paused_s(),
            )
        async with AsyncExitStack() as place:
            try:
                async with asyncio.timeout(wait_s):
                    await place.enter_async_context(
                        self._pace.place(delete=call.endpoint.is_delete, effect=not call.may_repeat)
                    )
            except TimeoutError:
                raise HeldBack(
                    f"{call.endpoint.label}: too many calls wait for our own rate limit"
                    f" ({self._settings.requests_per_s:g}/s); nothing was sent"
                ) from None
            response = await self._send(self._request(call, bearer, deadline))
        self._obey(response)
        return response

    def _request(self, call: Call, bearer: Secret | None, deadline: _Deadline) -> Request:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": _USER_AGENT,
        }
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer.reveal()}"
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        timeout_s = self._settings.answer_timeout_s
        if deadline.answered_by_s is not None:
            timeout_s = deadline.answered_by_s - self._clock.boot_s()
        query = f"?{urlencode(call.query, safe=',:')}" if call.query else ""
        return Request(
            method=call.endpoint.method,
            target=call.endpoint.fill(**call.parameters) + query,
            headers=headers,
            body=None if call.body is None else orjson.dumps(call.body),
            timeout_s=timeout_s,
        )

    def _obey(self, response: Response) -> None:
        """Hold all calls back for as long as the cloud asks, within reason."""
        if response.status in (429, 503):
            wait_s = retry_after_s(response.headers, self._clock.now())
            if wait_s:
                self._pace.pause(min(wait_s, _LONGEST_PAUSE_S))

    def _failure(self, call: Call, response: Response) -> AutoscalerError:
        failure = failure_of(call.endpoint, response, self._clock.now(), repeatable=call.may_repeat)
        text = str(failure)
        for secret in self._auth.secrets():  # a server may repeat what it was sent
            text = text.replace(secret.reveal(), "****")
        failure.args = (text,)
        return failure

    async def _exchange(self, grant: dict[str, str]) -> Token:
        """Exchange a grant for tokens; see `auth.Exchange`."""
        call = Call(endpoints.TOKEN, body=grant)
        response = await self._paced(call, None, self._deadline(call))
        if not 200 <= response.status < 300:
            raise self._failure(call, response)
        try:
            token, _ = parse(endpoints.TOKEN, Token, _json(call.endpoint, response))
        except SchemaError as exc:
            raise OutcomeUnknown(str(exc)) from exc
        return token

    def _backoff_s(self, state: RetryCallState) -> float:
        """Wait what the cloud asked for, or exponentially longer with full jitter."""
        failure = state.outcome.exception() if state.outcome is not None else None
        asked = failure.retry_after_s if isinstance(failure, CloudUnavailable) else None
        ceiling = _FIRST_BACKOFF_S * 2.0 ** (state.attempt_number - 1)
        return (asked or 0.0) + self._rng.uniform(ceiling / 2, ceiling)


def _json(endpoint: Endpoint, response: Response) -> object:
    return decode(endpoint, response.body) if response.body.strip() else None


def _is_worth_repeating(failure: BaseException) -> bool:
    return (
        isinstance(failure, CloudUnavailable)
        and not isinstance(failure, AuthFailed | HeldBack)
        and (failure.retry_after_s or 0.0) <= _LONGEST_WAIT_S
    )


def _log_repeat(state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome is not None else None
    log.debug("cloud_call_repeated", attempt=state.attempt_number, reason=str(failure))
