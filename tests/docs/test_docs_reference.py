"""The references hold what the code holds: every key with its default, every metric, every command."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from autoscaler.cli.app import app
from autoscaler.config import Config
from autoscaler.domain.money import Money
from autoscaler.gateway.exposition import render
from autoscaler.gateway.pools import Pools
from autoscaler.nodes.startup.presets import presets
from autoscaler.policy import Policy
from autoscaler.quantity import parse_size, show_duration
from autoscaler.serve.metrics import Metrics
from autoscaler.timings import Timings
from autoscaler.toml_file import _model_in

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FILES: dict[str, type[BaseModel]] = {"configuration.md": Config, "policy.md": Policy}
NOT_SET = "–"


def documented(text: str) -> dict[str, dict[str, list[str]]]:
    """Per section the rows of its tables: a key's further cells."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            name = re.search(r"`\[+([a-z_.]+?)(?:\.\"TYPE\")?\]+`", line)
            section = name[1] if name else ""
        row = re.match(r"\| `([a-z_]+)` \| (.*) \|$", line)
        if row:
            sections.setdefault(section, {})[row[1]] = row[2].split(" | ")
    return sections


def declared(
    values: type[BaseModel], section: str = ""
) -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """Per table of the file its keys that are not tables themselves."""
    keys = {field.alias or name: field for name, field in values.model_fields.items()}
    tables = {key: _model_in(field.annotation) for key, field in keys.items()}
    yield section, {key: field for key, field in keys.items() if tables[key] is None}
    for key, table in tables.items():
        if table is not None:
            yield from declared(table, f"{section}.{key}".lstrip("."))


def says(cell: str, default: Any) -> bool:
    """Whether a cell of the docs states this default."""
    text = cell.strip("`")
    plain = text.strip('"')
    match default:
        case _ if default is PydanticUndefined:
            return cell == "required"
        case None:
            return cell == NOT_SET
        case bool():
            return text == str(default).lower()
        case timedelta():
            return text == f'"{show_duration(default)}"'
        case int() | float():
            return plain == str(default) or (bool(default) and _size(plain) == default)
        case Money():
            return plain == str(default.usd)
        case () | {}:
            return cell == "none"
        case tuple():
            return text == "[" + ", ".join(f'"{one}"' for one in default) + "]"
        case _:
            return text == f'"{default}"'


def _size(text: str) -> int | None:
    try:
        return parse_size(text)
    except ValueError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_documented_and_no_other(name: str) -> None:
    found = documented((DOCS / name).read_text())

    wanted = {section: set(keys) for section, keys in declared(FILES[name]) if keys}

    assert {section: set(rows) for section, rows in found.items()} == wanted


@pytest.mark.parametrize("name", FILES)
def test_every_default_in_the_docs_is_the_codes(name: str) -> None:
    found = documented((DOCS / name).read_text())
    wrong = []
    for section, keys in declared(FILES[name]):
        for key, field in keys.items():
            default = field.get_default(call_default_factory=True)
            cell = found[section][key][0]
            if not says(cell, default):
                wrong.append(f"{section}.{key}: the docs say {cell}, the code {default!r}")

    assert wrong == []


def test_every_least_value_of_a_duration_is_in_the_docs() -> None:
    found = documented((DOCS / "configuration.md").read_text())["timings"]

    for key, field in Timings.model_fields.items():
        extra = field.json_schema_extra
        least = extra.get("floor_s") if isinstance(extra, dict) else None
        if isinstance(least, int | float):
            assert found[key][1] == show_duration(timedelta(seconds=least)), key
        else:
            assert found[key][1] == NOT_SET, key


def test_every_row_of_the_references_says_something() -> None:
    for name in FILES:
        for section, rows in documented((DOCS / name).read_text()).items():
            for key, cells in rows.items():
                assert len(cells[-1]) > 5, f"{section}.{key}"


def kinds(page: str) -> dict[str, str]:
    """The metrics of a page, as Prometheus names them, with their kinds."""
    families = text_string_to_metric_families(page)
    return {f.name + ("_total" if f.type == "counter" else ""): f.type for f in families}


async def exported() -> Mapping[str, str]:
    from prometheus_client import generate_latest

    daemon = generate_latest(Metrics().registry).decode()
    gateway = render(Pools(asyncio.get_running_loop()))[0].decode()
    return kinds(daemon) | kinds(gateway)


async def test_every_metric_is_documented_with_its_kind_and_no_other() -> None:
    text = (DOCS / "metrics.md").read_text()
    found = dict(re.findall(r"^\| `(autoscaler_\w+)` \| (\w+) \|", text, flags=re.MULTILINE))

    assert found == await exported()


def commands(program: Any, path: str = "") -> Iterator[str]:
    """Every command line that does something; `program` is click's, which ships with typer."""
    for name, command in program.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


def test_every_command_is_documented_and_no_other() -> None:
    text = (DOCS / "operating.md").read_text()
    rows = re.findall(r"^\| `autoscaler ([^`]+)` \|", text, flags=re.MULTILINE)
    named = {re.sub(r" [\[A-Z-].*", "", row) for row in rows}

    wanted = set(commands(typer.main.get_command(app)))

    assert {name for name in named if not name.startswith("cloud ")} == {
        name for name in wanted if not name.startswith("cloud ")
    }
    for name in sorted(wanted - named):
        assert name.startswith("cloud ")
        assert f"`{name.removeprefix('cloud ')}`" in text, f"`autoscaler {name}` is not documented"


def test_every_preset_is_documented_with_its_driver_its_pin_its_proof_and_its_images() -> None:
    page = (DOCS / "startup-scripts.md").read_text()
    rows = {
        row[0].partition("`")[2].partition("`")[0]: row
        for line in page.splitlines()
        if len(row := line.strip("| ").split(" | ")) == 5 and row[0].startswith("`")
    }

    for preset in (each for kind in presets().values() for each in kind):
        _, _, driver, pin, checked = rows.pop(preset.name)
        assert (driver, checked) == (preset.min_driver, preset.checked)
        assert ("first pull" in pin) == any("@" not in image for image in preset.images.values())
        assert [image for image in preset.images.values() if f"    {image}" not in page] == []
    assert rows == {}
