"""HAProxy's way to servers that speak TLS: our authority, taught at run time, and the words of `add server`.

HAProxy loads a certificate from a file at its start only, but takes one through its runtime API: so nothing of ours
needs to stand in `haproxy.cfg`. A reload forgets it together with our servers, and both are told anew. It compares the
names in a server's certificate, never its addresses (seen with 2.6), so the node's name is what is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from autoscaler.errors import BalancerUnavailable

Ask = Callable[[str, str | None], Awaitable[str]]  # a command, and the lines that belong to it


def authority_name(authority: str) -> str:
    """Under which name HAProxy keeps it: another for another certificate."""
    return f"autoscaler-{hashlib.sha256(authority.encode()).hexdigest()[:16]}.pem"


def tls_words(authority: str, host_name: str) -> str:
    """What makes a server of `add server` one whose certificate is checked, by its health checks too.

    Raises:
        ValueError: a name that would not be a single word of a command.
    """
    if not host_name.replace("-", "").replace(".", "").isalnum() or not host_name.isascii():
        raise ValueError(f"not a host name for HAProxy: {host_name!r}")
    return (
        f" ssl verify required ca-file {authority_name(authority)} verifyhost {host_name}"
        f" sni str({host_name}) check-ssl check-sni {host_name}"
    )


async def teach(ask: Ask, authority: str, balancer: str) -> None:
    """Give HAProxy the authority that vouches for our servers; nothing is written when it has it.

    Raises:
        BalancerUnavailable: it does not take it.
    """
    name = authority_name(authority)
    if await _knows(ask, name):
        return
    await ask(
        f"new ssl ca-file {name}", None
    )  # one that exists, left empty by a death of ours, will do
    await ask(f"set ssl ca-file {name}", authority.strip())
    said = await ask(f"commit ssl ca-file {name}", None)
    if not await _knows(ask, name):
        raise BalancerUnavailable(
            f"{balancer}: HAProxy does not take our certificate authority ({said[:200]!r}): it must be 2.6 or newer,"
            " built with OpenSSL"
        )


async def _knows(ask: Ask, name: str) -> bool:
    listed = await ask("show ssl ca-file", None)
    return any(line.strip() == f"{name} - 1 certificate(s)" for line in listed.splitlines())
