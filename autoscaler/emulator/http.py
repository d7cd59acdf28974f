"""Requests and answers without a transport, so that the cloud can also be driven in process."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class Request:
    """One call. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back."""

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class ConnectionDropped(Exception):
    """No answer comes: the connection is cut."""


class Refused(Exception):
    """The call is refused with this answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"refused with {answer.status}")
        self.answer = answer


def json_answer(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Answer:
    return Answer(status, orjson.dumps(body), headers=headers or {})


def read_json(request: Request) -> object:
    """Parse the body.

    Raises:
        Refused: not JSON.
    """
    try:
        parsed: object = orjson.loads(request.body)
    except orjson.JSONDecodeError as exc:
        raise bad_request("the body is not valid JSON") from exc
    return parsed


def whole_number(request: Request, key: str, default: int) -> int:
    """A number of the query.

    Raises:
        Refused: 400, not a whole number.
    """
    text = request.query.get(key, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise bad_request(f"{key}: must be a whole number")
    return int(text)


# -- refusals: in the provider's form where it is the provider's, in mkinf's where it is mkinf's


def provider_error(status: int, code: str, message: str) -> Refused:
    return Refused(
        json_answer({"code": code, "message": message, "error_id": "", "reason": ""}, status)
    )


def bad_request(message: str) -> Refused:
    return provider_error(400, "bad_request", message)


def forbidden(message: str) -> Refused:
    return provider_error(403, "forbidden", message)


def not_found(what: str) -> Refused:
    return provider_error(404, "not_found", f"{what} not found")


def conflict(message: str) -> Refused:
    return provider_error(409, "conflict", message)


def unauthorized() -> Refused:
    return Refused(json_answer({"status": 401, "message": "Unauthorized"}, 401))


def unknown_route() -> Refused:
    return Refused(json_answer({"status": 501, "message": "Not Implemented"}, 501))


# -- routes


@dataclass(frozen=True, slots=True)
class Call:
    """A request that found its route.

    Attributes:
        params: the named parts of the path.
        caller: who calls, as the ledger may say it.
        project_id: the project that this call may touch; "" where that is any.
    """

    request: Request
    params: Mapping[str, str]
    caller: str = ""
    project_id: str = ""


Handler = Callable[[Call], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path like `/vms/{vm_id}`; `name` is what faults and the ledger call it."""

    method: str
    path: str
    name: str
    handler: Handler
    is_open: bool = False

    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path))


class Router:
    """Finds the route of a call; fixed parts of a path win over named ones."""

    def __init__(self, routes: list[Route]) -> None:
        ordered = sorted(routes, key=lambda route: route.path.count("{"))
        self.routes = tuple(ordered)
        self._table = [(route.pattern(), route) for route in ordered]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        for pattern, route in self._table:
            if route.method == method:
                found = pattern.fullmatch(path)
                if found is not None:
                    return route, found.groupdict()
        return None
