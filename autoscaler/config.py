"""config.toml as validated values: what the whole daemon needs, apart from any one model.

`config_file.py` reads it. Every duration here has a floor that only an emulator on loopback may undercut, so that a
demo can be fast and a real account cannot be polled to death by a typo.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, field_validator, model_validator

from autoscaler.form import SchemaNumber, Values, below_floor, floor
from autoscaler.front import FrontSettings
from autoscaler.policy import PolicyLimits
from autoscaler.quantity import Duration, show_duration
from autoscaler.timings import Timings

_CALL_SLACK = timedelta(
    seconds=2
)  # for the renewal before a create call, and for the last look at it

ReachMode = Literal["private", "tls", "tunnel", "public-plain"]


_SSH_ADDRESS = r"^[a-z_][a-z0-9_.-]{0,31}@([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$"
_PUBLIC_KEY = r"^(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/]+=*( [ -~]*)?$"
_TIME_OF_DAY = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
_NETWORK_ADDRESS = r"^[a-z0-9]+@|^[a-z]+://|^[^/]*:[0-9]+$"  # tcp@…, tcp://…, 10.0.0.5:9999


class CloudSettings(Values):
    """Where machines are rented.

    `prefix` and `owner` mark our machines in their names, for ever: `owner` is 8 characters that no other deployment in
    the project uses, and it outlives the store. Left out, `read_config` derives it from this machine and the state's
    directory.
    """

    url: str = "https://api.mkinf.io/v0.1"
    project: str | None = None
    key_file: Path | None = None
    email: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,7}$")] = "as1"
    owner: Annotated[str, Field(pattern=r"^[a-z0-9]{8}$")] = ""
    prices_file: Path | None = None
    image_pcie: str = "ubuntu22.04-nvidia-pcie-docker"
    image_sxm: str = "ubuntu22.04-nvidia-sxm-docker"
    image_cpu: str = "ubuntu22.04"
    requests_per_s: Annotated[float, Field(gt=0, le=1000)] = 5.0
    in_flight: Annotated[int, Field(ge=1, le=256)] = 4
    _owner_is_derived: bool = PrivateAttr(default=False)
    connect_timeout: Annotated[Duration, Field(gt=timedelta(0)), floor(1)] = timedelta(seconds=5)
    answer_timeout: Annotated[Duration, Field(gt=timedelta(0)), floor(2)] = timedelta(seconds=10)
    create_timeout: Annotated[
        Duration, Field(gt=timedelta(0), le=timedelta(minutes=1)), floor(5)
    ] = timedelta(seconds=12)

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.key_file is None) == (self.email is None):
            raise ValueError("give key_file, or email and password_file, and not both")
        if (self.email is None) != (self.password_file is None):
            raise ValueError("email and password_file belong together")
        return self

    @model_validator(mode="after")
    def _timeouts_nest(self) -> Self:
        longer = min(self.answer_timeout, self.create_timeout)
        if self.connect_timeout > longer:
            raise ValueError(
                f"connect_timeout: found {show_duration(self.connect_timeout)}, but a call is over after "
                f"{show_duration(longer)} (answer_timeout, create_timeout): connecting is part of it"
            )
        return self

    def owned_by(self, derived: str) -> Self:
        """The same with an owner mark that nobody wrote down."""
        settings = self.model_copy(update={"owner": derived})
        settings._owner_is_derived = True
        return settings

    @property
    def owner_is_derived(self) -> bool:
        return self._owner_is_derived

    @property
    def is_loopback(self) -> bool:
        """Whether the cloud is on this host: an emulator, as far as a file can tell."""
        host = urlsplit(self.url).hostname or ""
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


class LimitSettings(PolicyLimits):
    """What all models together may cost. Required on a real cloud."""

    nodes: Annotated[int, Field(ge=0)] = 10
    launches_per_window: Annotated[int, Field(ge=1)] = 60
    launch_window: Annotated[Duration, Field(le=timedelta(days=1)), floor(60)] = timedelta(
        minutes=10
    )
    same_failure_limit: Annotated[int, Field(ge=1)] = 10
    usage_tolerance: Annotated[float, Field(ge=0, le=1)] = 0.05
    confirm_growth: Annotated[float, Field(ge=1)] | None = None  # default: 2, none for an emulator
    prove_first: bool | None = None  # default: true, and false for an emulator on loopback


class SshSettings(Values):
    """How nodes are reached over SSH. The client key and the host authority are made at first start, mode 0600."""

    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "ubuntu"
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    key_file: Path | None = None  # default: <state_dir>/ssh_key
    key_type: Literal["ed25519", "rsa-4096"] = "ed25519"
    host_authority: Path | None = None  # default: <state_dir>/host_authority


class FirewallSettings(Values):
    """Who may reach the serving and metrics ports of nodes: CIDRs of the balancers and of this daemon.

    `manage = false` leaves the cloud's firewall alone (an operator's own rule must exist then). While no source is
    named nothing is rented: its ports would be closed to everybody.
    """

    manage: bool = True
    sources: tuple[str, ...] = ()

    @field_validator("sources")
    @classmethod
    def _cidrs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for cidr in value:
            network = ipaddress.ip_network(cidr)
            if network.prefixlen < (8 if network.version == 4 else 32):
                raise ValueError(f"{cidr} opens the serving ports to the world: name your hosts")
        return tuple(sorted(str(ipaddress.ip_network(cidr)) for cidr in value))


class GatewaySettings(Values):
    """The embedded balancer and activator: a process of its own, with a command line of its own.

    Where it listens and what it allows stand in `[front]`, which it reads itself; the daemon needs its socket alone.
    """

    control: Path | None = None  # default: <runtime_dir>/gateway.sock


class TunnelSettings(Values):
    """The process that leads local ports to nodes, with `reach = "tunnel"`; it has a command line of its own."""

    control: Path | None = None  # default: <runtime_dir>/tunnels.sock


class HaproxySettings(Values):
    """One HAProxy, driven through its runtime API (deploy/haproxy/haproxy.cfg has the config that it needs).

    With `ssh` its sockets are on another host, and `ssh_host_key` is that host's public key.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")] = "haproxy"
    socket: Path
    master_socket: Path | None = None
    ssh: Annotated[str, Field(pattern=_SSH_ADDRESS)] | None = None
    ssh_host_key: Annotated[str, Field(pattern=_PUBLIC_KEY)] | None = None
    ssh_key_file: Path | None = None  # default: the daemon's own
    backends: dict[str, str] = Field(default_factory=dict)
    check_interval: Duration = timedelta(seconds=1)

    @field_validator("socket", "master_socket", mode="before")
    @classmethod
    def _no_port(cls, value: object) -> object:
        """HAProxy's runtime API asks nobody who he is: whoever reaches a port of it drives it."""
        if isinstance(value, str) and re.search(_NETWORK_ADDRESS, value):
            raise ValueError(
                "a network address, but HAProxy's runtime API has no password, so it is driven by a Unix socket "
                'alone: give its path and, when HAProxy is on another host, ssh = "user@host" and ssh_host_key'
            )
        return value

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.ssh is not None and self.ssh_host_key is None:
            host = self.ssh_address[1]
            raise ValueError(
                f"ssh_host_key is missing: with ssh = {self.ssh!r} give that host's public key, as "
                f"`ssh-keyscan -t ed25519 {host}` shows it without the name, compared on the host itself"
            )
        if self.ssh is None and (self.ssh_host_key or self.ssh_key_file):
            raise ValueError(
                'ssh is missing: ssh_host_key and ssh_key_file go with ssh = "user@host"'
            )
        return self

    @property
    def ssh_address(self) -> tuple[str, str, int]:
        """User, host and port of `ssh`."""
        where = urlsplit(f"ssh://{self.ssh}")
        return where.username or "", where.hostname or "", where.port or 22


