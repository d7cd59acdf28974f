"""What the daemon still remembers, by name, of nodes that ended: each such memory grows for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Set
from functools import partial
from types import FunctionType, MethodType

_FLAT = (list, set, frozenset, deque, tuple)


def kept_in(root: object, names: Set[str]) -> Iterator[tuple[str, int]]:
    """Walk the daemon's own objects; give each container that holds some of these names, and how many."""
    seen: set[int] = set()
    todo: list[tuple[object, str]] = [(root, "daemon")]
    while todo:
        one, path = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict | set | list | deque):
            count = sum(1 for key in one if isinstance(key, str) and key in names)
            if count:
                yield path, count
        todo += [(held, where) for held, where in _parts(one, path) if id(held) not in seen]


def _parts(one: object, path: str) -> Iterator[tuple[object, str]]:
    if isinstance(one, dict):
        yield from ((value, f"{path}[]") for value in one.values())
    elif isinstance(one, _FLAT):
        yield from ((value, f"{path}[]") for value in one)
    elif isinstance(one, partial):
        yield from ((value, path) for value in (one.func, one.args, one.keywords))
    elif isinstance(one, MethodType):
        yield one.__self__, path
    elif isinstance(one, FunctionType):
        cells = one.__closure__ or ()
        yield from ((cell.cell_contents, path) for cell in cells if _is_filled(cell))
    elif type(one).__module__.startswith("autoscaler."):
        yield from _fields(one, path)


def _is_filled(cell: object) -> bool:
    try:
        return getattr(cell, "cell_contents", None) is not None
    except ValueError:
        return False


def _fields(one: object, path: str) -> Iterator[tuple[object, str]]:
    for name, value in getattr(one, "__dict__", {}).items():
        yield value, f"{path}.{name}"
    for kind in type(one).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(one, name):
                yield getattr(one, name), f"{path}.{name}"
