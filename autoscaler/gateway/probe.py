"""One request to one model server for the daemon: by the connections, the TLS and the bytes of clients' requests."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

import orjson

from autoscaler.gateway.schema import ProbeBody
from autoscaler.gateway.upstream import (
    CertificateRefused,
    ConnectFailed,
    NodeConnection,
    NodeFailed,
    Upstreams,
)

_CONNECT_S = 10.0
_MAX_BODY_BYTES = 1024 * 1024


async def probe(upstreams: Upstreams, asked: ProbeBody) -> dict[str, object]:
    """Send it and tell what came: `status`, `body`, `seconds`; else what `failed`, and `why`.

    `failed` is "connect", "tls", "timeout" or "answer". Nothing is retried and no figure of a pool counts it.
    """
    trust = asked.trust.value() if asked.trust is not None else None
    try:
        async with asyncio.timeout(asked.timeout_s):
            patience_s = min(_CONNECT_S, asked.timeout_s)
            connection = await upstreams.connect(asked.url, patience_s, trust)
            try:
                return await _exchange(connection, asked)
            finally:
                connection.abort()
    except CertificateRefused as exc:
        return {"failed": "tls", "why": str(exc)}
    except ConnectFailed as exc:
        return {"failed": "connect", "why": str(exc)}
    except NodeFailed as exc:
        return {"failed": "answer", "why": str(exc)}
    except TimeoutError:
        return {"failed": "timeout", "why": f"no answer within {asked.timeout_s:g} s"}


async def _exchange(connection: NodeConnection, asked: ProbeBody) -> dict[str, object]:
    began = time.monotonic()
    head = await connection.send(_request(asked), asked.timeout_s)
    body = bytearray(connection.take_early())

    def collect(data: bytes) -> None:
        body.extend(data)
        if len(body) > _MAX_BODY_BYTES:
            connection.abort()

    await connection.stream_to(collect)
    return {
        "status": head.status,
        "body": body.decode("utf-8", "replace"),
        "seconds": time.monotonic() - began,
    }


def _request(asked: ProbeBody) -> bytes:
    method = "GET" if asked.payload is None else "POST"
    body = b"" if asked.payload is None else orjson.dumps(asked.payload)
    lines = [
        f"{method} {asked.path} HTTP/1.1",
        f"Host: {urlsplit(asked.url).netloc}",
        "Accept-Encoding: identity",
        f"Content-Length: {len(body)}",
    ]
    lines += ["Content-Type: application/json"] if body else []
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
