"""Faults on request: what may go wrong, how often, and for whom.

A fault is an order ("the next two creates lose their answer"), kept until it is used up. The code
that could go wrong asks at the place where it would: `faults.take("drop_after", subject)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from autoscaler.emulator.chance import Chance


class Stage(StrEnum):
    """Where a kind of fault strikes."""

    CALL = "any call"
    LIST = "the list of VMs"
    CREATE = "a create"
    BOOT = "a boot"
    LIFE = "a running VM"
    STOP = "a stop"
    DELETE = "a delete"
    STOCK = "availabilities"
    CLOCK = "all times told"


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault. `options` are its parameters with their defaults, all numbers."""

    stage: Stage
    meaning: str
    options: Mapping[str, float] = field(default_factory=dict)


_HTTP = Stage.CALL
KINDS: Mapping[str, FaultKind] = {
    "drop_before": FaultKind(_HTTP, "the connection drops and nothing has happened"),
    "drop_after": FaultKind(_HTTP, "it happens, then the connection drops: the answer is lost"),
    "delay": FaultKind(
        _HTTP,
        "the answer comes delay_s real seconds late; after=1: it has happened by then",
        {"delay_s": 5, "after": 0},
    ),
    "hang": FaultKind(_HTTP, "it happens, and no answer ever comes"),
    "status": FaultKind(
        _HTTP,
        "an error status: 401, 402, 429, 500, 502, 503, 504 or any other; after=1: it happened",
        {"code": 500, "after": 0, "retry_after": 0},
    ),
    "html": FaultKind(_HTTP, "a gateway's HTML page instead of JSON", {"code": 502, "after": 0}),
    "cut_json": FaultKind(_HTTP, "it happens, and half of the JSON comes back"),
    "huge": FaultKind(
        _HTTP, "a body of size_mb, inflated from gzip if gzip=1", {"size_mb": 32, "gzip": 0}
    ),
    "replay": FaultKind(_HTTP, "a proxy sends the call twice; the second answer is told"),
    "late": FaultKind(
        _HTTP, "the connection drops; it happens after late_s emulated seconds", {"late_s": 120}
    ),
    "list_stale": FaultKind(Stage.LIST, "the list as it was when this fault was added"),
    "list_partial": FaultKind(Stage.LIST, "only the first `keep` of the VMs", {"keep": 0.5}),
    "list_empty": FaultKind(Stage.LIST, "200 with no VMs"),
    "list_loops": FaultKind(Stage.LIST, "next_page_token leads to the same page again"),
    "flicker": FaultKind(Stage.LIST, "GET says 404, and the list leaves the VM out"),
    "odd_state": FaultKind(Stage.LIST, "the VM is told with a state nobody knows"),
    "bad_item": FaultKind(Stage.LIST, "one VM of the list is not of the shape"),
    "out_of_stock": FaultKind(Stage.CREATE, "the operation ends FAILED, out_of_stock; no VM"),
    "rival": FaultKind(
        Stage.CREATE, "another tenant takes all stock of it just before", {"hold_s": 600}
    ),
    "create_fails": FaultKind(Stage.CREATE, "the operation ends FAILED, internal_error; no VM"),
    "failed_vm_left": FaultKind(
        Stage.CREATE, "the operation ends FAILED, and a running VM is left"
    ),
    "no_vm": FaultKind(Stage.CREATE, "the operation ends SUCCEEDED, and there is no VM"),
    "operation_stuck": FaultKind(
        _HTTP, "the operation that this call begins stays IN_PROGRESS for ever"
    ),
    "stuck_defining": FaultKind(Stage.CREATE, "the VM stays DEFINING for ever"),
    "slow_create": FaultKind(
        Stage.CREATE, "the create takes `factor` times as long", {"factor": 10}
    ),
    "list_lag": FaultKind(
        Stage.CREATE, "GET and list show the VM after lag_s only", {"lag_s": 300}
    ),
    "no_address": FaultKind(Stage.BOOT, "RUNNING, and never a public address"),
    "address_reused": FaultKind(Stage.BOOT, "it gets the address that was freed last"),
    "slow_boot": FaultKind(
        Stage.BOOT, "SSH answers `factor` times as late as it would", {"factor": 10}
    ),
    "no_ssh": FaultKind(Stage.BOOT, "nothing ever listens for SSH"),
    "host_key_changed": FaultKind(
        Stage.BOOT, "another host key than at the boot before, or than the one told"
    ),
    "script_exits_1": FaultKind(Stage.BOOT, "the startup script ends at once with status 1"),
    "script_hangs": FaultKind(Stage.BOOT, "the startup script hangs"),
    "wrong_gpus": FaultKind(Stage.BOOT, "nvidia-smi shows a GPU too few"),
    "health_ok_generation_garbage": FaultKind(
        Stage.BOOT, "the model server is healthy and answers nonsense"
    ),
    "crash": FaultKind(Stage.LIFE, "it dies at once: CRASHED", {"after_s": 60}),
    "vanish": FaultKind(Stage.LIFE, "it is gone, as if it had never been", {"after_s": 60}),
    "power_off": FaultKind(Stage.LIFE, "the host is maintained: SHUTOFF", {"after_s": 60}),
    "stuck_shutdown": FaultKind(Stage.STOP, "the VM stays SHUTDOWN for ever"),
    "delete_ignored": FaultKind(Stage.DELETE, "the operation ends SUCCEEDED, and the VM stays"),
    "delete_fails": FaultKind(Stage.DELETE, "the operation ends FAILED, and the VM stays"),
    "os_disk_left": FaultKind(Stage.DELETE, "the VM goes, and its OS disk stays"),
    "stock_said": FaultKind(Stage.STOCK, "available: true, whatever there is"),
    "stock_denied": FaultKind(Stage.STOCK, "available: false, whatever there is"),
    "clock_skew": FaultKind(Stage.CLOCK, "all times told are wrong by skew_s", {"skew_s": 300}),
}

