"""What a client is told when its request fails, in the form of OpenAI's API."""

from __future__ import annotations

import math

import orjson
from aiohttp import web


class RequestError(Exception):
    """A request that is answered with an error of ours.

    Attributes:
        status: the HTTP status.
        code: a constant that programs can match.
        param: the field of the request that is wrong, or None.
        retry_after_s: what Retry-After says, or None for no such header.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


def error_response(error: RequestError) -> web.Response:
    """Build the answer for an error."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {
        "error": {
            "message": str(error),
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }
    response = web.Response(
        status=error.status, body=orjson.dumps(body), content_type="application/json"
    )
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return response
