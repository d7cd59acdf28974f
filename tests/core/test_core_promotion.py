"""Whether a model may rent: its file's word, else a person's, and the later of the two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from autoscaler.policies import PolicyBook, mode_in_force
from autoscaler.policy import Mode
from autoscaler.serve.views import marked
from autoscaler.store.protocol import Promotion
from autoscaler.store.sqlite import SqliteStore
from autoscaler.uptake import PolicyUptake
from tests.core.desk import CHAT, policy
from tests.nodes.life_parts import NOON, open_store

TEXT = f'model = "{CHAT}"\nengine = "vllm"\n'


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = open_store(tmp_path)
    yield made
    await made.close()


def written(directory: Path, mode: str | None, *, emulated: bool = False) -> PolicyBook:
    (directory / "policies").mkdir(exist_ok=True)
    line = "" if mode is None else f'mode = "{mode}"\n'
    (directory / "policies" / "chat.toml").write_text(line + TEXT)
    book = PolicyBook(directory / "policies", emulated=emulated)
    book.load()
    return book


def uptake(book: PolicyBook, store: SqliteStore) -> PolicyUptake:
    """The part that settles promotions; what it does else is not asked for here."""
    unused = dict.fromkeys(
        set(PolicyUptake.__slots__) - {"book", "store", "now", "told"}, cast(Any, None)
    )
    return PolicyUptake(book=book, store=store, now=lambda: NOON, **unused)


async def promote(store: SqliteStore, mode: str = "") -> None:
    event = marked(CHAT, "model_promoted", "anna", NOON)
    await store.set_promotion(CHAT, Promotion("anna", NOON, "spec", mode), event)


async def in_force(book: PolicyBook, store: SqliteStore) -> Mode | None:
    await uptake(book, store).settle_promotions()
    return book.policies[CHAT].mode


@pytest.mark.parametrize(
    ("mode", "emulated", "found"),
    [
        (None, False, Mode.SHADOW),
        (None, True, Mode.ACTIVE),
        ("shadow", False, Mode.SHADOW),
        ("shadow", True, Mode.SHADOW),
        ("active", False, Mode.ACTIVE),
        ("paused", False, Mode.PAUSED),
    ],
)
async def test_without_a_promotion_the_file_says_it_and_a_real_cloud_is_shadow_first(
    tmp_path: Path, store: SqliteStore, mode: str | None, emulated: bool, found: Mode
) -> None:
    assert await in_force(written(tmp_path, mode, emulated=emulated), store) is found


@pytest.mark.parametrize("mode", [None, "shadow"])
async def test_a_promotion_lets_it_rent_and_outlives_the_daemon(
    tmp_path: Path, store: SqliteStore, mode: str | None
) -> None:
    await promote(store, mode or "")

    assert await in_force(written(tmp_path, mode), store) is Mode.ACTIVE
    assert await in_force(written(tmp_path, mode), store) is Mode.ACTIVE


async def test_a_shadow_that_was_written_after_the_promotion_counts(
    tmp_path: Path, store: SqliteStore
) -> None:
    await promote(store, mode="")

    assert await in_force(written(tmp_path, "shadow"), store) is Mode.SHADOW


async def test_a_file_that_says_active_itself_ends_the_promotion_so_that_shadow_is_shadow_again(
    tmp_path: Path, store: SqliteStore
) -> None:
    await promote(store, mode="shadow")

    assert await in_force(written(tmp_path, "active"), store) is Mode.ACTIVE
    assert await store.promotions() == {}
    assert await in_force(written(tmp_path, "shadow"), store) is Mode.SHADOW
    ended = (await store.events(model=CHAT))[-1]
    assert (ended.kind, ended.cause) == (
        "promotion_ended",
        'its policy says mode = "active" itself',
    )


def test_a_cloud_on_loopback_that_is_no_emulator_is_shadow_first_too(tmp_path: Path) -> None:
    book = written(tmp_path, None, emulated=True)
    before = book.policies[CHAT].mode

    book.hold_to_floors()

    assert (before, book.policies[CHAT].mode) == (Mode.ACTIVE, Mode.SHADOW)


def test_a_mode_once_in_force_stays_what_it_is_when_it_is_asked_again() -> None:
    for mode in Mode:
        for promotion in (None, Promotion("anna", NOON)):
            there = policy(mode=mode.value)

            assert mode_in_force(there, promotion, emulated=False) is mode
