"""The form that config.toml and policy files share: frozen tables, durations with a floor, the number of the schema."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Values(BaseModel):
    """A frozen table of a config or policy file; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def floor(seconds: float) -> object:
    """Mark a duration with the least value that a real cloud allows; only an emulator may go lower."""
    return Field(json_schema_extra={"floor_s": seconds})


def below_floor(values: BaseModel, path: str = "") -> list[tuple[str, timedelta, timedelta]]:
    """Key, value and floor of each duration, in all tables below, that a real cloud would refuse."""
    low = []
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            low += below_floor(value, f"{path}{name}.")
        extra = field.json_schema_extra
        if isinstance(extra, dict) and isinstance(value, timedelta):
            least = extra.get("floor_s")
            if isinstance(least, int | float) and value.total_seconds() < least:
                low.append((f"{path}{name}", value, timedelta(seconds=least)))
    return low


def _this_form(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value != 1:
        raise ValueError(
            "this version of autoscaler reads schema = 1: a file of a newer form needs a newer autoscaler"
        )
    return value


SchemaNumber = Annotated[Literal[1], BeforeValidator(_this_form), Field(alias="schema")]
