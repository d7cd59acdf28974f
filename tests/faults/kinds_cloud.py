"""Faults of the cloud's API, of operations and of boots: those that the emulator can be ordered to have."""

from __future__ import annotations

from tests.faults.kinds import LONG, SHORT, Apply, Draw, Params, Undo, kind
from tests.faults.world import World

# -- the emulator's own faults


def _ordered(kind: str, **fixed: float | str) -> Apply:
    """Order a fault of the emulator's with what was drawn; taken back when its time is over."""

    def apply(world: World, params: Params) -> Undo:
        number = world.cloud.order(kind, **fixed, **dict(params))
        return lambda: _take_back(world, number)

    return apply


def _take_back(world: World, number: int) -> None:
    world.cloud.emulator.cloud.faults.remove(number)


def _count(most: int) -> Draw:
    return lambda rng: {"count": float(rng.randint(1, most))}


def _rate(*rates: float) -> Draw:
    return lambda rng: {"rate": rng.choice(rates)}


kind(
    "create answer lost",
    "C1",
    _ordered("drop_after", call="create_vm"),
    weight=5,
    lasts=LONG,
    draw=_count(3),
)
kind(
    "create answered 502 and made",
    "C1",
    _ordered("status", call="create_vm", code=502, after=1),
    lasts=LONG,
    draw=_count(2),
)
kind("create answer cut", "C1", _ordered("cut_json", call="create_vm"), lasts=LONG, draw=_count(2))
kind(
    "create never arrives",
    "C1",
    _ordered("drop_before", call="create_vm"),
    lasts=LONG,
    draw=_count(3),
)
kind(
    "create replayed",
    "C2",
    _ordered("replay", call="create_vm"),
    weight=4,
    lasts=LONG,
    draw=_count(2),
)
kind(
    "create made late",
    "C1 O3",
    _ordered("late", call="create_vm"),
    weight=4,
    lasts=LONG,
    draw=lambda rng: {"count": 1.0, "late_s": rng.uniform(20, 800)},
)
kind(
    "listing lags",
    "C3",
    _ordered("list_lag"),
    weight=4,
    lasts=LONG,
    draw=lambda rng: {"count": float(rng.randint(1, 3)), "lag_s": rng.uniform(20, 400)},
)
kind(
    "listing flickers",
    "C4",
    _ordered("flicker"),
    weight=4,
    lasts=SHORT,
    draw=_rate(0.05, 0.2),
)
kind("listing empty", "C5", _ordered("list_empty"), weight=4, lasts=SHORT, draw=_rate(0.3, 1.0))
kind("listing stands still", "C3 C5", _ordered("list_stale"), lasts=SHORT, draw=_rate(0.5, 1.0))
kind(
    "listing cut",
    "C6",
    _ordered("list_partial"),
    lasts=SHORT,
    draw=lambda rng: {"rate": rng.choice((0.5, 1.0)), "keep": rng.choice((0.0, 0.3, 0.6))},
)
kind("listing pages for ever", "C6", _ordered("list_loops"), weight=1, lasts=SHORT, draw=_rate(1.0))
kind(
    "slow down",
    "C7",
    _ordered("status", code=429),
    weight=3,
    lasts=SHORT,
    draw=lambda rng: {"rate": rng.choice((0.2, 0.8)), "retry_after": rng.choice((0.0, 5.0, 60.0))},
)
kind(
    "errors of the cloud",
    "C8",
    _ordered("status"),
    weight=4,
    lasts=LONG,
    draw=lambda rng: {
        "rate": rng.choice((0.1, 0.5, 1.0)),
        "code": rng.choice((500.0, 502.0, 503.0)),
    },
)
kind(
    "errors after the effect",
    "C8",
    _ordered("status", after=1),
    weight=3,
    lasts=SHORT,
    draw=lambda rng: {"rate": rng.choice((0.1, 0.5)), "code": rng.choice((500.0, 502.0, 504.0))},
)
kind("a page of HTML", "C8", _ordered("html"), weight=1, lasts=SHORT, draw=_rate(0.3, 1.0))
kind("unpaid", "C11", _ordered("status", code=402), lasts=LONG, draw=_rate(0.5, 1.0))
kind("an unknown state", "C12", _ordered("odd_state"), lasts=SHORT, draw=_rate(0.1, 0.5))
kind("a bad item", "C12", _ordered("bad_item"), lasts=SHORT, draw=_rate(0.1, 0.5))
kind("stock is said", "C13", _ordered("stock_said"), lasts=LONG, draw=_rate(1.0))
kind("stock is denied", "C13", _ordered("stock_denied"), lasts=LONG, draw=_rate(0.5, 1.0))
kind("out of stock", "C13", _ordered("out_of_stock"), weight=3, lasts=LONG, draw=_count(4))
kind("a rival rents first", "C13", _ordered("rival"), lasts=LONG, draw=_count(2))
kind("calls hang", "C15", _ordered("hang"), weight=3, lasts=SHORT, draw=_rate(0.05, 0.3))
kind(
    "answers are late",
    "C15",
    _ordered("delay"),
    lasts=SHORT,
    draw=lambda rng: {
        "rate": rng.choice((0.2, 1.0)),
        "delay_s": rng.choice((3.0, 9.0, 30.0)),
        "after": rng.choice((0.0, 1.0)),
    },
)
kind("a huge body", "C16", _ordered("huge", size_mb=9), weight=1, lasts=SHORT, draw=_count(2))
kind(
    "clock of the cloud is wrong",
    "K1",
    _ordered("clock_skew"),
    lasts=LONG,
    draw=lambda rng: {"skew_s": rng.choice((-3600.0, -120.0, 120.0, 3600.0))},
)

