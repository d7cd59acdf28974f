"""Whether an address may be served as it is: strangers are met with keys and TLS, or not at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from autoscaler.errors import ConfigError
from autoscaler.gateway.settings import GatewaySettings


def check_exposure(settings: GatewaySettings, addresses: Sequence[tuple[str, int]]) -> None:
    """Refuse to be reached from elsewhere without keys and TLS, wherever the sockets came from.

    Raises:
        ConfigError: what is missing, and how to have it.
    """
    public = [f"{host}:{port}" for host, port in addresses if not is_loopback(host)]
    missing = [
        words
        for words, value in (
            ("TLS ([front] tls, or --tls)", settings.tls),
            ("client keys ([front] client_keys, or --client-keys)", settings.client_keys),
        )
        if value is None
    ]
    if not public or not missing or settings.behind_proxy:
        return
    raise ConfigError(
        f"{', '.join(public)} can be reached from other hosts, without {' and without '.join(missing)}: "
        "anybody could use the models, or read along. Set what is missing; or listen on 127.0.0.1; or, "
        "where a proxy that has both stands before it and nobody else reaches this address, say so by "
        "[front] behind_proxy = true, or --behind-proxy"
    )


def is_loopback(host: str) -> bool:
    """Say whether a bound address is of this host alone; 0.0.0.0 and :: are not."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
