"""A changed policy that may spend far more than the one before waits until a person confirms it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from autoscaler.domain.money import Money
from autoscaler.errors import ConfigError
from autoscaler.growth import GrowthGuard, dearest_of
from autoscaler.operate import Operations
from autoscaler.policies import PolicyBook
from autoscaler.preview import Word, foresee, lines
from autoscaler.store.sqlite import SqliteStore
from autoscaler.uptake import PolicyUptake
from autoscaler.wakes import Wakes
from tests.core.desk import CHAT, Desk, policy
from tests.nodes.life_parts import NOON, offer, open_store

HEAD = f'model = "{CHAT}"\nengine = "vllm"\nmode = "active"\n'
PRICED = dearest_of((offer(), offer("a40.1x", "a40", "1.10")))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = open_store(tmp_path)
    yield made
    await made.close()


def put(directory: Path, text: str, head: str = HEAD) -> None:
    (directory / "policies").mkdir(exist_ok=True)
    (directory / "policies" / "chat.toml").write_text(head + text)


def read(
    directory: Path, text: str = "", *, emulated: bool = False, factor: float | None = None
) -> PolicyBook:
    put(directory, text)
    book = PolicyBook(directory / "policies", emulated=emulated, guard=GrowthGuard(PRICED, factor))
    book.load()
    return book


def uptake(book: PolicyBook, store: SqliteStore) -> PolicyUptake:
    unused = dict.fromkeys(
        set(PolicyUptake.__slots__) - {"book", "store", "now", "told"}, cast(Any, None)
    )
    return PolicyUptake(book=book, store=store, now=lambda: NOON, **unused)


def test_a_typo_in_the_most_nodes_is_held_with_its_price_and_the_rest_of_the_policy_too(
    tmp_path: Path,
) -> None:
    book = read(tmp_path, "[nodes]\nmax = 4\n")
    put(tmp_path, "[nodes]\nmax = 500\nmin = 1\n")

    change = book.reload()

    (growth,) = change.held
    assert (change.changed, change.error) == ((), None)
    assert (book.policies[CHAT].nodes.max, book.policies[CHAT].nodes.min) == (4, 0)
    assert growth.words == "nodes.max 4 -> 500: it may spend $625.00/h at most, $5.00/h before"
    assert f"`autoscaler confirm {CHAT}`" in growth.held


@pytest.mark.parametrize(
    ("before", "after", "held"),
    [
        ("[nodes]\nmax = 4", "[nodes]\nmax = 8", False),  # twice is as usual
        ("[nodes]\nmax = 4", "[nodes]\nmax = 9", True),
        ("limit = 4\n[nodes]\nmax = 6", "limit = 4\n[nodes]\nmax = 500", False),  # the limit holds
        ("limit = 4\n[nodes]\nmax = 6", "limit = 8\n[nodes]\nmax = 6", False),
        ("limit = 2\n[nodes]\nmax = 6", "[nodes]\nmax = 6", True),  # a limit that vanished
        ("[limits]\nusd_per_day = 24", "[limits]\nusd_per_day = 240", True),
        ("[limits]\nusd_per_month = 720", "[limits]\nusd_per_month = 700", False),
        ("[nodes]\nmax = 0", "[nodes]\nmax = 1", True),
    ],
)
def test_what_is_held_goes_by_what_may_be_spent(
    tmp_path: Path, before: str, after: str, held: bool
) -> None:
    book = read(tmp_path, before)
    put(tmp_path, after)

    assert bool(book.reload().held) is held


def test_an_emulator_and_a_factor_of_ones_own(tmp_path: Path) -> None:
    for emulated, factor, held in ((True, None, False), (True, 3, True), (False, 200, False)):
        book = read(tmp_path, "[nodes]\nmax = 4", emulated=emulated, factor=factor)
        put(tmp_path, "[nodes]\nmax = 500")

        assert bool(book.reload().held) is held


def test_a_model_in_shadow_spends_nothing_and_its_policy_is_taken_up(tmp_path: Path) -> None:
    book = read(tmp_path, "[nodes]\nmax = 4")
    shadow = HEAD.replace("active", "shadow")
    put(tmp_path, "[nodes]\nmax = 4", shadow)
    book.reload()
    put(tmp_path, "[nodes]\nmax = 500", shadow)

    assert book.reload().held == ()
    assert book.policies[CHAT].nodes.max == 500


def test_mending_the_file_ends_it(tmp_path: Path) -> None:
    book = read(tmp_path, "[nodes]\nmax = 4")
    put(tmp_path, "[nodes]\nmax = 500")
    book.reload()
    put(tmp_path, "[nodes]\nmax = 5")

    assert book.reload().held == ()
    assert (book.policies[CHAT].nodes.max, book.held) == (5, {})


def test_a_held_policy_keeps_its_names_from_others(tmp_path: Path) -> None:
    book = read(tmp_path, 'aliases = ["small"]\n[nodes]\nmax = 4')
    put(tmp_path, "[nodes]\nmax = 500")
    other = 'model = "m"\naliases = ["small"]\nengine = "vllm"\n'
    (tmp_path / "policies" / "other.toml").write_text(other)

    change = book.reload()

    assert "keeps its names while its new policy waits" in (change.error or "")
    assert set(book.policies) == {CHAT}


async def test_a_restart_is_no_way_around_it_and_each_is_told_once(
    tmp_path: Path, store: SqliteStore
) -> None:
    await uptake(read(tmp_path, "[nodes]\nmax = 4"), store).take_up()
    book = read(tmp_path, "[nodes]\nmax = 500")
    part = uptake(book, store)

    await part.take_up()
    await part._tell((), book.reload().held)

    assert book.policies[CHAT].nodes.max == 4
    told = [(e.kind, e.cause) for e in await store.events(model=CHAT)]
    assert told == [("policy_held", book.held[CHAT].words)]


async def test_a_reload_that_is_taken_up_says_what_may_be_spent_now(
    tmp_path: Path, store: SqliteStore
) -> None:
    book = read(tmp_path, "[nodes]\nmax = 4")
    put(tmp_path, "[nodes]\nmax = 6")
    change = book.reload()

    await uptake(book, store)._tell(change.grown, change.held)

    (told,) = await store.events(model=CHAT)
    assert (told.kind, told.cause) == (
        "policy_spend_changed",
        "nodes.max 4 -> 6: it may spend $7.50/h at most, $5.00/h before",
    )


async def test_what_was_shown_is_confirmed_and_nothing_else(tmp_path: Path, desk: Desk) -> None:
    book = read(tmp_path, "[nodes]\nmax = 4")
    put(tmp_path, "[nodes]\nmax = 50")
    book.reload()
    word = operations(desk, book)
    shown = book.held[CHAT].spec
    put(tmp_path, "[nodes]\nmax = 500")
    book.reload()

    with pytest.raises(ConfigError, match="not the one that was shown"):
        await word.confirm(CHAT, shown, "anna")
    await word.confirm(CHAT, book.held[CHAT].spec, "anna")
    put(tmp_path, "[nodes]\nmax = 5000")
    assert book.reload().held
    put(tmp_path, "[nodes]\nmax = 500")
    assert not book.reload().held

    assert book.policies[CHAT].nodes.max == 500
    (told,) = await desk.store.events(model=CHAT)
    assert (told.kind, told.actor) == ("policy_confirmed", "anna")
    with pytest.raises(ConfigError, match="no policy of it waits"):
        await word.confirm(CHAT, shown, "anna")


async def test_what_a_confirmed_policy_would_do_first_is_foreseen(
    tmp_path: Path, desk: Desk
) -> None:
    desk.policy, desk.feed.arrivals = policy(nodes={"max": 1}), 500.0
    book = read(tmp_path, "[nodes]\nmax = 1")
    put(tmp_path, "[nodes]\nmax = 3")
    book.reload()
    inputs = await desk.reconciler.observe(
        desk.policy, await desk.store.record(CHAT), desk.clock.now()
    )

    found = foresee(
        inputs, Word("confirm", "anna", policy=book.waiting(CHAT)), desk.reconciler.consider
    )

    assert found.nodes_after == 2  # as fast as it may grow; before, 1 was the most
    assert found.usd_per_hour_after > Money.of(2)
    assert lines(found, 0)[0].startswith(f"{CHAT}: 0 nodes $0.00/h -> 2 nodes $2.")


def operations(desk: Desk, book: PolicyBook) -> Operations:
    unused = cast(Any, None)
    return Operations(
        desk.config,
        book,
        desk.store,
        desk.leases,
        unused,
        desk.reconciler,
        desk.market,
        unused,
        Wakes(),
        desk.clock,
    )
