"""Faults of the cloud's API, of operations and of boots: those that the emulator can be ordered to have."""

from __future__ import annotations

from tests.faults.kinds import LONG, SHORT, Draw, Params, Undo, drawn, kind
from tests.faults.world import World


def _kind(
    name: str,
    rows: str,
    order: str,
    draw: Draw,
    weight: int = 2,
    lasts: tuple[float, float] = LONG,
    call: str = "",
    **fixed: float,
) -> None:
    """A fault of the emulator's, ordered with what was drawn; taken back when its time is over."""

    def apply(world: World, params: Params) -> Undo:
        number = world.cloud.order(order, call=call, **fixed, **drawn(params))

        def take_back() -> None:
            world.cloud.emulator.cloud.faults.remove(number)

        return take_back

    kind(name, rows, apply, weight=weight, lasts=lasts, draw=draw)


def _count(most: int) -> Draw:
    return lambda rng: {"count": float(rng.randint(1, most))}


def _rate(*rates: float) -> Draw:
    return lambda rng: {"rate": rng.choice(rates)}


def _twice(*factors: float) -> Draw:
    return lambda rng: {"count": 2.0, "factor": rng.choice(factors)}


_CREATE, _DELETE = "create_vm", "delete_vm"

# -- calls and their answers

_kind("create answer lost", "C1", "drop_after", _count(3), 5, call=_CREATE)
_kind("create answered 502 and made", "C1", "status", _count(2), call=_CREATE, code=502, after=1)
_kind("create answer cut", "C1", "cut_json", _count(2), call=_CREATE)
_kind("create never arrives", "C1", "drop_before", _count(3), call=_CREATE)
_kind("create replayed", "C2", "replay", _count(2), 4, call=_CREATE)
_kind(
    "create made late",
    "C1 O3",
    "late",
    lambda rng: {"count": 1.0, "late_s": rng.uniform(20, 800)},
    4,
    call=_CREATE,
)
_kind(
    "listing lags",
    "C3",
    "list_lag",
    lambda rng: {"count": float(rng.randint(1, 3)), "lag_s": rng.uniform(20, 400)},
    4,
)
_kind("listing flickers", "C4", "flicker", _rate(0.05, 0.2), 4, SHORT)
_kind("listing empty", "C5", "list_empty", _rate(0.3, 1.0), 4, SHORT)
_kind("listing stands still", "C3 C5", "list_stale", _rate(0.5, 1.0), lasts=SHORT)
_kind(
    "listing cut",
    "C6",
    "list_partial",
    lambda rng: {"rate": rng.choice((0.5, 1.0)), "keep": rng.choice((0.0, 0.3, 0.6))},
    lasts=SHORT,
)
_kind("listing pages for ever", "C6", "list_loops", _rate(1.0), 1, SHORT)
_kind(
    "slow down",
    "C7",
    "status",
    lambda rng: {"rate": rng.choice((0.2, 0.8)), "retry_after": rng.choice((0.0, 5.0, 60.0))},
    3,
    SHORT,
    code=429,
)
_kind(
    "errors of the cloud",
    "C8",
    "status",
    lambda rng: {
        "rate": rng.choice((0.1, 0.5, 1.0)),
        "code": rng.choice((500.0, 502.0, 503.0)),
    },
    4,
)
_kind(
    "errors after the effect",
    "C8",
    "status",
    lambda rng: {"rate": rng.choice((0.1, 0.5)), "code": rng.choice((500.0, 502.0, 504.0))},
    3,
    SHORT,
    after=1,
)
_kind("a page of HTML", "C8", "html", _rate(0.3, 1.0), 1, SHORT)
_kind("unpaid", "C11", "status", _rate(0.5, 1.0), code=402)
_kind("an unknown state", "C12", "odd_state", _rate(0.1, 0.5), lasts=SHORT)
_kind("a bad item", "C12", "bad_item", _rate(0.1, 0.5), lasts=SHORT)
_kind("stock is said", "C13", "stock_said", _rate(1.0))
_kind("stock is denied", "C13", "stock_denied", _rate(0.5, 1.0))
_kind("out of stock", "C13", "out_of_stock", _count(4), 3)
_kind("a rival rents first", "C13", "rival", _count(2))
_kind("calls hang", "C15", "hang", _rate(0.05, 0.3), 3, SHORT)
_kind(
    "answers are late",
    "C15",
    "delay",
    lambda rng: {
        "rate": rng.choice((0.2, 1.0)),
        "delay_s": rng.choice((3.0, 9.0, 30.0)),
        "after": rng.choice((0.0, 1.0)),
    },
    lasts=SHORT,
)
_kind("a huge body", "C16", "huge", _count(2), 1, SHORT, size_mb=9)
_kind(
    "clock of the cloud is wrong",
    "K1",
    "clock_skew",
    lambda rng: {"skew_s": rng.choice((-3600.0, -120.0, 120.0, 3600.0))},
)

# -- operations

_kind("operation never ends", "O1", "operation_stuck", _count(3), 3, call=_CREATE)
_kind("operation succeeds without a machine", "O1", "no_vm", _count(2))
_kind("operation fails and leaves a machine", "O2", "failed_vm_left", _count(3), 5)
_kind("create fails", "O2 C13", "create_fails", _count(2))
_kind("create takes long", "V1", "slow_create", _twice(5.0, 40.0))
_kind("never defined", "V1", "stuck_defining", _count(2))
_kind("delete ignored", "O4", "delete_ignored", _count(6), 5)
_kind("delete fails", "O4", "delete_fails", _count(6), 3)
_kind("delete refused", "O5", "status", _count(4), call=_DELETE, code=409)
_kind("delete not found", "O5", "status", _count(4), call=_DELETE, code=404)
_kind("stop never ends", "O7", "stuck_shutdown", _count(2), 1)
_kind("disk stays", "O8", "os_disk_left", _count(3))
_kind(
    "the listing is slow",
    "O9",
    "delay",
    lambda rng: {"rate": 1.0, "delay_s": rng.choice((20.0, 90.0))},
    0,
    call="list_vms",
)

# -- boots

_kind("no address", "V1", "no_address", _count(2))
_kind("no SSH", "V1", "no_ssh", _count(2), 3)
_kind("boots slowly", "V1 H3", "slow_boot", _twice(3.0, 30.0))
_kind("script fails", "V2 V6", "script_exits_1", _count(5))
_kind("script hangs", "V3", "script_hangs", _count(2))
_kind("a GPU too few", "V5", "wrong_gpus", _count(2))
_kind("serves nonsense", "M1", "health_ok_generation_garbage", _count(2))
_kind("address of the last one", "N3", "address_reused", _count(4), 4)
