"""The way to model servers that the config names (`reach`), built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from autoscaler.clock import Clock
from autoscaler.config import Config
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import CLOSED
from autoscaler.errors import StoreUnavailable
from autoscaler.health import Health
from autoscaler.nodes.host_authority import open_host_authority
from autoscaler.nodes.pki import Authority, open_authority
from autoscaler.nodes.reach import PlainReach, Reach
from autoscaler.nodes.tls_reach import TlsReach
from autoscaler.nodes.tunnel_client import TunnelClient
from autoscaler.nodes.tunnel_reach import TunnelReach
from autoscaler.policy import Policy
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)

PLAIN_NOTE = (
    'reach = "public-plain": prompts and answers cross the internet unencrypted; '
    '"tls" and "tunnel" do not need a network of yours either'
)


def authority_of(config: Config, clock: Clock) -> Authority | None:
    """Who vouches for model servers; None where they speak plain HTTP.

    Raises:
        ConfigError: it cannot be read or made.
    """
    if config.way != "tls":
        return None
    # of the same key on every host that has the host authority: nodes' certificates outlive this one
    seed = open_host_authority(config.host_authority_file).secret_for("model servers", 48)
    return open_authority(config.state_dir, clock.now(), seed)


def build_reach(
    config: Config,
    authority: Authority | None,
    clock: Clock,
    policies: Callable[[], Mapping[ModelName, Policy]],
) -> Reach:
    """The way to nodes' model servers."""
    match config.way:
        case "private":
            return PlainReach()
        case "public-plain":
            log.warning("prompts_cross_the_internet_in_plain_text", do=PLAIN_NOTE)
            return PlainReach(public=True)
        case "tls":
            assert authority is not None
            return TlsReach(authority, clock)
        case "tunnel":
            return TunnelReach(
                client=TunnelClient(config.tunnels_control),
                user=config.ssh.user,
                port=config.ssh.port,
                mark=f"{config.cloud.prefix}-{config.cloud.owner}-",
                policies=policies,
                clock=clock,
                fresh=config.timings.step,
            )


def authority_ends(reach: Reach) -> datetime | None:
    """When the authority of the nodes' certificates ends; None where there is none."""
    if not isinstance(reach, TlsReach):
        return None
    return reach.authority.certificate.not_valid_after_utc


async def tend(reach: Reach, store: Store, health: Health, clock: Clock, every: timedelta) -> None:
    """See for ever that what leads to nodes is there, if another process does: while it is not, nothing is launched."""
    if not isinstance(reach, TunnelReach):
        return
    while True:
        try:
            nodes = await store.nodes()
            wanted = {endpoint.id for node in nodes for endpoint in node.endpoints}
            await reach.tend(wanted, lambda name: _is_closed(store, name))
            health.way_trouble = reach.trouble
        except StoreUnavailable as exc:
            log.warning("ways_not_tended", why=str(exc))
        await clock.sleep(every.total_seconds())


async def _is_closed(store: Store, name: NodeName) -> bool:
    row = await store.node(name)
    return row is not None and row.state in CLOSED
