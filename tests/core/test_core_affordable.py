"""Limits that leave no room for one VM are said with their figures and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from autoscaler.affordable import too_tight
from autoscaler.cloud.mkinf.listed import listed_offers
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.config import LimitSettings
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.offer import Offer
from tests.core.desk import policy
from tests.nodes.life_parts import offer

A40 = offer("a40.1x", "a40", "1.10")
OFFERS = (offer(), A40)


def said(
    overall: dict[str, object] | None = None, offers: Sequence[Offer] = OFFERS, **own: object
) -> list[str]:
    limits = LimitSettings.model_validate(overall or {})
    return too_tight(policy(**own), limits, offers, Profiles.load())


def test_limits_with_room_for_one_vm_say_nothing() -> None:
    fits = {"usd_per_hour": "1.10", "usd_per_day": "1.10", "usd_per_month": 20}

    assert said(fits, limit="$1.10/h") == []
    assert said() == []


@pytest.mark.parametrize(
    ("overall", "own", "key"),
    [
        ({}, {"limit": "$1.09/h"}, "limit of meta-llama/Llama-3.1-8B-Instruct is $1.09/h"),
        ({}, {"limits": {"usd_per_hour": 1}}, "limits.usd_per_hour of meta-llama"),
        ({}, {"limits": {"usd_per_day": 1}}, "limits.usd_per_day of meta-llama"),
        ({"usd_per_hour": 1}, {}, "limits.usd_per_hour of config.toml is $1.00/h"),
        ({"usd_per_day": 1}, {}, "limits.usd_per_day of config.toml is $1.00/day"),
        ({"usd_per_month": 1}, {}, "limits.usd_per_month of config.toml is $1.00/month"),
        ({"nodes": 0}, {}, "limits.nodes of config.toml is 0"),
    ],
)
def test_a_limit_below_one_vm_names_itself_the_vm_its_price_and_the_way_out(
    overall: dict[str, object], own: dict[str, Any], key: str
) -> None:
    (text,) = said(overall, **own)

    assert key in text
    if "nodes" not in overall:
        assert "a40.1x at $1.10/h" in text
        assert "raise it to at least $1.10/" in text


def test_a_minimum_that_its_limits_cannot_pay_is_said() -> None:
    least = {"min": 2, "max": 4}

    (hour,) = said({"usd_per_hour": 2}, nodes=least)
    (month,) = said({"usd_per_month": 1500}, nodes=least)

    assert "nodes.min = 2 of a40.1x at $1.10/h are $2.20/h" in hour
    assert "$1584.00/month" in month
    assert "Raise it to at least $1584.00/month" in month
    assert month.endswith("(hardware.types), or lower nodes.min")


def test_what_the_policy_excludes_is_no_way_to_afford_it() -> None:
    (text,) = said({"usd_per_hour": "1.20"}, hardware={"types": ["l40s*"]})

    assert "l40s-48gb.1x at $1.25/h" in text


def test_a_model_that_no_offer_can_serve_is_said_and_one_without_nodes_is_fine() -> None:
    (text,) = said(hardware={"types": ["h100*"]})

    assert "no offer can serve it" in text
    assert said({"usd_per_hour": "0.01"}, nodes={"max": 0}) == []


def test_the_price_list_alone_tells_it_without_a_cloud() -> None:
    listed = listed_offers(load_prices())

    (text,) = said({"usd_per_hour": "0.01"}, listed)

    assert "the cheapest that can serve" in text
