"""Faults of machines, of what lies between, and of the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from autoscaler.domain.node import Node, State
from autoscaler.emulator.model import Vm, VmState
from tests.faults.hosts import Host
from tests.faults.kinds import (
    LONG,
    SHORT,
    Apply,
    Params,
    Undo,
    aim_of,
    kind,
    open_rows,
    pick,
    which,
)
from tests.faults.world import World

# -- one machine

_STANDS = frozenset({VmState.RUNNING, VmState.PAUSED, VmState.SHUTOFF})
_HAS_A_HOST = (State.VERIFYING, State.READY, State.DRAINING, State.BOOTING)


def _one(world: World, params: Params, *states: State) -> Node | None:
    """A row of ours whose machine is there."""
    aim = aim_of(params)
    wanted = (aim,) if aim is not None else states or tuple(State)
    by_machine: dict[str | None, Node] = {
        row.machine_id: row for row in open_rows(world) if row.state in wanted
    }
    vms = world.cloud.emulator.cloud.books.vms.values()
    return pick([by_machine[vm.id] for vm in vms if vm.id in by_machine and not vm.gone], params)


def _vm(world: World, row: Node) -> Vm:
    return world.cloud.emulator.cloud.books.vms[row.machine_id or ""]


_kind = partial(kind, draw=which, of_machine=True)


def _befalls(name: str, rows: str, fate: str, weight: int) -> None:
    """Something befalls a machine of ours in the cloud."""
    fit = _STANDS if fate == "vanish" else {VmState.RUNNING}

    def target(world: World, params: Params) -> Node | None:
        row = _one(world, params)
        return row if row is not None and _vm(world, row).state in fit else None

    def apply(world: World, params: Params) -> None:
        row = target(world, params)
        if row is not None:
            lifecycle = world.cloud.emulator.cloud.lifecycle
            getattr(lifecycle, fate)(_vm(world, row), world.time.now())

    _kind(name, rows, apply, target=target, weight=weight)


def _host(world: World, row: Node | None) -> Host | None:
    host = world.machines.hosts.get(row.machine_id or "") if row is not None else None
    return host if host is not None and host.running else None


def _has_host(world: World, params: Params) -> Node | None:
    row = _one(world, params, *_HAS_A_HOST)
    return row if _host(world, row) is not None else None


def _to_host(what: Callable[[World, Host], Undo | None]) -> Apply:
    def apply(world: World, params: Params) -> Undo | None:
        host = _host(world, _has_host(world, params))
        if host is None:
            return None
        host.was_ill = True
        return what(world, host)

    return apply


def _ails(
    name: str,
    rows: str,
    what: str,
    weight: int = 2,
    lasts: tuple[float, float] = LONG,
) -> None:
    """A host has something, for a while: a flag of its own, or a time until which."""

    def begin(world: World, host: Host) -> Undo:
        well = type(getattr(host, what))()
        setattr(host, what, True if well is False else world.time.seconds() + 86_400.0)
        return lambda: setattr(host, what, well)

    _kind(name, rows, _to_host(begin), target=_has_host, weight=weight, lasts=lasts)


def _restarts(world: World, host: Host) -> None:
    world.shop.server_died(host)


_befalls("crashes", "O6 N2", "crash", 5)
_befalls("vanishes", "O6", "vanish", 5)
_befalls("is switched off", "O7", "power_off", 4)
_befalls("reboots", "V4", "reset", 3)
_ails("serves no token", "M2", "hangs", 3)
_ails("loses a GPU", "V5", "gpu_sick")
_ails("SSH stalls", "H4", "stalls_until_s", 3)
_ails("cannot be reached by us", "N2 H6", "dark_until_s", 3)
_ails("flaps", "M3", "flaps_until_s", lasts=SHORT)
_ails("another host key", "H1 H2", "relayed")
_ails("fails fast", "M4", "fails", 0)
_ails("output without end", "H5", "babbles", 0)
_ails("looking at it throws", "D3", "throws", 0)
_kind("server restarts", "M3 M5", _to_host(_restarts), target=_has_host, weight=0)


# -- what lies between, and the daemon's own host


def _network(name: str, rows: str, what: str, weight: int, lasts: tuple[float, float]) -> None:
    def apply(world: World, params: Params) -> Undo:
        setattr(world.cloud.network, what, True)
        return lambda: setattr(world.cloud.network, what, False)

    kind(name, rows, apply, weight=weight, lasts=lasts)


def _revoked(world: World, params: Params) -> Undo:
    credentials = world.cloud.emulator.cloud.credentials
    credentials.revoked = True
    return lambda: setattr(credentials, "revoked", False)


def _cut_from_nodes(world: World, params: Params) -> Undo:
    world.cut_from_nodes = True
    return lambda: setattr(world, "cut_from_nodes", False)


_network("cloud cut off", "C8 X2", "cut", 4, LONG)
_network("answers of the cloud cut off", "C8 C15", "cut_in_flight", 2, SHORT)
kind("key revoked", "C9", _revoked, weight=3, lasts=LONG)
kind("cut off from all machines", "N1", _cut_from_nodes, weight=4, lasts=LONG)
_network("specs are not as priced", "C14", "specs_differ", 0, LONG)


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
