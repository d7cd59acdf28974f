"""The way of a call through the emulator: faults, credentials, handler, faults, ledger."""

from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson

from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.credentials import Caller
from autoscaler.emulator.faults import Fault, Subject
from autoscaler.emulator.http import (
    Answer,
    Call,
    ConnectionDropped,
    Refused,
    Request,
    Route,
    Router,
    forbidden,
    json_answer,
    not_found,
    provider_error,
    unauthorized,
    unknown_route,
)

PREFIX = "/v0.1"
HANG_S = 600.0  # longer than any client waits
_NOT_JSON = b"<html><head><title>%d</title></head><body><h1>Bad Gateway</h1></body></html>"


class Gate:
    """Lets calls in."""

    def __init__(self, cloud: Cloud, router: Router) -> None:
        self._cloud = cloud
        self._router = router

    async def pass_through(self, request: Request) -> Answer:
        """Answer a call of the API.

        Raises:
            ConnectionDropped: a fault wants no answer.
        """
        path = request.path.removeprefix(PREFIX)
        found = self._router.find(request.method, path) if path != request.path else None
        name = found[0].name if found else "unknown"
        caller = self._cloud.credentials.identify(
            request.headers.get("authorization", ""), self._cloud.now()
        )
        outcome = "dropped"
        try:
            if found is None:
                answer = unknown_route().answer
            else:
                answer = await self._with_faults(request, found[0], found[1], caller)
            outcome = str(answer.status)
        finally:
            self._record(request, name, caller, outcome)
        return self._dated(answer)

    def _dated(self, answer: Answer) -> Answer:
        """A cloud whose clock is wrong says so in `Date`, too."""
        skew = self._cloud.faults.standing_of("clock_skew")
        if skew is None:
            return answer
        told = datetime.now(UTC) + timedelta(seconds=skew.option("skew_s"))
        return replace(answer, headers={**answer.headers, "Date": format_datetime(told, True)})

    def _record(self, request: Request, name: str, caller: Caller | None, outcome: str) -> None:
        self._cloud.ledger.record(
            self._cloud.now(),
            "call",
            caller=caller.label if caller else "nobody",
            name=_vm_of(self._cloud, request),
            call=name,
            method=request.method,
            path=request.path,
            status=outcome,
            peer=request.peer,
            agent=request.headers.get("user-agent", ""),
        )

    # -- faults around the handler

    async def _with_faults(
        self, request: Request, route: Route, params: dict[str, str], caller: Caller | None
    ) -> Answer:
        subject = Subject(call=route.name, name=_vm_of(self._cloud, request))
        take = self._cloud.faults.take
        delay = take("delay", subject)
        if delay is not None and not delay.option("after"):
            await self._sleep_real(delay.option("delay_s"))
        if take("drop_before", subject) is not None:
            raise ConnectionDropped
        late = take("late", subject)
        if late is not None:
            self._do_late(late, request, route, params, caller)
            raise ConnectionDropped
        status = take("status", subject)
        if status is not None and not status.option("after"):
            return _error(status)
        page = take("html", subject)
        if page is not None and not page.option("after"):
            return _html(page)

        answer = self._handle(request, route, params, caller)
        if take("replay", subject) is not None:
            answer = self._handle(request, route, params, caller)

        if delay is not None and delay.option("after"):
            await self._sleep_real(delay.option("delay_s"))
        if take("hang", subject) is not None:
            await self._sleep_real(HANG_S)
            raise ConnectionDropped
        if take("drop_after", subject) is not None:
            raise ConnectionDropped
        if status is not None:
            return _error(status)
        if page is not None:
            return _html(page)
        if take("cut_json", subject) is not None:
            return replace(answer, body=answer.body[: len(answer.body) // 2])
        huge = take("huge", subject)
        return answer if huge is None else _huge(huge)

    async def _sleep_real(self, seconds: float) -> None:
        await self._cloud.shop.clock.sleep(seconds * self._cloud.shop.settings.time_factor)

    def _do_late(
        self,
        fault: Fault,
        request: Request,
        route: Route,
        params: dict[str, str],
        caller: Caller | None,
    ) -> None:
        def do(_: datetime) -> None:
            self._handle(request, route, params, caller)

        when = self._cloud.now() + timedelta(seconds=fault.option("late_s"))
        self._cloud.shop.agenda.at(when, do)

    # -- the handler

    def _handle(
        self, request: Request, route: Route, params: dict[str, str], caller: Caller | None
    ) -> Answer:
        try:
            project_id = self._open_project(route, params, caller)
            label = caller.label if caller else "nobody"
            return route.handler(Call(request, params, label, project_id))
        except Refused as refused:
            return refused.answer

    def _open_project(self, route: Route, params: dict[str, str], caller: Caller | None) -> str:
        """The project that this call may touch; "" where any is open.

        Raises:
            Refused: 401, 403 or 404.
        """
        if route.is_open:
            return ""
        if caller is None:
            raise unauthorized()
        wanted = params.get("project_id")
        if wanted is None:
            return caller.project_id or ""
        if wanted not in self._cloud.books.projects:
            raise not_found("project")
        if caller.project_id not in (None, wanted):
            raise forbidden("this key opens another project")
        return wanted


def _vm_of(cloud: Cloud, request: Request) -> str:
    """The name of the VM that a call is about, as far as it says."""
    _, found, rest = request.path.partition("/vms/")
    if found:
        vm = cloud.books.vms.get(rest.partition("/")[0])
        if vm is not None:
            return vm.name
    if request.method == "POST" and request.path.endswith(("/vms", "/disks", "/firewall-rules")):
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            return ""
        return str(body.get("name", "")) if isinstance(body, dict) else ""
    return ""


def _error(fault: Fault) -> Answer:
    """The error in the form that belongs to its status."""
    code = int(fault.option("code"))
    retry_after = int(fault.option("retry_after"))
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    match code:
        case 401:
            answer = unauthorized().answer
        case 402:
            answer = json_answer(
                {"message": "no valid card", "url": "https://billing.example/card"}, 402
            )
        case 429:
            answer = provider_error(429, "too_many_requests", "slow down").answer
        case 502 | 503 | 504:
            answer = Answer(code, b"upstream error\n", "text/plain")
        case _:
            name = {400: "bad_request", 403: "forbidden", 404: "not_found", 409: "conflict"}
            answer = provider_error(code, name.get(code, "internal_error"), "as ordered").answer
    return replace(answer, headers=headers)


def _html(fault: Fault) -> Answer:
    code = int(fault.option("code"))
    return Answer(code, _NOT_JSON % code, "text/html")


def _huge(fault: Fault) -> Answer:
    body = b'{"items": ["' + b"x" * int(fault.option("size_mb") * 1_000_000) + b'"]}'
    if fault.option("gzip"):
        return Answer(200, gzip.compress(body, 6), headers={"Content-Encoding": "gzip"})
    return Answer(200, body)
