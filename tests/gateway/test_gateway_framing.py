"""Answers of nodes, read strictly: heads, chunks however cut, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from autoscaler.gateway.framing import BadAnswer, Chunks, parse_head

MODEL = "org/chat-8b"


def chunked(pieces: list[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    body = b"".join(b"%X%b\r\n%b\r\n" % (len(p), extension, p) for p in pieces if p)
    return body + b"0\r\n" + trailers + b"\r\n"


@asynccontextmanager
async def node(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve scripted bytes, one answer per request, then close the connection."""
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for answer in answers:
                head = await reader.readuntil(b"\r\n\r\n")
                at = head.lower().index(b"content-length:") + 15
                body = await reader.readexactly(int(head[at:].split(b"\r\n")[0]))
                heard.append(head + body)
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


@given(
    pieces=st.lists(st.binary(max_size=50), max_size=8),
    cuts=st.lists(st.integers(0, 600), max_size=12),
    extension=st.sampled_from([b"", b";a=b", b" ;x"]),
    trailers=st.sampled_from([b"", b"X: 1\r\n"]),
)
def test_chunks_give_the_body_however_they_are_cut(
    pieces: list[bytes], cuts: list[int], extension: bytes, trailers: bytes
) -> None:
    whole = chunked(pieces, extension, trailers)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = Chunks()

    body = b"".join(chunks.feed(whole[a:b]) for a, b in itertools.pairwise(edges))

    assert body == b"".join(pieces)
    assert chunks.is_complete
    assert chunks.surplus == 0


@pytest.mark.parametrize(
    "bad", [b"+5\r\n", b"0x5\r\n", b"5_0\r\n", b"\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"a" * 5000]
)
def test_malformed_chunks_are_refused(bad: bytes) -> None:
    with pytest.raises(BadAnswer):
        Chunks().feed(bad)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\n folded: 1",
        b"HTTP/1.1 200 OK\r\nName : 1",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b",
        b"HTTP/1.1 200 OK\r\nno colon",
    ],
)
def test_a_head_that_two_readers_could_read_differently_is_refused(head: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_head(head)


@pytest.mark.parametrize(
    ("head", "length", "is_chunked", "keeps_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", 5, False, True),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked", None, True, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close", 5, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5", 5, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive", 5, False, True),
        (b"HTTP/1.1 200 OK", None, False, False),
        (b"HTTP/1.1 204 No Content", 0, False, True),
    ],
)
def test_a_head_says_where_the_body_ends_and_whether_the_connection_serves_on(
    head: bytes, length: int | None, is_chunked: bool, keeps_alive: bool
) -> None:
    parsed = parse_head(head)

    assert (parsed.length, parsed.is_chunked) == (length, is_chunked)
    assert parsed.keeps_alive is keeps_alive


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
            b"hi",
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
    ids=["length", "chunks", "until-close", "continue", "empty", "no-content"],
)
async def test_every_way_to_end_a_body_is_passed_on(
    gateway: Any, answer: bytes, body: bytes
) -> None:
    async with node(answer) as (url, _):
        await gateway.add("a", url)
        status, came, _ = await gateway.chat()

    assert status in (200, 204)
    assert came == body


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
        b"",
    ],
    ids=["garbage", "upgrade", "endless-head", "nothing"],
)
async def test_a_node_that_answers_no_http_gives_502(gateway: Any, answer: bytes) -> None:
    async with node(answer) as (url, _):
        await gateway.add("a", url)
        status, body, _ = await gateway.chat()

    assert status == 502
    assert json.loads(body)["error"]["code"] == "node_failed"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
    ],
    ids=["length", "chunks", "bad-chunk"],
)
async def test_an_answer_that_ends_early_never_looks_whole(gateway: Any, answer: bytes) -> None:
    async with node(answer) as (url, _):
        await gateway.add("a", url)
        with pytest.raises(aiohttp.ClientPayloadError):
            await gateway.chat()

    assert (await gateway.ask("signals", model=MODEL))["failed_total"] == 1


async def test_a_connection_with_bytes_after_the_answer_is_not_used_again(gateway: Any) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\nstolen"
    async with node(answer, answer) as (url, heard):
        await gateway.add("a", url)
        bodies = [(await gateway.chat())[1] for _ in range(2)]

    assert bodies == [b"hi", b"hi"]
    assert len(heard) == 2


async def test_the_node_is_asked_with_its_own_host_path_and_length(gateway: Any) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    async with node(answer) as (url, heard):
        await gateway.add("a", url + "/base")
        asked_url = URL(f"{gateway.url}/v1/completions?a=%2F", encoded=True)
        asked = gateway.client.post(asked_url, json={"model": MODEL})
        async with asked as response:
            await response.read()

    head, _, body = heard[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /base/v1/completions?a=%2F HTTP/1.1"
    assert f"Host: {url.removeprefix('http://')}".encode() in lines
    assert sum(line.lower().startswith(b"content-length:") for line in lines) == 1
    assert json.loads(body) == {"model": MODEL}
