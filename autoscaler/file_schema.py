"""JSON Schemas of config.toml and of policy files, for editors: as people write them, not as pydantic keeps them.

Types, bounds and floors are those of the classes that validate the files; descriptions come from the references in
docs/. What ships is the finished text, in `autoscaler/data/schema/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib import resources
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from autoscaler.domain.money import Money
from autoscaler.quantity import parse_duration, parse_money, parse_size, show_duration

KINDS = ("config", "policy")
DIALECT = "http://json-schema.org/draft-07/schema#"  # what editors of TOML read

_DURATION = r"^(\s*\d+(\.\d+)?\s*(ms|s|min|m|h|d|w))+\s*$"
_SIZE = r"^\s*\d+(\.\d+)?\s*([KkMGT]?i?B)\s*$"
_MONEY = r"^\s*\$?\s*\d+(\.\d+)?\s*(/\s*(h|hour|d|day|month))?\s*$"

_ALSO_TEXT = frozenset(
    {"_slo_as_text", "_addresses"}
)  # validators that read text instead of a table or a list


def shipped(kind: str) -> str:
    """The schema of `config` or `policy` as text."""
    return (resources.files("autoscaler.data") / "schema" / f"{kind}.json").read_text("utf-8")


def schema_of(
    values: type[BaseModel], title: str, about: Mapping[tuple[str, str], str]
) -> dict[str, Any]:  # Any: JSON
    """The schema of one kind of file.

    Args:
        about: what to say of a key, by the dotted name of its table ("" at the top) and its own name.
    """
    schema = values.model_json_schema(schema_generator=_AsWritten, ref_template="#/$defs/{model}")
    _without_null(schema)  # TOML has none: such a key is left out
    for table, place in _tables(schema, schema, ""):
        place.pop("title", None)
        place.pop("description", None)  # a class's docstring is for who reads the code
        for key, field in place.get("properties", {}).items():
            field.pop("title", None)
            said = about.get((table, key))
            if said:
                field["description"] = _plain(said) + _least(field)
            field.pop("floor_s", None)
            field.pop("format", None)
            for choice in field.get("anyOf", ()):
                choice.pop("format", None)
            if isinstance(field.get("default"), dict):
                del field["default"]  # the table's own keys say theirs
            if "$ref" in field:
                field["allOf"] = [
                    {"$ref": field.pop("$ref")}
                ]  # what stands beside a $ref is not read
    return {"$schema": DIALECT, "title": title, **schema}


def _tables(
    schema: dict[str, Any], place: dict[str, Any], name: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table of a schema with its dotted name."""
    yield name, place
    for key, field in place.get("properties", {}).items():
        for reference in _references(field):
            inner = schema["$defs"][reference.rpartition("/")[2]]
            yield from _tables(schema, inner, f"{name}.{key}".lstrip("."))


def _without_null(place: Any) -> None:
    if isinstance(place, list):
        for inner in place:
            _without_null(inner)
    if not isinstance(place, dict):
        return
    if place.get("default", 0) is None:
        del place["default"]
    if isinstance(choices := place.get("anyOf"), list):
        choices[:] = [choice for choice in choices if choice != {"type": "null"}]
        if len(choices) == 1:
            del place["anyOf"]
            place |= choices[0]
    for inner in place.values():
        _without_null(inner)


def _references(field: Any) -> Iterator[str]:
    if isinstance(field, dict):
        if "$ref" in field:
            yield field["$ref"]
        for inner in field.values():
            yield from _references(inner)
    elif isinstance(field, list):
        for inner in field:
            yield from _references(inner)


def _least(field: Mapping[str, Any]) -> str:
    least = field.get("floor_s")
    if not isinstance(least, int | float):
        return ""
    return f" (On a real cloud at least {show_duration(timedelta(seconds=least))}.)"


def _plain(text: str) -> str:
    """Markdown of one table cell as an editor shows it."""
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).replace("\\|", "|")


class _AsWritten(GenerateJsonSchema):
    """Durations, sizes and money are text with a unit; the goal is text or a table, addresses one or several."""

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        read = schema["function"]["function"]
        if read is parse_duration:
            return {"type": "string", "pattern": _DURATION}
        if read is parse_size:
            return {
                "anyOf": [{"type": "string", "pattern": _SIZE}, {"type": "integer", "minimum": 0}]
            }
        if read is parse_money:
            return {
                "anyOf": [{"type": "string", "pattern": _MONEY}, {"type": "integer", "minimum": 0}]
            }
        inner = super().function_before_schema(schema)
        if getattr(read, "__name__", "") in _ALSO_TEXT:
            return {"anyOf": [{"type": "string"}, inner]}
        return inner

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return show_duration(dft)
        if isinstance(dft, Money):
            return str(dft.usd)
        return super().encode_default(dft)