class ServeSettings(Values):
    """The daemon's own HTTP: loopback and a Unix socket only."""

    listen: Annotated[str, Field(pattern=r"^.+:\d{1,5}$")] = "127.0.0.1:9110"
    socket: Path | None = None  # default: <runtime_dir>/daemon.sock

    @field_validator("listen")
    @classmethod
    def _loopback(cls, value: str) -> str:
        host = value.rpartition(":")[0].strip("[]")
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise ValueError(
                f"{host} is not loopback: the API has no TLS of its own; put a proxy before it"
            )
        return value


class BackupSettings(Values):
    """The store's daily copies, in <state_dir>/backups."""

    at: Annotated[str, Field(pattern=_TIME_OF_DAY)] = "03:17"
    keep: Annotated[int, Field(ge=0, le=365)] = 7


class LogSettings(Values):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Config(Values):
    """The whole of config.toml."""

    schema_: SchemaNumber
    cloud: CloudSettings
    limits: LimitSettings = LimitSettings()
    policies: Path = Path("policies")
    state_dir: Path = Path("/var/lib/autoscaler")
    runtime_dir: Path = Path("/run/autoscaler")
    ssh: SshSettings = SshSettings()
    firewall: FirewallSettings = FirewallSettings()
    reach: ReachMode | None = None  # default: tls, and private for an emulator on loopback
    balancer: Literal["gateway", "haproxy"] = "gateway"
    front: FrontSettings = FrontSettings()
    gateway: GatewaySettings = GatewaySettings()
    tunnels: TunnelSettings = TunnelSettings()
    haproxy: tuple[HaproxySettings, ...] = ()
    serve: ServeSettings = ServeSettings()
    timings: Timings = Timings()
    backup: BackupSettings = BackupSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.balancer == "haproxy" and not self.haproxy:
            raise ValueError('balancer = "haproxy" needs at least one [[haproxy]] with its socket')
        names = [haproxy.name for haproxy in self.haproxy]
        for name in names:
            if names.count(name) > 1 or name == "gateway":
                raise ValueError(f"haproxy.name: {name!r} is taken: give each [[haproxy]] its own")
        far = [haproxy.name for haproxy in self.haproxy if haproxy.ssh is not None]
        if self.way == "tunnel" and self.balancer == "haproxy" and far:
            raise ValueError(
                f'reach: found "tunnel", with [[haproxy]] {far[0]!r} on another host: the tunnels\' ports are on this '
                'one alone. Allowed there: "tls", "private", "public-plain"'
            )
        self._leases_outlast_calls()
        if not self.cloud.is_loopback:
            for problem in self.unfit_for_a_real_cloud():
                raise ValueError(problem)
        return self

    def unfit_for_a_real_cloud(self) -> list[str]:
        """What only an emulator may have: short durations, no limits, no firewall. Empty when nothing is wrong.

        A URL on loopback is taken for an emulator's here; the daemon looks whether it is one.
        """
        problems = [
            f"{key}: found {show_duration(value)}, the least is {show_duration(least)}; "
            "only an emulator on loopback may go lower"
            for key, value, least in below_floor(self)
        ]
        problems += [
            f"limits.{key} is missing: state what you are willing to spend "
            "before anything is rented (limits.usd_per_hour and usd_per_month)"
            for key in ("usd_per_hour", "usd_per_month")
            if getattr(self.limits, key) is None
        ]
        named = "sources" in self.firewall.model_fields_set
        opens = self.firewall.manage and self.way != "tunnel"
        if opens and named and not self.firewall.sources:
            problems.append(
                "firewall.sources is empty: name the CIDRs of the balancers and of this daemon, "
                "or set firewall.manage = false and open the serving ports yourself"
            )
        if self.limits.prove_first is False:
            problems.append(
                "limits.prove_first: found false, allowed on a real cloud: true. Until one delete is proven "
                "there is one VM at a time: `autoscaler trial POLICY` proves it"
            )
        return problems

    def _leases_outlast_calls(self) -> None:
        """A holder stops after two thirds of its lease: what it sent before must have ended by then."""
        lease, renew, create = (
            self.timings.lease_time,
            self.timings.lease_renew,
            self.cloud.create_timeout,
        )
        least = (create + _CALL_SLACK) * 3 / 2
        if lease < least:
            raise ValueError(
                f"timings.lease_time: found {show_duration(lease)}, the least is {show_duration(least)}: "
                f"two thirds of it must outlast a create call (cloud.create_timeout is {show_duration(create)})"
            )
        if renew > lease / 3:
            raise ValueError(
                f"timings.lease_renew: found {show_duration(renew)}, the most is {show_duration(lease / 3)}: "
                "a lease is good for two thirds of timings.lease_time, and one renewal may fail"
            )

    @property
    def way(self) -> ReachMode:
        """How model servers are reached."""
        return self.reach or ("private" if self.cloud.is_loopback else "tls")

    @property
    def ssh_key_file(self) -> Path:
        return self.ssh.key_file or self.state_dir / "ssh_key"

    @property
    def host_authority_file(self) -> Path:
        return self.ssh.host_authority or self.state_dir / "host_authority"

    @property
    def store_file(self) -> Path:
        return self.state_dir / "autoscaler.db"

    @property
    def socket(self) -> Path:
        return self.serve.socket or self.runtime_dir / "daemon.sock"

    @property
    def tunnels_control(self) -> Path:
        return self.tunnels.control or self.runtime_dir / "tunnels.sock"

    @property
    def gateway_control(self) -> Path:
        return self.gateway.control or self.runtime_dir / "gateway.sock"
