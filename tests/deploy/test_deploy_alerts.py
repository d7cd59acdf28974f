"""The alerts: what failures name has a rule, a test of promtool's, a page that can be typed, and figures that exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import typer.main
import yaml  # type: ignore[import-untyped]  # it ships no types; `_read` is its one user
from prometheus_client.parser import text_string_to_metric_families

from autoscaler.cli.app import app
from tests.deploy.test_deploy_prometheus import daemons_http, gateway_page, promtool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules" / "autoscaler.yml"
UNIT_TESTS = ROOT / "deploy" / "prometheus" / "tests" / "autoscaler.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "autoscaler.json"
RUNBOOKS = ROOT / "docs" / "runbooks"
PARTS = ["What happened", "What the daemon already does", "What to type"]

# Those that every deployment needs, by what must never go unsaid.
REQUIRED = {
    "UnaccountedMachines": "machines that no row knows",
    "DeleteStuck": "a delete for 15 minutes",
    "CloudAuthFailing": "nothing can be deleted",
    "SpendNearLimit": "a limit within 24 hours, and reached",
    "SweepHeld": "an implausible listing, a lost or an old store",
    "LaunchesFailing": "launches that fail alike, or none in 30 minutes",
    "SignalsLost": "capacity held for 10 minutes",
    "UsersAtRisk": "demand above capacity, requests refused",
    "BalancerDisagrees": "a balancer that lists otherwise than recorded",
    "DaemonStalled": "no pass, no lease, safe mode, a blocked loop",
    "PaymentRequired": "an unpaid account",
    "FleetHeld": "most nodes failing at once",
    "StoreFailing": "a full or broken disk",
    "HostKeyMismatch": "another host key",
    "MetersDisagree": "our meter and the cloud's 5 % apart",
    "RequestsCut": "requests cut at a drain's deadline",
    "PausedTooLong": "a pause older than a day",
    "DrainForgotten": "a drain older than a day",
}


@cache
def rules() -> tuple[dict[str, Any], ...]:
    return tuple(rule for group in _read(RULES)["groups"] for rule in group["rules"])


def names() -> list[str]:
    return sorted({rule["alert"] for rule in rules()})


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_every_alert_that_a_deployment_needs_has_a_rule() -> None:
    assert set(REQUIRED) <= set(names())


async def test_promtool_sees_each_alert_fire_and_not_before() -> None:
    status, said = await promtool("test", "rules", str(UNIT_TESTS))

    assert status == 0, said


def test_every_rule_is_seen_firing_and_resting() -> None:
    rested, fired = set(), set()
    for case in _read(UNIT_TESTS)["tests"]:
        for at in case["alert_rule_test"]:
            alerts = at["exp_alerts"]
            fired |= {
                (at["alertname"], a["exp_labels"].get("reason"), a["exp_labels"]["severity"])
                for a in alerts
            }
            rested |= set() if alerts else {at["alertname"]}

    assert rested == set(names())
    assert fired == {
        (rule["alert"], rule["labels"].get("reason"), rule["labels"]["severity"])
        for rule in rules()
    }


@pytest.mark.parametrize("name", names())
def test_an_alert_leads_to_a_page_that_says_what_happened_what_is_done_and_what_to_type(
    name: str,
) -> None:
    pages = {r["annotations"]["runbook_url"] for r in rules() if r["alert"] == name}
    text = (RUNBOOKS / f"{name}.md").read_text()

    assert pages == {f"docs/runbooks/{name}.md"}
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == PARTS
    assert all(len(part) > 80 for part in text.split("\n## ")[1:])
    assert f"[{name}]({name}.md)" in (RUNBOOKS / "README.md").read_text()


def test_there_is_no_page_of_an_alert_that_is_not() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*names(), "README"}


@pytest.mark.parametrize("name", names())
def test_what_a_page_says_to_type_can_be_typed(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
        for line in block.splitlines()
    ]
    inline = re.findall(r"`(autoscaler [^`]+)`", text)

    assert lines
    for line in [one for one in lines if one.startswith("autoscaler ")] + inline:
        assert why_not_typed(shlex.split(line, comments=True)[1:]) is None, line


@cache
def program() -> Any:  # click's, which ships with typer
    return typer.main.get_command(app)


def why_not_typed(words: list[str]) -> str | None:
    """Why the program would not know this command line, as far as its words go."""
    command = program()
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return f"no command {words[:1]}"
        command, words = command.commands[words[0]], words[1:]
    options = {name: p for p in command.params for name in (*p.opts, *p.secondary_opts)}
    given, plain = iter(words), 0
    for word in given:
        if not word.startswith("-"):
            plain += 1
        elif word not in options:
            return f"no option {word}"
        elif not options[word].is_flag and next(given, None) is None:
            return f"{word} wants a value"
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    least = sum(p.required for p in arguments)
    most = 99 if any(p.nargs == -1 for p in arguments) else len(arguments)
    return None if least <= plain <= most else f"{plain} arguments, not {least} to {most}"


async def test_every_figure_in_a_rule_is_on_the_pages_that_are_scraped(tmp_path: Path) -> None:
    async with (
        daemons_http(tmp_path, "http://127.0.0.1:1") as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/metrics") as response,
    ):
        page = await response.text()
    known = {"up"}
    for text in (page, gateway_page()):
        for family in text_string_to_metric_families(text):
            known |= {family.name, f"{family.name}_total", f"{family.name}_bucket"}

    asked = [(rule["alert"], rule["expr"]) for rule in rules()] + list(drawn())
    unknown = {
        (where, metric)
        for where, expression in asked
        for metric in re.findall(r"\b(?:autoscaler_\w+|up\b(?=[{ ]))", expression)
        if metric not in known
    }

    assert unknown == set()


def drawn() -> Iterator[tuple[str, str]]:
    """Each panel of the dashboard with what it asks."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


async def test_prometheus_understands_what_each_panel_asks(tmp_path: Path) -> None:
    rules_file = tmp_path / "panels.json"  # JSON is YAML
    recorded = [
        {"record": f"panel_{number}", "expr": expression.replace("$model", ".*")}
        for number, (_, expression) in enumerate(drawn())
    ]
    rules_file.write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))

    status, said = await promtool("check", "rules", str(rules_file))

    assert status == 0, said
    assert len(recorded) > 20


def test_the_dashboards_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }

        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        assert panel["type"] == "row" or len(panel["description"]) > 5
        taken |= cells


def test_the_scrape_configuration_reads_the_rules() -> None:
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()

    assert "rule_files:\n  - rules/*.yml" in text
