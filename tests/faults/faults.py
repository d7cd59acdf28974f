"""All kinds of faults, and calm: the end of every one of them."""

from __future__ import annotations

from tests.faults import kinds_cloud, kinds_daemon, kinds_machines, kinds_traffic
from tests.faults.kinds import KINDS, Kind
from tests.faults.world import World

__all__ = ["KINDS", "Kind", "calm"]

ROOMS = (kinds_cloud, kinds_machines, kinds_traffic, kinds_daemon)  # each enters its own into KINDS


def calm(world: World) -> None:
    """End every fault that stands."""
    emulator = world.cloud.emulator.cloud
    emulator.faults.clear()
    emulator.credentials.revoked = False
    network = world.cloud.network
    network.cut = network.cut_in_flight = network.is_elsewhere = network.specs_differ = False
    network.slow_s = 0.0
    world.cut_from_nodes = False
    world.store.trouble, world.store.slow_s = "", 0.0
    world.crash_every_s = 0.0
    world.heir_at_s = float("inf")
    for one in world.balancers:
        if one.dead:
            one.dead = False
            one.restart(forget=True)
        one.away = one.lies = False
        one.slow_s = 0.0
    for trouble in world.shop.troubles.values():
        trouble.until_s = -1.0
    world.shop.poisoned = False
    for host in world.machines.hosts.values():
        host.hangs = host.relayed = host.gpu_sick = False
        host.fails = host.babbles = host.throws = False
        host.stalls_until_s = host.dark_until_s = host.flaps_until_s = 0.0
    for run in list(world.runs):
        run.life.die_after = None
        if run is not world.run:
            run.life.kill()
        else:
            run.life.thaw()
    world.down_until_s = min(world.down_until_s, world.time.seconds())
    kinds_daemon.policies_back(world)
