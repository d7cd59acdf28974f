"""Fixtures: a scripted mkinf, a clock that does not wait, and clients of both."""

from __future__ import annotations

import ipaddress
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.credentials import AccessKey, Credential
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.secret import Secret
from tests.cloud.scripted import KEY, PROJECT, Connect, FastClock, ScriptedMkinf, serve


@pytest.fixture
async def mkinf() -> AsyncIterator[ScriptedMkinf]:
    scripted = ScriptedMkinf()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    runner, port = await serve(app)
    scripted.url = f"http://127.0.0.1:{port}/v0.1"
    yield scripted
    await runner.cleanup()


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


@pytest.fixture
async def connect(mkinf: ScriptedMkinf, clock: FastClock) -> AsyncIterator[Connect]:
    """Make clients of the scripted server; unhurried ones, since tests send many requests."""
    async with AsyncExitStack() as opened:

        def connect(credential: Credential | None = None, **settings: Any) -> MkinfClient:
            client = MkinfClient(
                MkinfSettings(
                    **{
                        "url": mkinf.url,
                        "project_id": PROJECT,
                        "requests_per_s": 1000,
                        **settings,
                    }
                ),
                credential or AccessKey(Secret(KEY)),
                clock=clock,
                rng=random.Random(7),
            )
            opened.push_async_callback(client.close)
            return client

        yield connect


@pytest.fixture
def client(connect: Connect) -> MkinfClient:
    return connect()


@pytest.fixture(scope="session")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, its own CA, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "scripted mkinf")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
async def untrusted_https(ca_file: Path) -> AsyncIterator[str]:
    """A server over TLS that only who has its CA trusts."""

    async def empty(_: web.Request) -> web.Response:
        return web.json_response({"items": []})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", empty)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_file)
    runner, port = await serve(app, context)
    yield f"https://127.0.0.1:{port}/v0.1"
    await runner.cleanup()
