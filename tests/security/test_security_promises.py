"""SECURITY.md: every line has tests that exist, and those promises that had none have theirs here."""

from __future__ import annotations

import ast
import asyncio
import email
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.cli.app import app
from autoscaler.domain.ids import ModelName
from autoscaler.errors import VerificationFailed
from autoscaler.nodes.startup.render import render
from autoscaler.nodes.verify_http import ask, node_session
from autoscaler.policy import Engine
from tests.deploy.test_deploy_prometheus import MODEL, POLICY, daemons_http
from tests.nodes.test_nodes_startup_render import policies
from tests.nodes.vm_parts import CONFIG, NONCE, offer

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text()

# What the table must speak of, whatever its words: each pattern fits the promise of some line.
AREAS = (
    *("systemd credential", "command line", "does not print itself", "canaries", "an operation"),
    *("host keys", "client key is ours alone", "become shell", "PromQL", "HAProxy command", "HTML"),
    *("hub tokens", "ports are open", "metadata service", "administration", "TLS with", "public address"),
    *("hashed", "only reads", "body, head, connections", "redirects", "hostile cloud", "metrics page"),
    *("hostile SSH host", "hostile model server", "hostile client", "terminal", "fuzzed", "locked by hash"),
    *("audit", "container", "units"),
)  # fmt: skip

# Each key as the list names it, and as the way to rotate it does.
KEYS = {
    "access key": "cloud's key",
    "SSH client key": "SSH client key",
    "host authority": "host authority",
    "hub token": "hub token",
    "client keys": "client key**",
    "gateway's certificate": "gateway's certificate",
}


def promises() -> dict[str, list[str]]:
    """Each line of the table with its tests."""
    rows = re.findall(r"^\| (.+?) \| (`tests/.+?) \|$", SECURITY, flags=re.MULTILINE)
    return {promise: re.findall(r"`(tests/[^`]+)`", tests) for promise, tests in rows}


def test_the_table_speaks_of_every_area() -> None:
    found = promises()

    assert [area for area in AREAS if not any(area in one for one in found)] == []
    assert len(found) == len(AREAS)


@pytest.mark.parametrize("promise", promises())
def test_every_promise_has_tests_that_exist(promise: str) -> None:
    tests = promises()[promise]

    assert tests
    for test in tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in {
            n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        }, test


def test_each_key_says_where_it_is_what_it_may_and_how_it_is_rotated() -> None:
    listed = SECURITY.split("## The keys")[1].split("\n## ")[0]
    rotated = SECURITY.split("## Rotating")[1].split("\n## ")[0]

    for key, said in KEYS.items():
        assert re.search(rf"^\| .*{re.escape(key)}", listed, re.IGNORECASE | re.MULTILINE), key
        assert re.search(rf"^- \*\*.*{re.escape(said)}", rotated, re.IGNORECASE | re.MULTILINE), key


def options() -> Iterator[tuple[str, str]]:
    def inside(program: Any, path: str) -> Iterator[tuple[str, str]]:
        for name, command in program.commands.items():
            if hasattr(command, "commands"):
                yield from inside(command, f"{path}{name} ")
            for parameter in command.params:
                for option in parameter.opts:
                    yield f"{path}{name}", option

    yield from inside(typer.main.get_command(app), "")


def test_no_option_of_any_command_takes_a_secret_itself() -> None:
    named = re.compile(r"(?i)(password|secret|token|credential|key)s?$")

    taken = {(command, option) for command, option in options() if named.search(option)}

    # a public key, files whose name ends so, and the tokens of language models
    assert {option for _, option in taken} <= {
        "--ssh-public-key",
        "--host-key",
        "--client-keys",
        "--tls-key",
        "--bytes-per-token",
        "--stream-bytes-per-token",
        "--prompt-tokens",
        "--output-tokens",
    }


# the daemon around the pages is left out, so that the last one fails
ROUTES = ("metrics", "healthz", "sd", "api/v1/events", "api/v1/explain", "api/v1/status")
HTML = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "'\"><svg/onload=a()>",
    "&lt;b>",
)
few = st.text(max_size=6)
hostile = st.text(max_size=30) | st.builds("{}{}{}".format, few, st.sampled_from(HTML), few)


async def test_nothing_that_we_serve_is_read_as_a_page(tmp_path: Path) -> None:
    policies = {MODEL: POLICY}

    @given(
        word=hostile,
        route=st.sampled_from(ROUTES),
        raw=st.booleans(),
        host=st.sampled_from(["127.0.0.1", *HTML]),
        where=st.sampled_from(["a policy", "the query", "the path", "a head"]),
    )
    def property_(word: str, route: str, raw: bool, host: str, where: str) -> None:
        sent = word.encode(errors="replace") if raw else quote(word, errors="replace").encode()
        path, more = route.encode(), b""
        if where == "a policy":
            policies.clear()
            policies[ModelName(word)] = POLICY.model_copy(
                update={"model": word, "aliases": (word,)}
            )
        elif where == "a head":
            more = b"X-Word: " + sent + b"\r\n"
        else:
            path += sent if where == "the path" else b"?model=" + sent + b"&limit=" + sent
        answer = asked(port, path, host.encode(), more)
        policies.clear()
        policies[MODEL] = POLICY
        assert browser(answer) == [], answer

    async with daemons_http(tmp_path, "http://127.0.0.1:1", policies) as url:
        port = int(url.rpartition(":")[2])
        assert b"text/plain" in await asyncio.to_thread(asked, port, b"metrics", b"127.0.0.1", b"")
        await asyncio.to_thread(property_)


def asked(port: int, path: bytes, host: bytes, more: bytes) -> bytes:
    """The whole answer to a request by a browser, which accepts HTML."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(
            b"GET /%b HTTP/1.1\r\nHost: %b\r\nAccept: text/html\r\n%bConnection: close\r\n\r\n"
            % (path, host, more)
        )
        with suppress(ConnectionResetError):  # it may hang up on what it cannot read
            return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


def browser(answer: bytes) -> list[str]:
    """What a browser makes of an answer: the elements that it builds, and none of what is no page."""
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = email.message_from_bytes(head.partition(b"\r\n")[2])
    if not answer:
        return []
    is_inert = fields["X-Content-Type-Options"] == "nosniff"
    if is_inert and fields.get_content_type() in ("application/json", "text/plain"):
        return []
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append(f"{tag} {attrs}")  # type: ignore[method-assign]
    parser.feed(body.decode(errors="replace"))
    parser.close()
    return found or [fields.get_content_type()]


@pytest.mark.parametrize("engine", Engine)
def test_containers_start_after_the_metadata_service_is_closed_to_them(
    engine: Engine, tmp_path: Path
) -> None:
    on = offer(1)
    for policy in policies(engine, on, tmp_path):
        text = render(policy, on, nonce=NONCE, replicas=1, config=CONFIG).text
        main = [line.strip() for line in text[text.rindex("main() {") :].splitlines()]

        assert "-d 169.254.0.0/16" in text
        assert main.index("block_metadata") < main.index("start_servers")


async def test_a_model_server_that_never_stops_answering_is_cut_off() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        try:
            while sent < 64 * 1024 * 1024:
                writer.write(b" " * 65536)
                sent += 65536
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, node_session() as session:
        with pytest.raises(VerificationFailed, match="more than"):
            await ask(session, f"http://127.0.0.1:{port}/", timeout_s=30)

    assert sent < 32 * 1024 * 1024
