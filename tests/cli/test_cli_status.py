"""`autoscaler status` answers at a glance, in 80 columns."""

from __future__ import annotations

from typing import Any

import pytest

from autoscaler.cli.connection import screen_lines
from autoscaler.cli.screen import Screen
from autoscaler.cli.status import status_table
from autoscaler.clock import SystemClock


def model(name: str = "team/chat-8b", **changes: Any) -> dict[str, Any]:
    return {
        "model": name,
        "mode": "active",
        "state": "ok",
        "state_why": None,
        "nodes": {"ready": 2, "booting": 1},
        "demand": 1.7,
        "ready": 2.0,
        "decided_at": "2026-11-23T12:00:00+00:00",
        "attained": 0.994,
        "goal": 0.95,
        "usd_per_hour": "3.4500",
        "coming": [{"type": "a40.1x", "usual_s": 130.0, "likely_s": 160.0}],
        "wakes": None,
        "idle_since": None,
        "override": None,
        "shadow": None,
    } | changes


ASLEEP: dict[str, Any] = {
    "state": "zero",
    "nodes": {},
    "demand": 0.0,
    "ready": 0.0,
    "attained": None,
    "usd_per_hour": "0.0000",
    "coming": [],
    "wakes": {"usual_s": 300.0, "likely_s": 380.0, "boots": 9},
}


def view(*models: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "usd_per_hour": "3.4500",
        "spent_month_usd": "612.1000",
        "forecast_month_usd": "910.4000",
        "forecast_basis": "day",
        "limits": {"usd_per_hour": "12", "usd_per_month": "1500", "nodes": 10},
        "unaccounted": 0,
        "swept_at": SystemClock().now().isoformat(),
        "trouble": [],
        "models": list(models),
    } | changes


def shown(view: dict[str, Any], width: int | None = 80) -> list[str]:
    return [line.plain for line in screen_lines(status_table(view), Screen(width))]


def test_money_stands_first_with_its_limits_and_the_basis_of_the_forecast() -> None:
    first = shown(view(model()), None)[0]

    assert first.startswith(
        "$3.45/h of $12 · month $612, forecast $910 of $1,500 (mean of the last day) · "
        "0 unaccounted (swept "
    )


def test_trouble_stands_before_money() -> None:
    said = shown(view(model(), trouble=["chat: its policy file vanished"]))

    assert said[0] == "! chat: its policy file vanished"
    assert said[1].startswith("$3.45/h")


def test_a_line_says_what_serves_what_comes_and_what_it_costs() -> None:
    (line,) = shown(view(model()), None)[1:]

    assert line.split("  ") == [
        "team/chat-8b",
        "ok",
        "2 ready +1 booting",
        "demand 1.7 of 2.0",
        "99.4% (goal 95)",
        "$3.45/h",
        "a40.1x serves in ~2m10s",
    ]


def test_a_sleeping_model_says_for_how_long_and_how_long_it_takes_to_wake() -> None:
    text = " ".join(shown(view(model(**ASLEEP, idle_since="2020-01-01T00:00:00+00:00"))))

    assert " zero " in text
    assert "idle " in text
    assert "wakes in ~5m (p90 6m20s)" in text


def test_a_wake_that_was_never_measured_is_not_given_a_quantile() -> None:
    unmeasured: dict[str, Any] = ASLEEP | {
        "wakes": {"usual_s": 300.0, "likely_s": 300.0, "boots": 0}
    }

    assert "wakes in ~5m (not measured yet)" in " ".join(shown(view(model(**unmeasured))))


def test_a_goal_missed_by_a_hair_does_not_look_met() -> None:
    assert "94.9% (goal 95)" in " ".join(shown(view(model(attained=0.94999))))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "limit", "state_why": "limit of chat is $4.00/h"}, "limit of chat is $4.00/h"),
        ({"state": "failing", "state_why": "3 launches in a row failed"}, "failed"),
        ({"state": "hold", "state_why": "held at 2: no figure", "demand": None}, "demand ?"),
        ({"state": "paused", "paused_by": "anna"}, "by anna"),
        (
            {"state": "paused", "paused_by": "anna", "paused_at": "2026-01-01T00:00:00+00:00"},
            "by anna for ",
        ),
        (
            {
                "state": "shadow",
                "shadow": {"nodes": 2, "usd_per_hour": "2.3500", "cost_usd": "12.1000"},
            },
            "on paper 2 at $2.35/h, $12.10 so far",
        ),
        (
            {"override": {"nodes": 4, "until": "2026-11-23T22:00:00+00:00", "by": "anna"}},
            "set to 4 until 22:00 by anna",
        ),
    ],
)
def test_what_stands_out_is_said(changes: dict[str, Any], said: str) -> None:
    assert said in " ".join(shown(view(model(**changes)), None))


def test_many_models_long_names_and_huge_figures_fit_80_columns() -> None:
    long = "an-owner-with-a-long-name/" + "model-" * 20
    many = [model(f"team/chat-{n}b") for n in range(40)]
    huge = model(long, demand=1e9, ready=1e9, usd_per_hour="123456789.0", state_why="why " * 60)
    asked = view(
        *many,
        huge,
        model(**ASLEEP),
        trouble=["x" * 200, "\x1b[2J" + "because " * 40],
        usd_per_hour="99999999.99",
        spent_month_usd="99999999999.99",
        forecast_month_usd="99999999999.99",
        unaccounted=123456,
        unproven=["delete-of-a-running-vm"] * 9,
    )

    lines = shown(asked)

    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert sum("chat-" in line for line in lines) >= 40


def test_names_lose_their_owner_on_a_narrow_screen_only_where_that_leaves_no_doubt() -> None:
    asked = view(model("a/chat"), model("b/chat"), model("a/code"))

    narrow = [line.split()[0] for line in shown(asked, 120)[1:]]

    assert narrow == ["a/chat", "b/chat", "code"]
    assert shown(asked, None)[3].startswith("a/code")


def test_without_a_daemon_the_last_figures_are_shown() -> None:
    left = view(model(), trouble=["no daemon runs: these figures are as it left them"])
    for key in ("limits", "unaccounted", "swept_at"):
        del left[key]
    for key in ("attained", "goal", "coming", "wakes", "idle_since", "state_why"):
        del left["models"][0][key]

    said = shown(left, None)

    assert said[0].startswith("! no daemon runs")
    assert said[1].endswith("unknown unaccounted")
    assert "2 ready +1 booting" in said[2]
