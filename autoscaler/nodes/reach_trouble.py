"""Why a model server that runs is not reached from here: its own word against ours, over SSH."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from autoscaler.config import Config, ReachMode
from autoscaler.errors import NodeUnreachable
from autoscaler.nodes.shell import NodeShell
from autoscaler.nodes.verify_http import PortClosed, TlsRefused

# Asked on the node: who we are to it, and whether its server answers there. `VM_ADDRESS` is for machines without a
# loopback of their own.
_LOOK = """
echo "from ${{SSH_CONNECTION%% *}}"
printf 'code '
curl -s -k -m 5 -o /dev/null -w '%{{http_code}}' "{scheme}://${{VM_ADDRESS:-127.0.0.1}}:{port}{path}"
"""
_FROM = re.compile(r"^from ([0-9A-Fa-f.:]{2,45})$", re.MULTILINE)
_CODE = re.compile(r"^code (\d{3})", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is meant to let us in.

    Attributes:
        sources: the CIDRs of the cloud's firewall rule.
        managed: whether that rule is ours to make.
    """

    way: ReachMode
    sources: tuple[str, ...]
    managed: bool

    @classmethod
    def of(cls, config: Config) -> Rules:
        return cls(config.way, config.firewall.sources, config.firewall.manage)


@dataclass(frozen=True, slots=True)
class Server:
    """One model server: how it is reached, and its port and path on the node itself."""

    url: str
    port: int
    health_path: str


async def explain(shell: NodeShell, server: Server, failed: NodeUnreachable, rules: Rules) -> str:
    """What is wrong with the way to a server, in a line for the node's story.

    Raises:
        NodeUnreachable: the node does not answer over SSH either.
    """
    scheme = urlsplit(server.url).scheme if rules.way != "tunnel" else "http"
    look = _LOOK.format(scheme=scheme, port=server.port, path=server.health_path)
    output = await shell.run(look, timeout_s=15, max_bytes=4096)
    code = _CODE.search(output.stdout)
    if code is None or code[1] != "200":
        said = f"answers {code[1]}" if code is not None and code[1] != "000" else "does not answer"
        return f"SSH works, port {server.port} {said} on the node itself: {failed}"
    if isinstance(failed, TlsRefused):
        return f"SSH works, port {server.port} answers on the node itself, and from here {failed}"
    if not isinstance(failed, PortClosed):
        return (
            f"SSH works, port {server.port} answers on the node itself, and not from here: {failed}"
        )
    if rules.way == "tunnel":
        return f"SSH works, port {server.port} answers on the node itself, and the tunnel to it is closed: {failed}"
    found = _FROM.search(output.stdout)
    return _closed(server, failed.source or (found[1] if found is not None else None), rules)


def _closed(server: Server, source: str | None, rules: Rules) -> str:
    closed = f"SSH works, port {server.port} is closed from {source or 'here'}: "
    if rules.way == "private":
        host = urlsplit(server.url).hostname
        return f"{closed}is this host in the cloud's network, where {host} is?"
    if not rules.managed:
        return f"{closed}firewall.manage is false, so a rule of your own must let it in"
    names = ", ".join(cidr.removesuffix("/32").removesuffix("/128") for cidr in rules.sources)
    if source is not None and _covers(rules.sources, source):
        return f"{closed}the firewall rule covers it, so something else on the way closes it"
    return f"{closed}the firewall rule covers {names or 'nobody'}; put it into firewall.sources"


def _covers(sources: tuple[str, ...], source: str) -> bool:
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(cidr) for cidr in sources)
