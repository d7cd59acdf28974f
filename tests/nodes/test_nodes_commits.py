"""A commit whose answer is lost: the row is read again, and only then does anything follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from autoscaler.domain.node import CLOSED, State
from autoscaler.errors import StoreUnavailable
from autoscaler.store.sqlite import SqliteStore
from tests.nodes.life_parts import life, node, open_store


class Forgetful:
    """A real store of which one commit's answer is lost: it is on the disk, and the caller hears of a failure."""

    def __init__(self, store: SqliteStore, lost: int) -> None:
        self._store = store
        self._left = lost

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", getattr(self._store, name))

    async def advance(self, *args: Any) -> None:
        await self._store.advance(*args)
        self._left -= 1
        if self._left == 0:
            raise StoreUnavailable("the store could not commit: disk I/O error")


@pytest.mark.parametrize("lost", range(1, 5))
async def test_a_commit_whose_answer_is_lost_is_looked_up_before_anything_follows(
    tmp_path: Path, lost: int
) -> None:
    store = open_store(tmp_path)
    alive = await life(cast(SqliteStore, Forgetful(store, lost)))
    row = await alive.add(node())
    for _ in range(400):
        row = await alive.step(row.name)
        if row.state is State.READY or row.state in CLOSED:
            break
    await store.close()

    assert any(isinstance(failure, StoreUnavailable) for failure in alive.failures)
    # What says "the call may have been made" was answered by nobody, so no call was made, and none is made later.
    is_lost = lost == 1
    assert row.state is (State.LOST if is_lost else State.READY)
    assert alive.cloud.sent("create") == ([] if is_lost else [row.name])
