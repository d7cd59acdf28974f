"""How the answers of `autoscaler cloud …` become tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from autoscaler.cli.connection import Table
from autoscaler.cloud.mkinf.values import Listing, Operation

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
Ids = Annotated[list[str], typer.Argument(help="ids, as the lists show them")]
Id = Annotated[str, typer.Argument(help="id, as the list shows it")]

OPERATION_COLUMNS = ("Id", "Kind", "State", "Of", "Name", "Started", "Why")


def listed(listing: Listing[Any], **columns: str) -> Table:
    """Show attributes as columns. Any: each command knows of what it is a listing."""
    names = tuple(name if name[:1].isupper() or name == "vCPU" else name.capitalize()
                  for name in columns)  # fmt: skip
    rows = [[getattr(item, attribute) for attribute in columns.values()] for item in listing]
    return Table(names, rows, document(listing), notes(listing))


def document(listing: Listing[Any]) -> dict[str, object]:
    return {
        "items": listing.items,
        "complete": listing.complete,
        "problems": listing.problems,
        "doubts": listing.doubts,
    }


def notes(listing: Listing[Any]) -> Sequence[str]:
    return (
        *(f"not complete: {each}" for each in listing.problems),
        *(f"perhaps not complete: {each}" for each in listing.doubts),
    )


def one(value: Any) -> Table:
    """Show one value field by field. Any: any dataclass."""
    rows = [(name, _plain(each)) for name, each in asdict(value).items()]
    return Table(("Field", "Value"), rows, value)


def _plain(value: object) -> object:
    """Flatten what is nested into a line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items() if each)
    if isinstance(value, tuple | list):
        return "; ".join(str(_plain(each)) for each in value)
    return value


def answered(answers: Iterable[tuple[str, Operation | None]]) -> Table:
    """Show what was asked for, and the operation to watch."""
    pairs = list(answers)
    rows = [
        (
            what,
            "accepted",
            each.operation_id if each else None,
            each.state if each else None,
            each.resource_id if each else None,
        )
        for what, each in pairs
    ]
    columns = ("What", "Answer", "Operation", "State", "Id")
    return Table(columns, rows, {"items": [{"what": what, "operation": op} for what, op in pairs]})


async def each_answered(
    ids: Sequence[str], call: Callable[[str], Awaitable[Operation | None]]
) -> Table:
    """Do the same to several things, one after the other."""
    return answered([(each, await call(each)) for each in ids])


def operation_row(each: Operation) -> Sequence[object]:
    result = each.result
    failed = each.state == "FAILED" and result is not None
    why = f"{result.code or ''} {result.message or ''}".strip() if failed and result else None
    return (
        each.operation_id,
        each.kind,
        each.state,
        each.resource_id,
        each.request_name,
        when(each.started_at),
        why,
    )


def when(at: datetime | None) -> str | None:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at is not None else None


def several(ids: Sequence[str], noun: str) -> str:
    return f"{noun} {ids[0]}" if len(ids) == 1 else f"{len(ids)} {noun}s"