kind(
    "operation never ends",
    "O1",
    _ordered("operation_stuck", call="create_vm"),
    weight=3,
    lasts=LONG,
    draw=_count(3),
)
kind("operation succeeds without a machine", "O1", _ordered("no_vm"), lasts=LONG, draw=_count(2))
kind(
    "operation fails and leaves a machine",
    "O2",
    _ordered("failed_vm_left"),
    weight=5,
    lasts=LONG,
    draw=_count(3),
)
kind("create fails", "O2 C13", _ordered("create_fails"), lasts=LONG, draw=_count(2))
kind(
    "create takes long",
    "V1",
    _ordered("slow_create"),
    lasts=LONG,
    draw=lambda rng: {"count": 2.0, "factor": rng.choice((5.0, 40.0))},
)
kind("never defined", "V1", _ordered("stuck_defining"), lasts=LONG, draw=_count(2))
kind("delete ignored", "O4", _ordered("delete_ignored"), weight=5, lasts=LONG, draw=_count(6))
kind("delete fails", "O4", _ordered("delete_fails"), weight=3, lasts=LONG, draw=_count(6))
kind(
    "delete refused",
    "O5",
    _ordered("status", call="delete_vm", code=409),
    lasts=LONG,
    draw=_count(4),
)
kind(
    "delete not found",
    "O5",
    _ordered("status", call="delete_vm", code=404),
    lasts=LONG,
    draw=_count(4),
)
kind("stop never ends", "O7", _ordered("stuck_shutdown"), weight=1, lasts=LONG, draw=_count(2))
kind("disk stays", "O8", _ordered("os_disk_left"), lasts=LONG, draw=_count(3))

kind("no address", "V1", _ordered("no_address"), lasts=LONG, draw=_count(2))
kind("no SSH", "V1", _ordered("no_ssh"), weight=3, lasts=LONG, draw=_count(2))
kind(
    "boots slowly",
    "V1 H3",
    _ordered("slow_boot"),
    lasts=LONG,
    draw=lambda rng: {"count": 2.0, "factor": rng.choice((3.0, 30.0))},
)
kind("script fails", "V2 V6", _ordered("script_exits_1"), lasts=LONG, draw=_count(5))
kind("script hangs", "V3", _ordered("script_hangs"), lasts=LONG, draw=_count(2))
kind("a GPU too few", "V5", _ordered("wrong_gpus"), lasts=LONG, draw=_count(2))
kind("serves nonsense", "M1", _ordered("health_ok_generation_garbage"), lasts=LONG, draw=_count(2))
kind(
    "address of the last one",
    "N3",
    _ordered("address_reused"),
    weight=4,
    lasts=LONG,
    draw=_count(4),
)
