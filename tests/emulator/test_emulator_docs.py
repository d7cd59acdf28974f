"""The page about the emulator names all that there is, and nothing that is not."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from autoscaler.emulator import command
from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.faults import KINDS
from autoscaler.emulator.routes import admin, operations
from autoscaler.emulator.settings import Settings
from autoscaler.emulator.switches import CHOICES
from tests.emulator.rig import AirMachines, ManualClock

PAGE = Path(__file__).parents[2].joinpath("docs/emulator.md").read_text("utf-8")
CODE = set(re.findall(r"`([^`\n]+)`", PAGE))


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(Settings(), AirMachines(), ManualClock())


def test_every_fault_and_its_options_with_defaults_are_on_the_page() -> None:
    for name, kind in KINDS.items():
        assert name in CODE, name
        for option, default in kind.options.items():
            assert f"`{option}` {default:g}" in PAGE, (name, option)


def test_every_switch_is_on_the_page_with_its_values_default_first() -> None:
    for name, choices in CHOICES.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        assert " ".join(f"`{choice}`" for choice in choices) in row


def test_every_flag_is_on_the_page_and_no_other() -> None:
    names = inspect.signature(command.emulator).parameters
    flags = {"--" + name.replace("_", "-") for name in names}
    rows = set(re.findall(r"^\| `(--[\w-]+)` \|", PAGE, re.MULTILINE))
    assert rows == flags


def test_every_call_can_be_aimed_at_by_the_name_on_the_page(emulator: Emulator) -> None:
    of_operations = {route.name for route in operations.routes(emulator.cloud)}
    names = {route.name for route in emulator.api_routes()} - of_operations

    assert names <= CODE
    assert {"list_vm_operations", "get_vm_operation"} <= CODE


def test_every_route_of_its_own_is_on_the_page(emulator: Emulator) -> None:
    section = PAGE.partition("## Its own API")[2].partition("## Limits")[0]
    for route in admin.routes(emulator.cloud, emulator.add_fault):
        first = route.path.removeprefix(admin.PREFIX).split("/")[1]
        assert f"/{first}" in section, route
        assert route.method in section
