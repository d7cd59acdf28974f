"""The balancers that the config names, as one group."""

from __future__ import annotations

from collections.abc import Callable

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.group import BalancerGroup
from autoscaler.balance.haproxy import HaproxyBalancer
from autoscaler.balance.haproxy import HaproxySettings as HaproxyTarget
from autoscaler.balance.presence import Patience
from autoscaler.balance.remote import HaproxySockets
from autoscaler.config import Config, HaproxySettings
from autoscaler.domain.ids import ModelName


def build_balancers(
    config: Config,
    sockets: HaproxySockets,
    boot_s: Callable[[], float],
    authority: str | None = None,
) -> BalancerGroup:
    """The gateway, and before it the HAProxies where there are any: it is their activator and must know the nodes.

    Args:
        authority: the certificate of who vouches for servers of https URLs.
    """
    timings = config.timings
    patience = Patience(timings.balancer_grace, timings.balancer_absent_after)
    gateway = GatewayBalancer(config.gateway_control, authority=authority)
    if config.balancer == "gateway":
        return BalancerGroup([gateway], boot_s, patience)
    fronts = [HaproxyBalancer(_target(one, sockets, authority), one.name) for one in config.haproxy]
    return BalancerGroup([gateway, *fronts], boot_s, patience, behind={gateway.name})


def _target(
    settings: HaproxySettings, sockets: HaproxySockets, authority: str | None
) -> HaproxyTarget:
    return HaproxyTarget(
        socket_path=sockets.stats(settings),
        master_socket_path=sockets.master(settings),
        backends={ModelName(model): name for model, name in settings.backends.items()},
        check_interval=settings.check_interval,
        authority=authority,
    )
