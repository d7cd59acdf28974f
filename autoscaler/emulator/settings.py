"""The emulator's settings, all with defaults that make a usable cloud."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoscaler.emulator.catalogue import Catalogue, load_catalogue
from autoscaler.emulator.faults import Fault
from autoscaler.emulator.switches import Switches

Seconds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Timings:
    """How long things take, in emulated seconds, each drawn between two bounds."""

    create: Seconds = (8, 20)
    create_fails: Seconds = (3, 6)
    seen_by_get: Seconds = (1, 3)
    seen_by_list: Seconds = (2, 6)
    address_after_running: Seconds = (0, 5)
    ssh_after_running: Seconds = (20, 60)
    start: Seconds = (8, 20)
    reset: Seconds = (3, 8)
    stop: Seconds = (5, 20)
    stop_limit_s: float = 90.0
    delete: Seconds = (5, 15)
    listed_after_delete: Seconds = (0, 5)
    firewall: Seconds = (2, 2)
    disk: Seconds = (2, 6)
    refresh_grace_s: float = 10.0
    token_life_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Project:
    """A project as callers name it, and as the provider behind it does (`upstream_id`)."""

    id: str = "4b1e7f80-7c53-4c43-8f0e-2a4d0c0f2b02"
    name: str = "serving"
    upstream_id: str = "77aa0c5e-3333-4d0e-9c55-1b2f3a4d6606"


@dataclass(frozen=True, slots=True)
class Settings:
    """What an emulator is built from.

    Attributes:
        access_key: opens the first project. None: only password sessions are accepted.
        password: for the password grant, with `email`. None: that grant is refused.
        time_factor: emulated seconds per real second; what a client measures with its own clock
            (`expires_in`, `Retry-After`, injected delays) is in real seconds.
        address_block: where machines get their loopback addresses.
        page_size: VMs per page when the `list` switch says paged.
        ledger_limit: events kept; older ones are dropped and counted.
    """

    catalogue: Catalogue = field(default_factory=load_catalogue)
    projects: tuple[Project, ...] = (Project(),)
    organization_id: str = "0d6f1c1e-3f0a-4a57-9d0b-5f8f1f7a1a01"
    organization_name: str = "acme"
    access_key: str | None = field(default=None, repr=False)
    email: str = "operator@example.com"
    password: str | None = field(default=None, repr=False)
    time_factor: float = 1.0
    seed: int = 1
    timings: Timings = Timings()
    switches: Switches = field(default_factory=Switches)
    faults: tuple[Fault, ...] = ()
    address_block: str = "127.20.0.0/16"
    ssh_port: int = 2222
    page_size: int = 20
    ledger_limit: int = 100_000