_STATE_FAULTS = frozenset({"clock_skew"})  # in force while they stand; not counted down
_MATCHERS = ("call", "name", "type", "location")


class FaultInvalid(ValueError):
    """No such fault. The message names what is allowed."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a fault may be aimed at: a call, and the VM that it is about, as far as known."""

    call: str = ""
    name: str = ""
    type: str = ""
    location: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """An order for trouble.

    Attributes:
        count: how many times it strikes; None with a `rate`: without end.
        rate: the chance of each strike, 1.0 for always.
        call: only this call ("create_vm"; see `GET /_emulator/faults/kinds`); "" for any.
        name: a regular expression that the VM's whole name must match; "" for any.
    """

    kind: str
    count: int | None = 1
    rate: float = 1.0
    call: str = ""
    name: str = ""
    type: str = ""
    location: str = ""
    options: Mapping[str, float] = field(default_factory=dict)
    id: int = 0

    def option(self, key: str) -> float:
        return self.options.get(key, KINDS[self.kind].options[key])

    def aims_at(self, subject: Subject) -> bool:
        return (
            self.call in ("", subject.call)
            and self.type in ("", subject.type)
            and self.location in ("", subject.location)
            and (not self.name or re.fullmatch(self.name, subject.name) is not None)
        )


def make_fault(kind: str, fields: Mapping[str, str | float | None]) -> Fault:
    """Check an order for a fault; without `count`, one with a `rate` has no end.

    Raises:
        FaultInvalid: unknown kind, field or value.
    """
    if kind not in KINDS:
        raise FaultInvalid(f"unknown fault {kind!r}: one of {', '.join(KINDS)}")
    options: dict[str, float] = {}
    matchers: dict[str, str] = {}
    rate: float | None = None
    count: float | None = None
    for key, value in fields.items():
        if key in _MATCHERS:
            matchers[key] = str(value)
        elif key == "rate":
            rate = _number(kind, key, value)
        elif key == "count":
            count = None if value is None else _number(kind, key, value)
        elif key in KINDS[kind].options:
            options[key] = _number(kind, key, value)
        else:
            known = ", ".join(("count", "rate", *_MATCHERS, *KINDS[kind].options))
            raise FaultInvalid(f"fault {kind}: unknown field {key!r}: one of {known}")
    _check(kind, rate, count, matchers, options)
    if count is None and rate is None and kind not in _STATE_FAULTS and "count" not in fields:
        count = 1
    return Fault(
        kind=kind,
        count=None if count is None else int(count),
        rate=1.0 if rate is None else rate,
        call=matchers.get("call", ""),
        name=matchers.get("name", ""),
        type=matchers.get("type", ""),
        location=matchers.get("location", ""),
        options=options,
    )


