"""Machines that no row knows bill all the same, and count against every limit."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from autoscaler.act import Limits
from autoscaler.config import LimitSettings
from autoscaler.domain.machine import Disk
from autoscaler.domain.money import Money
from autoscaler.domain.node import State
from autoscaler.domain.offer import Market
from autoscaler.nodes.inventory import Findings
from autoscaler.store.protocol import Ledger, Orphan
from autoscaler.sweeping import SweepRounds
from tests.nodes.life_parts import (
    MODEL,
    NOON,
    intent_id,
    listing,
    machine,
    node,
    offer,
    policy,
)


def limits(unbooked: tuple[Money, ...], **overall: object) -> Limits:
    settings = LimitSettings.model_validate(overall)
    return Limits(settings, {MODEL: policy(nodes={"max": 9})}, {}, None, unbooked)


def test_machines_that_no_row_knows_take_places() -> None:
    judged = limits((Money.of("2"),) * 3, nodes=4)
    wanted = [node(State.PLANNED, intent=intent_id(n)) for n in range(2)]

    admission = judged.admit(Ledger(NOON, ()), wanted)

    assert len(admission.admitted) == 1
    assert "limits.nodes is 4" in admission.refused[0][1]


def test_machines_that_no_row_knows_count_by_the_hour() -> None:
    judged = limits((Money.of("5"),), usd_per_hour=6)

    why = judged.why_not(Ledger(NOON, ()), (), node(State.PLANNED, price_per_hour=Money.of("2")))

    assert why is not None
    assert "$7.00/h" in why


def test_machines_that_no_row_knows_count_by_the_day() -> None:
    judged = limits((Money.of("5"),), usd_per_day=6)

    why = judged.why_not(Ledger(NOON, ()), (), node(State.PLANNED, price_per_hour=Money.of("2")))

    assert why is not None
    assert "usd_per_day of all models is $6.00" in why


def test_a_clock_that_was_set_back_earns_no_money() -> None:
    running = node(State.READY, sent_at=NOON, price_per_hour=Money.of("10"))

    ledger = Ledger(NOON - timedelta(days=2), (running,), closed_month={MODEL: Money.of("600")})

    assert ledger.spent_month() == Money.of("600")


def test_each_orphan_is_priced_by_its_type_and_disks_that_stayed_by_our_list() -> None:
    four = replace(offer("a40.4x", "a40", "4.40"), gpus=4)
    known, sold_out, strange = (
        replace(machine(f"as1-x{n}", f"m{n}"), type=type_, location=place)
        for n, (type_, place) in enumerate(
            (("l40s-48gb.1x", "us-east1-a"), ("a40.4x", "elsewhere"), ("new.9x", "us-east1-a"))
        )
    )
    orphans = tuple(Orphan(m.id, m.name, NOON) for m in (known, sold_out, strange))
    disk = Disk("d1", "OS-disk-m9", 128.0, "us-east1-a", price_per_hour=Money.of("0.0166"))
    parts: dict[str, Any] = dict.fromkeys(SweepRounds.__slots__)
    rounds = SweepRounds(
        **parts
        | {
            "market": SimpleNamespace(last=Market((offer(), four), NOON)),
            "inventory": SimpleNamespace(last=listing(known, sold_out, strange)),
            "sweeper": SimpleNamespace(findings=Findings(orphans=orphans), disks_left=(disk,)),
            "listed": None,
        }
    )

    found = rounds.unbooked()

    assert found.machines == (Money.of("1.25"), Money.of("4.40"), Money.of("4.40"))
    assert found.gpus == 1 + 4 + 4
    assert found.disks_per_hour == Money.of("0.0166")
