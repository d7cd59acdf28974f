"""Looks at everything that a daemon needs, and says of each whether it is there and what to do.

Reads only: it makes no key, no store, no rule and no machine. One check that breaks does not keep the others from
being made.
"""

from __future__ import annotations

import ipaddress
import socket
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from autoscaler.clock import Clock
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.connect import open_cloud, settings_of
from autoscaler.cloud.mkinf.transport import HttpTransport, Request
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies
from autoscaler.errors import AuthFailed, AutoscalerError, ConfigError
from autoscaler.setup.commands import with_config
from autoscaler.setup.findings import Finding, Verdict, fail, ok, warn
from autoscaler.setup.front import check_front
from autoscaler.setup.here import (
    check_host_authority,
    check_policies,
    check_processes,
    check_ssh_key,
    check_store,
)
from autoscaler.toml_file import read_text

_CREDENTIALS = Path("/run/credentials")  # systemd's copies
_CLOCK_OK = timedelta(seconds=5)
_CLOCK_BAD = timedelta(seconds=60)


async def examine(path: Path, clock: Clock, key_file: Path | None = None) -> list[Finding]:
    """Make every check that the config allows; the findings in the order in which one would mend them.

    Args:
        key_file: the access key's, where the config's is a copy that only the running service has.
    """
    try:
        config = read_config(path)
        if key_file is not None:
            cloud = config.cloud.model_copy(update={"key_file": key_file})
            config = config.model_copy(update={"cloud": cloud})
    except ConfigError as exc:
        remedy = "mend each line; `autoscaler init DIRECTORY` makes a config that works"
        return [fail("config", str(exc), remedy)]
    found = [ok("config", f"{path}: valid"), _owner(path, config)]
    try:
        files = read_policies(
            config.policies,
            emulated=config.cloud.is_loopback,
            balancer=config.balancer,
            reach=config.way,
        )
        found += check_policies(files, path)
    except ConfigError as exc:
        found.append(
            fail("policies", str(exc), "mend each line; the daemon takes all files or none")
        )
    found += await _cloud(config, clock, path)
    found += [_firewall(config), check_ssh_key(config), check_host_authority(config)]
    found.append(check_store(config))
    found += check_front(path, clock.now())
    found += await check_processes(config, path)
    return found


def _owner(path: Path, config: Config) -> Finding:
    mark = f"{config.cloud.prefix}-{config.cloud.owner}"
    if f'"{config.cloud.owner}"' in read_text(path):
        return ok("owner mark", f"machines are called {mark}-…")
    return warn(
        "owner mark",
        f"machines are called {mark}-…, by this machine's id and state_dir",
        f'write owner = "{config.cloud.owner}" under [cloud]: on another host the mark would be another',
    )


async def _cloud(config: Config, clock: Clock, path: Path) -> list[Finding]:
    """The key, the clock, and what the cloud tells."""
    own = config.cloud.key_file
    if own is not None and own.is_relative_to(_CREDENTIALS) and not own.exists():
        again = with_config("doctor --key-file /etc/autoscaler/mkinf.key", path)
        remedy = f"name the original: {again}, as root"
        return [warn("key file", f"{own}: only the running service has it", remedy)]
    try:
        cloud = open_cloud(config.cloud, clock)
    except ConfigError as exc:
        remedy = "a file of one line, mode 0600, of the user who runs the daemon"
        return [fail("key file", str(exc), remedy)]
    found = [ok("key file", str(config.cloud.key_file or config.cloud.password_file))]
    try:
        found.append(await _clock(config, clock))
        if found[-1].verdict is not Verdict.FAIL or found[-1].check != "cloud":
            found += [await _key(cloud), await _prices(cloud, path)]
    finally:
        await cloud.close()
    return found