def parse_fault(text: str) -> Fault:
    """Read `kind[@call][:key=value,…]`, as `status@create_vm:code=504,after=1,count=2`.

    Raises:
        FaultInvalid: not of that form.
    """
    head, _, tail = text.partition(":")
    kind, at, call = head.partition("@")
    fields: dict[str, str | float | None] = {"call": call} if at else {}
    for pair in filter(None, tail.split(",")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise FaultInvalid(f"fault {text!r}: {pair!r} is not key=value")
        fields[key] = value
    return make_fault(kind, fields)


class Faults:
    """The orders that stand."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._orders: list[Fault] = []
        self._next_id = 1
        self.struck: dict[str, int] = {}

    def add(self, fault: Fault) -> Fault:
        """Enter an order; returned with its id."""
        fault = replace(fault, id=self._next_id)
        self._next_id += 1
        self._orders.append(fault)
        return fault

    def standing(self) -> tuple[Fault, ...]:
        return tuple(self._orders)

    def remove(self, fault_id: int) -> bool:
        """Take one order back; says whether it stood."""
        kept = [fault for fault in self._orders if fault.id != fault_id]
        found = len(kept) != len(self._orders)
        self._orders = kept
        return found

    def clear(self) -> None:
        self._orders = []

    def take(self, kind: str, subject: Subject) -> Fault | None:
        """Let a fault of `kind` strike, if one is ordered for `subject`; it is counted down."""
        for index, fault in enumerate(self._orders):
            if fault.kind != kind or not fault.aims_at(subject):
                continue
            if fault.rate < 1.0 and not self._chance.happens(fault.rate):
                continue
            if fault.count is not None:
                if fault.count <= 1:
                    del self._orders[index]
                else:
                    self._orders[index] = replace(fault, count=fault.count - 1)
            self.struck[kind] = self.struck.get(kind, 0) + 1
            return fault
        return None

    def standing_of(self, kind: str) -> Fault | None:
        """The first order of `kind`, not counted down."""
        return next((fault for fault in self._orders if fault.kind == kind), None)


def _number(kind: str, key: str, value: str | float | None) -> float:
    try:
        return float(value if value is not None else "none")
    except ValueError as exc:
        raise FaultInvalid(f"fault {kind}: {key} is {value!r}: must be a number") from exc


def _check(
    kind: str,
    rate: float | None,
    count: float | None,
    matchers: Mapping[str, str],
    options: Mapping[str, float],
) -> None:
    if rate is not None and not 0 < rate <= 1:
        raise FaultInvalid(f"fault {kind}: rate is {rate}: must be above 0 and at most 1")
    if count is not None and (count < 1 or count != int(count)):
        raise FaultInvalid(f"fault {kind}: count is {count}: must be a whole number from 1")
    try:
        re.compile(matchers.get("name", ""))
    except re.error as exc:
        raise FaultInvalid(f"fault {kind}: name is not a regular expression: {exc}") from exc
    for key, value in options.items():
        if key != "skew_s" and not 0 <= value < 1e9:
            raise FaultInvalid(f"fault {kind}: {key} is {value}: must be from 0 to 1e9")
    if not 100 <= options.get("code", 500) <= 599:
        raise FaultInvalid(f"fault {kind}: code must be an HTTP status")
