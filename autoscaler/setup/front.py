"""What would keep the gateway from meeting clients: `[front]` as it reads and judges it when it starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from autoscaler.errors import ConfigError
from autoscaler.gateway.exposure import check_exposure
from autoscaler.gateway.front_file import read_front
from autoscaler.gateway.keys import read_keys
from autoscaler.gateway.settings import GatewaySettings
from autoscaler.gateway.tls import find_files, load_identity
from autoscaler.setup.findings import Finding, fail, ok, warn

_ENDS_SOON = timedelta(days=14)
_EXPOSED = "docs/front-door.md has the steps; the gateway does not start like this"
_TLS = "put the pair there, and see that the gateway's user may read it: docs/front-door.md"


def exposure(path: Path) -> str | None:
    """Why the gateway would refuse the addresses of this config; None when it would not.

    Raises:
        ConfigError: `[front]` has mistakes.
    """
    settings = read_front(path)
    # what a name stands for is known only where it is listened on
    addresses = [(host, port) for host, port in settings.listen if _is_address(host)]
    try:
        check_exposure(settings, addresses)
    except ConfigError as exc:
        return str(exc)
    return None


def check_front(path: Path, now: datetime) -> Sequence[Finding]:
    """Look at addresses, certificate and client keys as the gateway will."""
    settings = read_front(path)
    exposed = exposure(path)
    found = [fail("front.listen", exposed, _EXPOSED)] if exposed else []
    if settings.tls is not None:
        found.append(_certificate(settings, settings.tls, now))
    if settings.client_keys is not None:
        found.append(_client_keys(settings.client_keys))
    return found


def _certificate(settings: GatewaySettings, tls: Path, now: datetime) -> Finding:
    try:
        identity = load_identity(find_files(tls, settings.tls_key), now)
    except ConfigError as exc:
        return fail("front.tls", str(exc), _TLS)
    names = ", ".join(identity.names) or "no name"
    said = f"{tls}: for {names}, until {identity.expires_at:%Y-%m-%d}"
    if identity.expires_at - now < _ENDS_SOON:
        return warn("front.tls", said, "renew it; a new pair is taken without a restart")
    return ok("front.tls", said)


def _client_keys(path: Path) -> Finding:
    try:
        count = len(read_keys(path).by_digest)
    except ConfigError as exc:
        return fail("front.client_keys", str(exc), f"autoscaler keys new NAME --into {path}")
    return ok("front.client_keys", f"{path}: {count} {'key' if count == 1 else 'keys'}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
