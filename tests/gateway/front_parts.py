"""What guards a front door, made for tests: certificates, and files of client keys."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from autoscaler.gateway.keys import hash_of, new_key

DAY = timedelta(days=1)


def write_pair(
    folder: Path,
    *,
    starts: timedelta = -DAY,
    ends: timedelta = 90 * DAY,
    name: str = "front.test",
) -> Path:
    """Put a new self-signed certificate for 127.0.0.1 and its key into a folder; times are from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    put(folder / "fullchain.pem", certificate.public_bytes(serialization.Encoding.PEM))
    put(
        folder / "privkey.pem",
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return folder


def put(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file in one step, as a careful tool does."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.chmod(mode)
    os.replace(beside, path)


def key_entry(name: str, key: str, **bounds: object) -> str:
    """Write one key as it stands in a file."""
    lines = [f"[keys.{name}]", f'sha256 = "{hash_of(key)}"']
    lines += [
        f"{bound} = {str(value).lower() if isinstance(value, bool) else value!r}"
        for bound, value in bounds.items()
    ]
    return "\n".join(lines) + "\n"


def write_keys(path: Path, **clients: dict[str, object]) -> dict[str, str]:
    """Make a key for each client, with its bounds; return them by name."""
    keys = {name: new_key() for name in clients}
    text = "".join(key_entry(name, keys[name], **bounds) for name, bounds in clients.items())
    put(path, text.encode())
    return keys


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that another task brings about, for at most 20 s."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - there is nothing to wait on but the state itself
            await asyncio.sleep(0.02)
