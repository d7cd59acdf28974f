"""What a client is told when its request fails, in the form of OpenAI's API."""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson
from aiohttp import web


class RequestError(Exception):
    """A request that is answered with an error of ours.

    Attributes:
        status: the HTTP status.
        code: a constant that programs can match.
        param: the field of the request that is wrong, or None.
        kind: what OpenAI calls the error's type.
        retry_after_s: what Retry-After says, or None for no such header.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        kind: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})


def error_body(error: RequestError) -> bytes:
    """Write an error as JSON: whatever a client put into it is inert there."""
    return orjson.dumps(
        {
            "error": {
                "message": str(error),
                "type": error.kind,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def error_response(error: RequestError) -> web.Response:
    """Build the answer for an error."""
    response = web.Response(
        status=error.status,
        body=error_body(error),
        content_type="application/json",
        headers=error.headers,
    )
    response.headers["X-Content-Type-Options"] = "nosniff"  # no browser takes it for HTML
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return response