async def _clock(config: Config, clock: Clock) -> Finding:
    """Our clock against the cloud's `Date`: deadlines and money are reckoned with both."""
    transport = HttpTransport(settings_of(config.cloud))
    try:
        before = clock.now()
        answer = await transport.send(Request("GET", "/projects", {}, None, timeout_s=10.0))
        after = clock.now()
    except AutoscalerError as exc:
        remedy = "is cloud.url right, and does a firewall or a proxy stand between?"
        return fail("cloud", f"{config.cloud.url}: {exc}", remedy)
    finally:
        await transport.close()
    told = _date(answer.headers.get("date", ""))
    if told is None:
        return warn("clock", "the cloud tells no time", "see that NTP runs: timedatectl status")
    # the header has whole seconds, and was written between the two readings
    offset = max(told - after, before - told - timedelta(seconds=1), timedelta(0))
    said = f"{offset.total_seconds():.0f} s from the cloud's"
    if offset > _CLOCK_BAD:
        return fail("clock", said, "set the clock, and keep it set: timedatectl set-ntp true")
    if offset > _CLOCK_OK:
        return warn("clock", said, "see that NTP runs: timedatectl status")
    return ok("clock", said)


def _date(text: str) -> datetime | None:
    try:
        told = parsedate_to_datetime(text)
    except ValueError:
        return None
    return told if told.tzinfo is not None else None


async def _key(cloud: MkinfCloud) -> Finding:
    try:
        project = await cloud.project_id()
    except AuthFailed as exc:
        return fail(
            "key", str(exc), "copy the access key anew from the console into cloud.key_file"
        )
    except AutoscalerError as exc:
        return fail("key", str(exc), "see cloud.url, cloud.project and cloud.key_file")
    return ok("key", f"opens project {project}")


async def _prices(cloud: MkinfCloud, path: Path) -> Finding:
    try:
        offers = await cloud.offers()
    except AutoscalerError as exc:
        return fail(
            "prices",
            str(exc),
            f"without offers nothing can be rented; try {with_config('offers', path)}",
        )
    priced = [offer for offer in offers if offer.price_per_hour is not None]
    if not priced:
        remedy = "name a price list in cloud.prices_file: no price, never rented"
        return fail("prices", f"none of {len(offers)} offers has a price", remedy)
    unpriced = sorted({offer.key.type for offer in offers if offer.price_per_hour is None})
    stock = sum(offer.in_stock for offer in priced)
    said = f"{len(priced)} of {len(offers)} offers have a price, {stock} are in stock"
    if unpriced:
        return warn("prices", said, f"never rented, for want of a price: {', '.join(unpriced)}")
    return ok("prices", said)


def _firewall(config: Config) -> Finding:
    """Whether the nodes will let us in, as far as it can be seen from here."""
    if config.way == "tunnel":
        return ok("firewall", 'reach = "tunnel": no port of a node is used but SSH\'s')
    if not config.firewall.manage:
        return ok("firewall", "manage = false: a rule of your own opens the serving ports")
    if not config.firewall.sources:
        return warn(
            "firewall",
            "firewall.sources names nobody, so nothing is rented",
            "name the public addresses of the gateway and this host (curl -4 https://ifconfig.co)",
        )
    said = ", ".join(config.firewall.sources)
    own = _own_address(config)
    if own is None or not own.is_global:
        return ok(
            "firewall",
            f"{said}; which address the nodes see of this host cannot be known from here",
        )
    networks = [ipaddress.ip_network(each) for each in config.firewall.sources]
    if any(own in network for network in networks if network.version == own.version):
        return ok("firewall", f"{said} cover this host, {own}")
    remedy = f'add "{own}/{own.max_prefixlen}" to firewall.sources'
    return warn("firewall", f"this host goes out from {own}, which {said} do not cover", remedy)


def _own_address(config: Config) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of ours on the way to the cloud, by its host's route; no packet is sent."""
    parts = urlsplit(config.cloud.url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return ipaddress.ip_address(probe.getsockname()[0])
    except (OSError, ValueError):
        return None
