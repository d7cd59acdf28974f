"""The deployment's certificate authority: made once, kept private, and good for nodes alone."""

from __future__ import annotations

import asyncio
import ssl
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from autoscaler.errors import ConfigError, NodeUnreachable
from autoscaler.nodes.pki import (
    AUTHORITY_LIFE,
    NODE_LIFE,
    Authority,
    make_authority,
    open_authority,
)
from autoscaler.nodes.verify_http import ask, node_session
from autoscaler.tls_words import refusal, trusting

NOW = datetime.now(UTC)
NAME = "as1-testtest-aaaaaaaaaaaaa-1-chat.autoscaler.internal"
OTHER = NAME.replace("-1-chat", "-2-chat")


def test_the_authority_is_made_once_and_only_its_certificate_is_public(tmp_path: Path) -> None:
    first = open_authority(tmp_path, NOW)

    again = open_authority(tmp_path, NOW)

    assert again.pem == first.pem == (tmp_path / "ca.pem").read_text()
    assert stat.S_IMODE((tmp_path / "ca-key.pem").stat().st_mode) == 0o600
    assert "PRIVATE" not in (tmp_path / "ca.pem").read_text()


@pytest.mark.parametrize("fault", ["open", "cut", "foreign"])
def test_an_authority_that_cannot_be_used_is_refused_with_what_to_do(
    tmp_path: Path, fault: str
) -> None:
    open_authority(tmp_path, NOW)
    path = tmp_path / "ca-key.pem"
    text = path.read_text()
    match fault:
        case "open":
            path.chmod(0o644)
        case "cut":
            path.write_text(text[:300])
        case "foreign":
            key = text[: text.index("-----BEGIN CERTIFICATE")]
            path.write_text(key + make_authority(NOW).pem)

    with pytest.raises(ConfigError, match=r"ca-key\.pem.*(chmod 0600|Move it away)"):
        open_authority(tmp_path, NOW)


@pytest.mark.parametrize("years", [7, 30])
async def test_the_authority_is_renewed_with_its_key_before_a_node_could_outlive_it(
    tmp_path: Path, years: int
) -> None:
    made = open_authority(tmp_path, NOW - timedelta(days=365 * years))

    renewed = open_authority(tmp_path, NOW)

    assert renewed.certificate.not_valid_after_utc > NOW + AUTHORITY_LIFE - timedelta(days=1)
    assert open_authority(tmp_path, NOW).pem == renewed.pem == (tmp_path / "ca.pem").read_text()
    assert stat.S_IMODE((tmp_path / "ca-key.pem").stat().st_mode) == 0o600
    async with _serving(made, NAME, "127.0.0.1") as port:  # a node of before
        assert await _refused(renewed, port, NAME) is None


def test_the_authority_stays_as_it_is_while_it_outlives_every_node_by_far(tmp_path: Path) -> None:
    made = open_authority(tmp_path, NOW)
    last = NOW + AUTHORITY_LIFE - NODE_LIFE - timedelta(days=366)

    assert open_authority(tmp_path, last).pem == made.pem


async def test_who_trusts_the_certificate_of_before_believes_the_nodes_of_after(
    tmp_path: Path,
) -> None:
    made = open_authority(tmp_path, NOW - timedelta(days=365 * 9))
    renewed = open_authority(tmp_path, NOW)

    async with _serving(renewed, NAME, "127.0.0.1") as port:
        assert await _refused(made, port, NAME) is None


async def test_a_nodes_certificate_is_believed_by_its_address_and_by_its_name() -> None:
    authority = make_authority(NOW)
    async with _serving(authority, NAME, "127.0.0.1") as port:
        assert await _refused(authority, port, "127.0.0.1") is None
        assert await _refused(authority, port, NAME) is None


async def test_what_is_not_the_nodes_own_certificate_is_refused_in_words(tmp_path: Path) -> None:
    ours, theirs = make_authority(NOW), make_authority(NOW)

    async with _serving(ours, OTHER, "127.0.0.9") as port:
        assert "another machine's" in str(await _refused(ours, port, NAME))
        assert "another machine's" in str(await _refused(ours, port, "127.0.0.1"))
    async with _serving(theirs, NAME, "127.0.0.1") as port:
        assert "another authority" in str(await _refused(ours, port, NAME))
    async with _serving(ours, NAME, "127.0.0.1", NOW - timedelta(days=9)) as port:
        assert "has expired" in str(await _refused(ours, port, NAME))
    async with _serving(ours, NAME, "127.0.0.1", NOW + timedelta(days=9)) as port:
        assert "not valid yet" in str(await _refused(ours, port, NAME))
    async with _serving(ours, "www.example.com", "127.0.0.1") as port:
        assert "certificate" in str(await _refused(ours, port, "www.example.com"))  # constrained


async def test_the_daemons_own_requests_are_verified_too() -> None:
    ours, theirs = make_authority(NOW), make_authority(NOW)
    async with node_session(ours.pem) as session:
        async with _serving(ours, NAME, "127.0.0.1") as port:
            answer = await ask(session, f"https://127.0.0.1:{port}/health", timeout_s=5)
            assert answer.status == 200
        async with _serving(theirs, NAME, "127.0.0.1") as port:
            with pytest.raises(NodeUnreachable, match="certificate comes from another authority"):
                await ask(session, f"https://127.0.0.1:{port}/health", timeout_s=5)


async def test_a_server_without_tls_is_told_apart_from_one_with_a_wrong_certificate() -> None:
    plain = await asyncio.start_server(_answer, "127.0.0.1", 0)
    async with plain, node_session(make_authority(NOW).pem) as session:
        port = plain.sockets[0].getsockname()[1]
        with pytest.raises(NodeUnreachable, match="does not speak TLS"):
            await ask(session, f"https://127.0.0.1:{port}/health", timeout_s=5)


@asynccontextmanager
async def _serving(
    authority: Authority, name: str, address: str, at: datetime = NOW
) -> AsyncIterator[int]:
    """A server that shows a certificate made at some time, good for a week."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    bundle = authority.issue(name, address, at, timedelta(days=7)).reveal()
    await asyncio.to_thread(_load, context, bundle)
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _load(context: ssl.SSLContext, bundle: str) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(bundle)
        file.flush()
        context.load_cert_chain(file.name)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.readline():
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    writer.close()


async def _refused(authority: Authority, port: int, name: str) -> str | None:
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting(authority.pem), server_hostname=name
        )
    except OSError as exc:
        return refusal(exc) or repr(exc)
    writer.close()
    return None
