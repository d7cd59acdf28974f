"""TLS at the front door: what is taken, what is refused and how it is said, and what a renewal does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from autoscaler.errors import ConfigError
from autoscaler.gateway.door import Door
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.gateway.tls import find_files, load_identity
from tests.gateway.front_parts import DAY, eventually, put, write_pair

MODEL = "org/chat-8b"
ASK = {"model": MODEL, "messages": [], "stream": True}


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return write_pair(tmp_path / "tls")


def trusting(pair: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pair / "fullchain.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def handshake(gateway: Any, context: ssl.SSLContext, name: str | None = None) -> Any:
    """Connect, and return the connection's writer."""
    host, port = gateway.gateway.addresses[0]
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name or host)
    return writer


def shown(writer: Any) -> bytes:
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return certificate


async def test_the_openai_sdk_streams_over_tls(start: Any, engine: Any, pair: Path) -> None:
    async with start(tls=pair) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        base = gateway.url.replace("http://", "https://") + "/v1"
        http = openai.DefaultAsyncHttpxClient(verify=trusting(pair))
        async with openai.AsyncOpenAI(base_url=base, api_key="k", http_client=http) as client:
            messages: Any = [{"role": "user", "content": "hi" * 250_000}]
            stream = await client.chat.completions.create(
                model=MODEL, messages=messages, stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            whole = await client.chat.completions.create(model=MODEL, messages=messages)

    assert text == "01234"
    assert whole.choices[0].message.content == "hello"


async def test_http_1_1_is_agreed_upon_and_nothing_below_tls_1_2(start: Any, pair: Path) -> None:
    async with start(tls=pair) as gateway:
        writer = await handshake(gateway, trusting(pair))
        agreed = writer.get_extra_info("ssl_object")
        old = trusting(pair)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(gateway, old)
        writer.close()

    assert agreed.selected_alpn_protocol() == "http/1.1"
    assert agreed.version() in ("TLSv1.2", "TLSv1.3")


def client_hello(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    shaking = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="front.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    return outgoing.read()


async def test_a_client_that_spoke_before_it_was_accepted_is_answered(
    pair: Path, tmp_path: Path
) -> None:
    """The real command, since its event loop reads sooner than the tests' own."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autoscaler.gateway", "--listen", f"127.0.0.1:{port}"),
        *("--tls", str(pair), "--control", str(tmp_path / "control.sock")),
        *("--max-connections", "500"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert started.stderr is not None
    try:
        async with asyncio.timeout(60):
            assert b"gateway_listening" in await started.stderr.readline()
            started.send_signal(signal.SIGSTOP)  # so that all of it lies ready at the accept
            clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
            for _, writer in clients:
                writer.write(client_hello(trusting(pair)))
                await writer.drain()
            started.send_signal(signal.SIGCONT)
            answers = [await reader.readexactly(1) for reader, _ in clients]
            for _, writer in clients:
                writer.close()
    finally:
        started.kill()
        await started.communicate()

    assert set(answers) == {b"\x16"}  # a record of the handshake


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
async def test_a_renewed_pair_is_shown_to_who_comes_while_a_stream_runs_on(
    start: Any, engine: Any, pair: Path, named: bool
) -> None:
    engine.gate.clear()
    name = "front.test" if named else "127.0.0.1"
    async with start(tls=pair) as gateway, aiohttp.ClientSession() as client:
        await gateway.pool()
        await gateway.add("a", engine.url)
        url = gateway.url.replace("http://", "https://") + "/v1/chat/completions"
        old = trusting(pair)
        stream = await client.post(url, json=ASK, ssl=old)
        before = await handshake(gateway, old, name)
        door = gateway.gateway.door
        identity = door.identity

        write_pair(pair)
        await eventually(lambda: door.identity is not identity and not door.refused)
        after = await handshake(gateway, trusting(pair), name)
        with pytest.raises(ssl.SSLCertVerificationError):
            await handshake(gateway, old, name)
        engine.gate.set()
        body = await stream.read()
        certificates = (shown(before), shown(after))
        before.close()
        after.close()

    assert body.endswith(b"data: [DONE]\n\n")
    assert certificates[0] != certificates[1]


async def test_a_renewal_that_is_wrong_is_refused_loudly_and_the_old_pair_stays(
    start: Any, pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = trusting(pair)
    other = write_pair(tmp_path / "other")
    async with start(tls=pair) as gateway:
        door = gateway.gateway.door
        put(pair / "fullchain.pem", (other / "fullchain.pem").read_bytes())
        await eventually(lambda: door.refused == {"tls"})
        (await handshake(gateway, good)).close()

        write_pair(pair, ends=-timedelta(hours=1))
        await door.reload()
        (await handshake(gateway, good)).close()

        write_pair(pair)
        await eventually(lambda: not door.refused)
        (await handshake(gateway, trusting(pair))).close()

    log = capsys.readouterr().out
    assert "is not the key of" in log
    assert "expired on" in log


def cut_in_two(pair: Path) -> None:
    put(pair / "fullchain.pem", (pair / "fullchain.pem").read_bytes()[:200])


def other_key(pair: Path) -> None:
    other = write_pair(pair.parent / "other")
    put(pair / "privkey.pem", (other / "privkey.pem").read_bytes())


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda pair: write_pair(pair, ends=-timedelta(seconds=1)), "expired on .* renew it"),
        (lambda pair: write_pair(pair, starts=DAY), "not valid before .* is the clock right"),
        (cut_in_two, "no certificate in PEM form"),
        (other_key, "is not the key of .* the pair of one issuance"),
        (lambda pair: put(pair / "privkey.pem", b"x"), "no private key in PEM form"),
        (lambda pair: (pair / "privkey.pem").chmod(0o644), "mode 0644 .* chmod 600 .*privkey.pem"),
        (lambda pair: (pair / "privkey.pem").unlink(), "privkey.pem: .* cannot be read"),
        (lambda pair: (pair / "fullchain.pem").unlink(), "holds no certificate: put fullchain.pem"),
        (lambda pair: pair.chmod(0o777), "chmod go-w"),
    ],
    ids=[
        *("expired", "early", "cut", "mismatched", "no key", "open key", "missing key"),
        *("missing", "open folder"),
    ],
)
async def test_a_pair_that_clients_would_refuse_is_refused_at_the_start(
    start: Any, pair: Path, break_it: Callable[[Path], object], said: str
) -> None:
    break_it(pair)

    with pytest.raises(ConfigError, match=said):
        async with start(tls=pair):
            pass


def test_one_file_may_hold_both_and_two_may_be_named(pair: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    put(both, (pair / "privkey.pem").read_bytes() + (pair / "fullchain.pem").read_bytes())
    now = datetime.now(UTC)

    one = load_identity(find_files(both), now)
    two = load_identity(find_files(pair / "fullchain.pem", pair / "privkey.pem"), now)

    assert one.names == two.names == ("front.test", "127.0.0.1")


def test_a_certificate_that_will_expire_is_told_of_once_a_day(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    write_pair(pair, ends=10 * DAY)
    door = Door(GatewaySettings(tls=pair), now=lambda: now)

    door.open()
    asyncio.run(door.reload())
    now += 2 * DAY
    asyncio.run(door.reload())
    now += 10 * DAY
    asyncio.run(door.reload())

    log = capsys.readouterr().out
    assert log.count("certificate_expires_soon") == 2
    assert log.count("certificate_expired") == 1


async def test_clients_that_never_shake_hands_are_bounded_and_make_room_for_one_that_does(
    start: Any, pair: Path
) -> None:
    async with start(tls=pair, max_connections=2) as gateway:
        clients = gateway.gateway.clients
        host, port = gateway.gateway.addresses[0]
        silent = [await asyncio.open_connection(host, port) for _ in range(2)]
        await eventually(lambda: len(clients.arrivals) == 2)

        served = None
        async with asyncio.timeout(20):
            while served is None:
                with contextlib.suppress(OSError, EOFError):
                    served = await handshake(gateway, trusting(pair))
                await asyncio.sleep(0.05)
        many = len(clients.connections) + len(clients.arrivals)
        served.close()
        for _, one in silent:
            one.write(b"GET / HTTP/1.1\r\n\r\n")
        for gone, one in silent:
            with contextlib.suppress(ConnectionError):
                await gone.read()
            one.close()
        await eventually(lambda: not clients.arrivals)

    assert many <= 2
    assert clients.crowd.evicted_total == 1
    assert clients.handshake_failures_total == 2


async def test_a_handshake_under_way_does_not_hold_up_the_end(
    start: Any, pair: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with start(tls=pair) as gateway:
        host, port = gateway.gateway.addresses[0]
        with socket.create_connection((host, port)):
            await eventually(lambda: bool(gateway.gateway.clients.arrivals))
            gateway.gateway.stop()
            async with asyncio.timeout(10):
                await gateway.done

    assert not gateway.gateway.clients.arrivals
    assert caplog.records == []
