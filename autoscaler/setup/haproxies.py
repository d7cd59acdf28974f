"""What the doctor looks at where HAProxy is the balancer: whether each answers, by the way that the daemon takes."""

from __future__ import annotations

import asyncio

from autoscaler.balance.haproxy_socket import show_info
from autoscaler.balance.remote import HaproxySockets
from autoscaler.config import Config, HaproxySettings
from autoscaler.errors import BalancerUnavailable, ConfigError
from autoscaler.nodes.keys import private_key
from autoscaler.setup.findings import Finding, fail, ok

_REMEDY = "deploy/haproxy/haproxy.cfg has what it needs, deploy/README.md how one on another host is reached"


async def check_haproxies(config: Config) -> list[Finding]:
    """Ask every HAProxy who it is; it changes nothing there."""
    if config.balancer != "haproxy":
        return []
    try:
        sockets = HaproxySockets(
            config.haproxy,
            lambda path: private_key(path or config.ssh_key_file, "haproxy.ssh_key_file"),
        )
    except ConfigError as exc:
        remedy = "the daemon makes its key when it first starts; or name one: haproxy.ssh_key_file"
        return [fail("haproxy", str(exc), remedy)]
    try:
        return list(await asyncio.gather(*(_check(sockets, one) for one in config.haproxy)))
    finally:
        await sockets.close()


async def _check(sockets: HaproxySockets, haproxy: HaproxySettings) -> Finding:
    where = sockets.stats(haproxy)
    try:
        info = await show_info(where)
    except BalancerUnavailable as exc:
        return fail(f"haproxy {haproxy.name}", str(exc), _REMEDY)
    return ok(f"haproxy {haproxy.name}", f"{where}: answers, version {info.version}")
