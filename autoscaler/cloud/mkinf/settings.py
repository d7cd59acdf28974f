"""Where the API is and how politely it is called. Each figure has its reason in `docs/mkinf.md`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from autoscaler.errors import ConfigError

DEFAULT_URL: Final = "https://api.mkinf.io/v0.1"
BODY_CAP_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class MkinfSettings:
    """How the client reaches the API.

    Attributes:
        url: the API's root with its version, https, or http to loopback (an emulator).
        project_id: the project that everything is rented in; only `projects` and `organizations`
            work without one.
        organization_id: needed for the billing link and the organization's usage; looked up
            where it is absent.
        create_timeout_s: for a call with an effect, from its start to its answer, the wait for
            the rate limit included: it must fit what is left of a lease.
        tries: how often a call that is safe to repeat is sent at most.
        ca_file: PEM certificates to trust instead of the system's.
    """

    url: str = DEFAULT_URL
    project_id: str | None = None
    organization_id: str | None = None
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 10.0
    create_timeout_s: float = 12.0
    tries: int = 4
    requests_per_s: float = 5.0
    in_flight: int = 4
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        check_url(self.url)
        if min(self.connect_timeout_s, self.answer_timeout_s, self.create_timeout_s) <= 0:
            raise ConfigError("mkinf: a timeout must be more than 0 seconds")
        if self.tries < 1 or self.in_flight < 1 or self.requests_per_s <= 0:
            raise ConfigError("mkinf: tries, in_flight and requests_per_s must be more than 0")


def check_url(url: str) -> None:
    """Refuse an API root that would show the key to somebody else.

    Raises:
        ConfigError: not https (nor http to loopback), or it has a user, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as exc:
        raise ConfigError(f"mkinf url {url!r} is not a URL: {exc}") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise ConfigError("mkinf url: leave user and password out; the key stands in a file")
    if parts.query or parts.fragment or not host:
        raise ConfigError(f"mkinf url {url!r}: expected https://host/version and nothing more")
    if _is_link_local(host):
        raise ConfigError(f"mkinf url {url!r}: a link-local address is a metadata service's")
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)):
        return
    raise ConfigError(
        f"mkinf url {url!r}: the key is only sent over https (http is for an emulator on loopback)"
    )


def is_loopback(host: str) -> bool:
    """Say whether `host` can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_link_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False
