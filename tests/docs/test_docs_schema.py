"""The JSON Schemas that editors use say what the program itself would say."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from autoscaler.cli.app import app
from autoscaler.file_schema import KINDS, shipped
from autoscaler.quantity import parse_duration, parse_money, parse_size

ROOT = Path(__file__).parents[2]
SCHEMAS: Mapping[str, dict[str, Any]] = {kind: json.loads(shipped(kind)) for kind in KINDS}
POLICIES = sorted((ROOT / "policies").glob("*.toml"))
UNITS = ("", "s", "m", "h", "d", "GiB", "kB", "x", "/h", "$")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_schema", ROOT / "scripts" / "schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wrong(value: Any, schema: Any, root: Any, at: str = "") -> list[str]:
    """Where a value breaks a schema: the part of draft 7 that ours use, and no other word of it."""
    known = {
        "$schema", "$defs", "title", "description", "default", "$ref", "allOf", "anyOf", "type", "enum", "const",
        "pattern", "properties", "required", "additionalProperties", "items", "minLength", "maxLength", "minimum",
        "maximum", "exclusiveMinimum", "exclusiveMaximum", "propertyNames", "patternProperties",
    }  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        return wrong(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, at)
    found = [each for part in schema.get("allOf", ()) for each in wrong(value, part, root, at)]
    if "anyOf" in schema and all(wrong(value, part, root, at) for part in schema["anyOf"]):
        found.append(f"{at}: none of {len(schema['anyOf'])}")
    types: Mapping[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind = schema.get("type")
    if kind and (
        not isinstance(value, types[kind]) or (kind != "boolean" and isinstance(value, bool))
    ):
        return [*found, f"{at}: no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: not in {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: not {schema['const']}")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{at}: pattern")
    if isinstance(value, int | float):
        found += [f"{at}: bounds"] * (
            value < schema.get("minimum", value)
            or value > schema.get("maximum", value)
            or ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
            or ("exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"])
        )
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, each in enumerate(value):
            found += wrong(each, schema["items"], root, f"{at}[{index}]")
    if isinstance(value, dict):
        keys = schema.get("properties", {})
        found += [f"{at}.{key}: required" for key in schema.get("required", ()) if key not in value]
        for key, each in value.items():
            if key in keys:
                found += wrong(each, keys[key], root, f"{at}.{key}")
            elif schema.get("additionalProperties") is False:
                found.append(f"{at}.{key}: no such key")
            elif isinstance(schema.get("additionalProperties"), dict):
                found += wrong(each, schema["additionalProperties"], root, f"{at}.{key}")
    return found


def mistakes(kind: str, text: str) -> list[str]:
    return wrong(tomllib.loads(text), SCHEMAS[kind], SCHEMAS[kind])


def test_the_schemas_that_ship_are_those_of_the_code_and_the_docs() -> None:
    for kind, text in script().texts().items():
        assert shipped(kind) == text, f"{kind}: run `make schema`"


def test_every_example_is_right_and_names_its_schema() -> None:
    config = ROOT / "config.example.toml"
    assert mistakes("config", config.read_text()) == []
    for file, kind in [(config, "config"), *((policy, "policy") for policy in POLICIES)]:
        first = file.read_text().splitlines()[0]
        assert mistakes(kind, file.read_text()) == [], file
        named = (file.parent / first.removeprefix("#:schema ")).resolve()
        assert named == ROOT / "autoscaler/data/schema" / f"{kind}.json"


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("policy", 'model = "a"\nengine = "vlm"', [".engine: not in"]),
        ("policy", 'engine = "vllm"', [".model: required"]),
        ("policy", 'model = "a"\nengine = "vllm"\nschema = 2', [".schema: not 1"]),
        ("policy", 'model = "a"\nengine = "vllm"\nhold.time = 30', [".hold.time: no string"]),
        ("policy", 'model = "a"\nengine = "vllm"\nhold.time = "30"', [".hold.time: pattern"]),
        ("policy", 'model = "a"\nengine = "vllm"\nnodes.maxx = 3', [".nodes.maxx: no such key"]),
        ("policy", 'model = "a"\nengine = "vllm"\nlimit = 4.5', [".limit: none of 2"]),
        ("policy", 'model = "a"\nengine = "vllm"\nslo = 3', [".slo: none of 2"]),
        ("config", "schema = 1", [".cloud: required"]),
    ],
)
def test_an_editor_sees_a_mistake_while_it_is_made(kind: str, text: str, said: list[str]) -> None:
    found = mistakes(kind, text)

    assert [each[: len(text)] for each, text in zip(found, said, strict=True)] == said


def test_every_key_is_described() -> None:
    for kind, schema in SCHEMAS.items():
        for name, table in {"": schema, **schema["$defs"]}.items():
            for key, field in table.get("properties", {}).items():
                is_table = "$ref" in json.dumps(field)
                assert is_table or field.get("description"), f"{kind}: {name}.{key}"


def pattern(kind: str, table: str, key: str) -> str:
    field = SCHEMAS[kind]["$defs"][table]["properties"][key]
    found = field.get("pattern") or next(c["pattern"] for c in field["anyOf"] if "pattern" in c)
    return str(found)


numbers = st.from_regex(r"\d{1,3}(\.\d)?", fullmatch=True)
written = st.lists(st.tuples(numbers, st.sampled_from(UNITS)), min_size=1, max_size=3).map(
    lambda parts: "".join(f"{number}{unit}" for number, unit in parts)
)


@given(text=written)
def test_units_are_read_by_the_schema_as_by_the_program(text: str) -> None:
    for read, found in (
        (parse_duration, pattern("policy", "Hold", "time")),
        (parse_size, pattern("policy", "Hold", "bytes")),
        (parse_money, pattern("config", "LimitSettings", "usd_per_hour")),
    ):
        try:
            read(text)
            right = True
        except ValueError:
            right = False
        assert bool(re.search(found, text, re.ASCII)) == right, read.__name__


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_prints_the_schema(kind: str) -> None:
    shown = CliRunner().invoke(app, ["schema", kind])

    assert shown.exit_code == 0
    assert json.loads(shown.output) == SCHEMAS[kind]
