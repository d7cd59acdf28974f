"""Requests that are none: however a head and a body are spoilt, the next client is served."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from tests.gateway.conftest import MODEL

COUNT, AT_ONCE, PATIENCE_S = 240, 80, 0.5  # many spoilt requests are unfinished ones
PIECES = (
    b"\r\n", b"\r", b"\n", b"\x00", b"\xff", b" ", b":", b"\t", b"HTTP/1.1", b"HTTP/9.9", b"GET ", b"POST ",
    b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"FFFFFFFFFFFFFFFF\r\n", b"-1\r\n", b"0\r\n\r\n",
    b"Authorization: Bearer \xc3\x28\r\n", b"X: " + b"a" * 9000 + b"\r\n", b"{" * 2000, b"[[" * 500, b'{"model":',
    b'"\\ud800"', b"1e9999", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip


def spoilt(rng: random.Random) -> bytes:
    """A request with a few bytes taken out, put in, or doubled."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    raw = bytearray(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw))
        match rng.randrange(3):
            case 0:
                raw[at:at] = rng.choice(PIECES)
            case 1:
                del raw[at : at + rng.randint(1, 30)]
            case _:
                raw[at:at] = raw[at : at + rng.randint(1, 60)]
    return bytes(raw)


async def test_no_bytes_of_a_client_keep_the_next_one_from_being_served(
    gateway: Any, engine: Any
) -> None:
    engine.gate.set()
    await gateway.add("a", engine.url)
    rng = random.Random(20261124)
    requests = [spoilt(rng) for _ in range(COUNT)]
    port = int(gateway.url.rpartition(":")[2])

    async def send(raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(raw)
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read(4096)
        except (ConnectionError, TimeoutError):
            return b""
        finally:
            writer.close()

    answers: list[bytes] = []
    async with asyncio.timeout(60):
        for at in range(0, COUNT, AT_ONCE):
            answers += await asyncio.gather(*map(send, requests[at : at + AT_ONCE]))
    async with gateway.client.post(
        f"{gateway.url}/v1/chat/completions", json={"model": MODEL, "messages": []}
    ) as answer:
        status = answer.status

    assert status == 200
    codes = {a.split()[1] for a in answers if a.startswith(b"HTTP/1.1 ")}
    assert b"500" not in codes
    assert b"400" in codes
    assert not [a for a in answers if b"Traceback" in a]
