"""What a running daemon adopts machines with: its own parts, and our authority's way to strange machines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import asyncssh

from autoscaler.clock import Clock
from autoscaler.config import Config
from autoscaler.decide.capacity import Yardstick, replica_capacity
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import typical_work
from autoscaler.domain.offer import Market, Offer
from autoscaler.errors import ConfigError
from autoscaler.nodes.adopt import Adopter, Size
from autoscaler.nodes.host_authority import HostAuthority
from autoscaler.nodes.introductions import Introductions
from autoscaler.nodes.inventory import Owner
from autoscaler.nodes.keys import public_line
from autoscaler.nodes.protocol import Prober
from autoscaler.nodes.reach import Reach
from autoscaler.nodes.ssh import SshAccess
from autoscaler.policy import Policy

if TYPE_CHECKING:
    from autoscaler.daemon import Daemon


def introductions_of(
    config: Config, clock: Clock, key: asyncssh.SSHKey, authority: HostAuthority
) -> Introductions:
    """Speaks to machines that let in our key, or whom our authority lets in."""
    cloud, ssh = config.cloud, config.ssh
    plain = SshAccess(key, ssh.user, ssh.port, config.timings.ssh_timeout.total_seconds())

    def access() -> SshAccess:
        mark = f"{cloud.prefix}-{cloud.owner}"
        return replace(plain, certificate=authority.admit(key, mark, clock.now()))

    return Introductions(authority, access, public_line(key))


def adopter_of(
    daemon: Daemon, introductions: Introductions, prober: Prober, reach: Reach
) -> Adopter:
    """Takes machines over into this daemon's store."""
    cloud = daemon.config.cloud
    profiles = Profiles.load()

    def size(policy: Policy, offer: Offer) -> Size:
        return size_of(policy, offer, daemon.market.last, profiles)

    return Adopter(
        store=daemon.store,
        inventory=daemon.inventory,
        leases=daemon.leases,
        sweeper=daemon.sweeper,
        introductions=introductions,
        prober=prober,
        reach=reach,
        clock=daemon.clock,
        mark=Owner(cloud.prefix, cloud.owner, cloud.owner_is_derived),
        policies=lambda: daemon.book.policies,
        market=lambda: daemon.market.last,
        sizes=size,
    )


def size_of(policy: Policy, offer: Offer, market: Market | None, profiles: Profiles) -> Size:
    """What a VM of an offer carries, as a plan would count it.

    Raises:
        ConfigError: the model cannot run on it.
    """
    work = typical_work(policy)
    capacity = replica_capacity(policy, offer, work, profiles)
    if not capacity.fits:
        raise ConfigError(f"{offer.key} cannot serve {policy.model}: {capacity.why_not}")
    yardstick = Yardstick.of(policy, market, work, profiles) if market is not None else None
    units = yardstick.offer_units(offer.key) if yardstick is not None else float(capacity.replicas)
    return Size(units, capacity.replicas, capacity.concurrency)
