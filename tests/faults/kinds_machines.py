"""Faults of machines, of what lies between, and of the store."""

from __future__ import annotations

from collections.abc import Callable

from autoscaler.domain.node import State
from autoscaler.emulator.model import Vm, VmState
from tests.faults.hosts import Host
from tests.faults.kinds import LONG, SHORT, Apply, Params, Undo, kind, open_rows, which
from tests.faults.world import World

# -- one machine


def _vms(world: World, states: tuple[State, ...] = tuple(State)) -> list[Vm]:
    books = world.cloud.emulator.cloud.books
    ours = {row.machine_id for row in open_rows(world) if row.state in states}
    return [vm for vm in books.vms.values() if vm.id in ours and not vm.gone]


def _one(world: World, params: Params, *states: State) -> Vm | None:
    found = _vms(world, states or tuple(State))
    return found[int(params["which"] * len(found))] if found else None


def _host(world: World, params: Params) -> Host | None:
    vm = _one(world, params, State.VERIFYING, State.READY, State.DRAINING, State.BOOTING)
    host = world.machines.hosts.get(vm.id) if vm is not None else None
    return host if host is not None and host.running else None


def _befalls(fate: str) -> Apply:
    """Something befalls a machine of ours in the cloud."""

    def apply(world: World, params: Params) -> None:
        vm = _one(world, params)
        lifecycle = world.cloud.emulator.cloud.lifecycle
        if vm is None or vm.state not in (VmState.RUNNING, VmState.PAUSED, VmState.SHUTOFF):
            return
        if fate != "vanish" and vm.state is not VmState.RUNNING:
            return
        getattr(lifecycle, fate)(vm, world.time.now())

    return apply


def _ails(what: Callable[[Host, float], None], cure: Callable[[Host], None]) -> Apply:
    """A host has something, for a while."""

    def apply(world: World, params: Params) -> Undo | None:
        host = _host(world, params)
        if host is None:
            return None
        host.was_ill = True
        what(host, world.time.seconds())
        return lambda: cure(host)

    return apply


def _set(name: str, value: object) -> Callable[[Host, float], None]:
    return lambda host, now_s: setattr(host, name, value)


def _until(name: str) -> Callable[[Host, float], None]:
    return lambda host, now_s: setattr(host, name, now_s + 86_400.0)


def _unset(name: str, value: object) -> Callable[[Host], None]:
    return lambda host: setattr(host, name, value)


kind("crashes", "O6 N2", _befalls("crash"), weight=5, draw=which)
kind("vanishes", "O6", _befalls("vanish"), weight=5, draw=which)
kind("is switched off", "O7", _befalls("power_off"), weight=4, draw=which)
kind("reboots", "V4", _befalls("reset"), weight=3, draw=which)
kind(
    "serves no token",
    "M2",
    _ails(_set("hangs", True), _unset("hangs", False)),
    weight=3,
    lasts=LONG,
    draw=which,
)
kind(
    "loses a GPU",
    "V5",
    _ails(_set("gpu_sick", True), _unset("gpu_sick", False)),
    lasts=LONG,
    draw=which,
)
kind(
    "SSH stalls",
    "H4",
    _ails(_until("stalls_until_s"), _unset("stalls_until_s", 0.0)),
    weight=3,
    lasts=LONG,
    draw=which,
)
kind(
    "cannot be reached by us",
    "N2 H6",
    _ails(_until("dark_until_s"), _unset("dark_until_s", 0.0)),
    weight=3,
    lasts=LONG,
    draw=which,
)
kind(
    "flaps",
    "M3",
    _ails(_until("flaps_until_s"), _unset("flaps_until_s", 0.0)),
    lasts=SHORT,
    draw=which,
)
kind(
    "another host key",
    "H1",
    _ails(_set("relayed", True), _unset("relayed", False)),
    lasts=LONG,
    draw=which,
)


# -- what lies between, and the daemon's own host


def _network(name: str, value: object, calm: object) -> Apply:
    def apply(world: World, params: Params) -> Undo:
        setattr(world.cloud.network, name, value)
        return lambda: setattr(world.cloud.network, name, calm)

    return apply


def _revoked(world: World, params: Params) -> Undo:
    credentials = world.cloud.emulator.cloud.credentials
    credentials.revoked = True
    return lambda: setattr(credentials, "revoked", False)


def _cut_from_nodes(world: World, params: Params) -> Undo:
    world.cut_from_nodes = True
    return lambda: setattr(world, "cut_from_nodes", False)


kind("cloud cut off", "C8 X2", _network("cut", True, False), weight=4, lasts=LONG)
kind(
    "answers of the cloud cut off",
    "C8 C15",
    _network("cut_in_flight", True, False),
    weight=2,
    lasts=SHORT,
)
kind("key revoked", "C9", _revoked, weight=3, lasts=LONG)
kind("cut off from all machines", "N1", _cut_from_nodes, weight=4, lasts=LONG)


def _store(trouble: str) -> Apply:
    def apply(world: World, params: Params) -> Undo:
        world.store.trouble = trouble
        return lambda: setattr(world.store, "trouble", "")

    return apply


def _slow_store(world: World, params: Params) -> Undo:
    world.store.slow_s = params["slow_s"]
    return lambda: setattr(world.store, "slow_s", 0.0)


kind("store locked", "S1", _store("locked"), weight=2, lasts=SHORT)
kind("store full", "S2", _store("full"), weight=4, lasts=LONG)
kind("store's answers lost", "S7", _store("answers lost"), weight=3, lasts=(5.0, 120.0))
kind(
    "store slow",
    "S1",
    _slow_store,
    lasts=SHORT,
    draw=lambda rng: {"slow_s": rng.choice((0.05, 0.5, 2.0))},
)
