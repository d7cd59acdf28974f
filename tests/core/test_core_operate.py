"""What a person says to a running daemon: each word is an event with its actor, and a wrong one changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from autoscaler.domain.node import State
from autoscaler.domain.override import Override
from autoscaler.errors import ConfigError
from autoscaler.operate import Operations
from autoscaler.policies import PolicyBook
from autoscaler.wakes import Wakes
from tests.core.desk import CHAT, Desk, open_desk, policy
from tests.nodes.life_parts import NOON, minutes

SHADOW = f'model = "{CHAT}"\nengine = "vllm"\nmode = "shadow"\n[nodes]\nmax = 2\n'


@pytest.fixture
async def said(tmp_path: Path) -> AsyncIterator[tuple[Operations, Desk, Path]]:
    """One model in shadow, and what may be said of it."""
    desk = await open_desk(tmp_path)
    path = tmp_path / "policies" / "chat.toml"
    path.parent.mkdir()
    path.write_text(SHADOW)
    book = PolicyBook(path.parent, emulated=True)
    book.load()
    runner = cast(Any, SimpleNamespace(wake=lambda name: None))
    unused = cast(Any, None)
    word = Operations(
        desk.config,
        book,
        desk.store,
        desk.leases,
        runner,
        desk.reconciler,
        desk.market,
        unused,
        Wakes(),
        desk.clock,
    )
    yield word, desk, path
    await desk.store.close()


async def test_every_word_is_an_event_with_its_actor(
    said: tuple[Operations, Desk, Path],
) -> None:
    word, desk, _ = said
    desk.policy = policy(nodes={"min": 1, "max": 1})
    await desk.once()
    await desk.be(State.READY)
    (row,) = await desk.fleet()

    await word.pause(CHAT, "anna")
    assert (await desk.store.record(CHAT)).paused_by == "anna"
    await word.retire(CHAT, "ben")
    assert (await desk.store.record(CHAT)).retired_by == "ben"
    await word.resume(CHAT, "cleo")
    record = await desk.store.record(CHAT)
    assert (record.paused_by, record.retired_by) == (None, None)
    await word.promote(CHAT, "dora")
    await word.demote(CHAT, "emil")
    await word.scale(CHAT, Override(2, NOON + minutes(60), "finn", NOON, False), "finn")
    await word.scale(CHAT, None, "gina")
    await word.drain(row.name, "hugo")

    told = {e.kind: e.actor for e in await desk.store.events() if e.actor not in ("daemon", "test")}
    assert told == {
        "model_paused": "anna",
        "model_retired": "ben",
        "model_resumed": "cleo",
        "model_promoted": "dora",
        "model_demoted": "emil",
        "model_scaled": "finn",
        "override_cleared": "gina",
        "node_draining": "hugo",
    }


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("half writ", "the policy files have mistakes"),
        (SHADOW + "[limits]\nusd_per_hour = 1.2\n", "write an amount in USD as text"),
        (None, "its policy file is gone"),
        (SHADOW.replace('"shadow"', '"paused"'), 'its policy says mode = "paused"'),
        (SHADOW.replace('"shadow"', '"active"'), "is not in shadow"),
        ('limit = "$0.50/h"\n' + SHADOW, "raise it to at least $1.10/h"),
        (SHADOW + '[hardware]\ntypes = ["h100*"]\n', "no offer can serve it"),
    ],
)
async def test_a_model_that_could_not_rent_is_not_promoted(
    said: tuple[Operations, Desk, Path], file: str | None, why: str
) -> None:
    word, desk, path = said
    if file is None:
        path.rename(path.with_suffix(".away"))
    else:
        path.write_text(file)
    word._book.reload()

    with pytest.raises(ConfigError) as refused:
        await word.promote(CHAT, "anna")

    assert why in str(refused.value)
    assert await desk.store.promotions() == {}


async def test_a_real_cloud_without_limits_promotes_nobody(
    said: tuple[Operations, Desk, Path],
) -> None:
    word, desk, _ = said
    word._book.hold_to_floors()

    with pytest.raises(ConfigError, match=r"limits.usd_per_month is missing"):
        await word.promote(CHAT, "anna")

    assert await desk.store.promotions() == {}


@pytest.mark.parametrize(
    ("nodes", "beyond", "length", "why"),
    [
        (3, False, 60, "nodes.max of .* is 2: say --beyond-max"),
        (-1, False, 60, "allowed: 0 to 1000"),
        (1, False, 0, "allowed: more than 0, up to 30d"),
        (1, False, 60 * 24 * 31, "allowed: more than 0, up to 30d"),
    ],
)
async def test_an_override_that_is_not_allowed_changes_nothing(
    said: tuple[Operations, Desk, Path], nodes: int, beyond: bool, length: float, why: str
) -> None:
    word, desk, _ = said

    with pytest.raises(ConfigError, match=why):
        await word.scale(CHAT, Override(nodes, NOON + minutes(length), "a", NOON, beyond), "a")

    assert (await desk.store.record(CHAT)).override is None
