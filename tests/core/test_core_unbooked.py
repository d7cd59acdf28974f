"""Machines that no row knows bill all the same, and count against every limit."""

from __future__ import annotations

from datetime import timedelta

from autoscaler.act import Limits
from autoscaler.config import LimitSettings
from autoscaler.domain.money import Money
from autoscaler.domain.node import State
from autoscaler.store.protocol import Ledger
from tests.nodes.life_parts import MODEL, NOON, intent_id, node, policy


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
