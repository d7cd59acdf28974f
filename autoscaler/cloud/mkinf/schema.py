"""From the API's JSON to the values of `values.py`, leniently in reading, strictly in concluding.

An ill-typed field that can be done without is dropped and named in `problems`; one that cannot
makes the answer, or the item of a list, unusable. One bad item hides no other, and the listing
that had it is not complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Generic, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from autoscaler.cloud.mkinf.endpoints import Endpoint
from autoscaler.cloud.mkinf.failures import clean
from autoscaler.cloud.mkinf.values import Listing
from autoscaler.errors import SchemaError

T = TypeVar("T")

_MOST_REPAIRS: Final = 40
_MOST_PAGES: Final = 200
_MOST_ITEMS: Final = 100_000
_NEXT_TOKEN: Final = "next_page_token"
_PAGING_KEYS: Final = {"items", _NEXT_TOKEN, "prev_page_token"}
_COUNT_KEYS: Final = {"count", "total", "total_count", "total_items"}
_ROUND_COUNTS: Final = {10, 20, 25, 30, 50, 100, 200, 250, 500, 1000}


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `next_token` is empty on the last."""

    items: tuple[T, ...]
    next_token: str
    problems: tuple[str, ...]
    doubts: tuple[str, ...]


def decode(endpoint: Endpoint, body: bytes) -> object:
    """Read JSON.

    Raises:
        SchemaError: it is none. The body is not shown: it may be half a token.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        form = "HTML" if body.lstrip()[:1] == b"<" else f"{len(body)} bytes"
        raise SchemaError(
            f"{endpoint.label}: the answer is not JSON but {form} ({clean(exc.msg)})"
        ) from None


def parse(endpoint: Endpoint, kind: type[T], document: object) -> tuple[T, tuple[str, ...]]:
    """Read one value; the second is what had to be dropped, field by field.

    Raises:
        SchemaError: a field it cannot do without is missing or ill-typed.
    """
    problems: list[str] = []
    adapter: TypeAdapter[T] = _adapter(cast(Any, kind))
    for _ in range(_MOST_REPAIRS):
        try:
            return adapter.validate_python(document), tuple(problems)
        except ValidationError as exc:
            error = exc.errors(include_input=False, include_url=False, include_context=False)[-1]
        path = error["loc"]
        problems.append(f"{endpoint.label}: field {_dotted(path)}: {clean(error['msg'])}")
        # A missing field spoils what it is missing from; an ill-typed one only itself.
        spoiled = path[:-1] if error["type"] == "missing" else path
        if not spoiled or not _drop(document, spoiled):
            break
    raise SchemaError(problems[0] if problems else f"{endpoint.label}: not understood")


def read_page(endpoint: Endpoint, kind: type[T], document: object) -> Page[T]:
    """Read one page of `{"items": […]}`, or a bare array.

    Raises:
        SchemaError: it is neither.
    """
    problems: list[str] = []
    doubts: tuple[str, ...] = ()
    if isinstance(document, list):
        raw, token = document, ""
    elif isinstance(document, dict) and isinstance(document.get("items"), list):
        raw, token = document["items"], _next_token(endpoint, document)
        doubts = tuple(_doubts(document, token))
        problems += _short_counts(endpoint, document, len(raw), token)
    elif isinstance(document, dict) and document.get("items", 0) is None:
        raw, token = [], _next_token(endpoint, document)
    else:
        raise SchemaError(f"{endpoint.label}: field items: expected a list")
    items: list[T] = []
    for index, each in enumerate(raw):
        try:
            value, _ = parse(endpoint, kind, each)
        except SchemaError as exc:
            problems.append(f"item {index}: {exc}")
        else:
            items.append(value)
    return Page(tuple(items), token, tuple(problems), doubts)


def _next_token(endpoint: Endpoint, document: dict[str, object]) -> str:
    token = document.get(_NEXT_TOKEN)
    if token is None or isinstance(token, str):
        return token or ""
    raise SchemaError(f"{endpoint.label}: field {_NEXT_TOKEN}: expected a text")


def _doubts(document: dict[str, object], token: str) -> Iterable[str]:
    """Find hints that a list without a next token is not the whole."""
    if token:
        return
    for key in document.keys() - _PAGING_KEYS - _COUNT_KEYS:
        if document[key] not in (None, "", [], {}, False):
            yield f"an unknown field {clean(key)[:40]!r} stands beside the items"


def _short_counts(
    endpoint: Endpoint, document: dict[str, object], found: int, token: str
) -> Iterable[str]:
    for key in _COUNT_KEYS & document.keys():
        count = document[key]
        if isinstance(count, int) and count > found and not token:
            yield f"{endpoint.label}: says {key} {count} and lists {found}"


class Gathered(Generic[T]):
    """The pages of one list, gathered into a `Listing` that says whether it is all.

    A token or an id that repeats, a page that is no list, and too many pages make it incomplete.
    """

    def __init__(self, endpoint: Endpoint, key: Callable[[T], str] | None) -> None:
        self.problems: list[str] = []
        self._endpoint = endpoint
        self._key = key
        self._items: list[T] = []
        self._doubts: list[str] = []
        self._ids: set[str] = set()
        self._tokens: set[str] = set()

    def add(self, kind: type[T], document: object) -> str:
        """Take one page; give the token of the next, empty when there is none to ask for.

        Raises:
            SchemaError: the very first page is no list.
        """
        try:
            page = read_page(self._endpoint, kind, document)
        except SchemaError as exc:
            if not self._tokens:
                raise
            self.problems.append(str(exc))
            return ""
        self.problems += page.problems
        self._doubts += page.doubts
        for item in page.items:
            self._take(item)
        token = page.next_token
        if token in self._tokens:
            self._stop("a page token came twice")
            return ""
        if token and (len(self._tokens) >= _MOST_PAGES or len(self._items) > _MOST_ITEMS):
            self._stop(f"more than {_MOST_PAGES} pages or {_MOST_ITEMS} items")
            return ""
        if token:
            self._tokens.add(token)
        elif not self._tokens and len(self._items) in _ROUND_COUNTS:
            self._doubts.append(f"{len(self._items)} items: a count as round as a page's")
        return token

    def listing(self) -> Listing[T]:
        return Listing(
            items=tuple(self._items),
            complete=not self.problems,
            problems=tuple(self.problems),
            doubts=tuple(self._doubts),
        )

    def _take(self, item: T) -> None:
        if self._key is not None:
            item_id = self._key(item)
            if item_id in self._ids:
                self._stop(f"{clean(item_id)[:60]} is listed twice")
                return
            self._ids.add(item_id)
        self._items.append(item)

    def _stop(self, why: str) -> None:
        self.problems.append(f"{self._endpoint.label}: {why}")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Make the reader of a type, once. Any: what comes out is of the type that went in."""
    return TypeAdapter(kind)


def _drop(document: Any, path: tuple[int | str, ...]) -> bool:
    """Remove what stands at `path`. Any: JSON of unknown shape is walked."""
    try:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]
    except (LookupError, TypeError):
        return False
    return True


def _dotted(path: tuple[int | str, ...]) -> str:
    joined = ".".join(str(step) for step in path)
    return clean(re.sub(r"\.(\d+)", r"[\1]", joined)) or "(whole)"
