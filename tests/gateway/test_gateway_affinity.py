"""A session's requests find the node that has its prompt cached, and no node is given more than its share for it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.gateway.affinity import choose, hash64, key_of
from autoscaler.gateway.endpoint import Endpoint
from autoscaler.gateway.settings import Affinity

MODEL = "org/chat-8b"
KEYS = tuple(hash64(b"session %d" % index) for index in range(2000))
BOUND = 1.25

names = st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=6, unique=True)


def nodes(*names: str, weight: float = 1.0) -> list[Endpoint]:
    return [Endpoint(name, f"http://{name}", weight=weight) for name in names]


def home(key: int, bins: list[Endpoint]) -> str:
    chosen = choose(key, bins, BOUND)
    assert chosen is not None
    return chosen.id


@given(names=names)
@settings(max_examples=8, deadline=None)
def test_a_node_more_and_a_node_less_move_only_the_share_of_that_node(names: list[str]) -> None:
    *few, _ = many = nodes(*names)

    before = [home(key, few) for key in KEYS]
    with_one_more = [home(key, many) for key in KEYS]
    after = [home(key, few) for key in KEYS[:200]]

    moved = sum(a != b for a, b in zip(before, with_one_more, strict=True))
    assert moved / len(KEYS) <= 1 / len(many) + 0.05
    assert {new for old, new in zip(before, with_one_more, strict=True) if old != new} <= {
        names[-1]
    }
    assert after == before[:200]


def test_from_four_to_five_and_back_a_fifth_of_the_keys_moves() -> None:
    four, five = nodes(*"abcd"), nodes(*"abcde")

    to_five = sum(home(key, four) != home(key, five) for key in KEYS) / len(KEYS)
    back = sum(home(key, five) != home(key, nodes(*"abcd")) for key in KEYS) / len(KEYS)

    assert to_five == back <= 1 / 5 + 0.05


@given(
    weights=st.lists(st.integers(1, 256), min_size=1, max_size=8),
    keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=150),
    is_hot=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_no_node_holds_more_than_its_bound_however_hot_a_key_is(
    weights: list[int], keys: list[int], is_hot: bool
) -> None:
    bins = [Endpoint(str(i), "http://a", weight=weight) for i, weight in enumerate(weights)]

    for key in keys:
        chosen = choose(keys[0] if is_hot else key, bins, BOUND)
        assert chosen is not None
        chosen.in_flight += 1

        share = BOUND * sum(one.in_flight for one in bins) * chosen.weight / sum(weights)
        assert chosen.in_flight <= ceil(share)


def test_a_node_of_three_times_the_capacity_is_home_to_three_times_the_keys() -> None:
    bins = [*nodes("small"), *nodes("large", weight=3.0)]

    homes = Counter(home(key, bins) for key in KEYS)

    assert homes["large"] / len(KEYS) == pytest.approx(0.75, abs=0.05)


def test_a_full_home_sends_the_key_to_the_same_next_node_each_time() -> None:
    bins = nodes(*"abcd")
    first = next(one for one in bins if one.id == home(KEYS[0], bins))
    rest = [one for one in bins if one is not first]
    first.in_flight = 10

    assert {home(KEYS[0], bins) for _ in range(3)} == {home(KEYS[0], rest)}


def test_below_a_quarter_of_its_places_a_node_keeps_a_session_together() -> None:
    bins = [Endpoint(name, "http://a", max_inflight=16) for name in "abcd"]

    homes = []
    for _ in range(4):
        chosen = choose(KEYS[0], bins, BOUND)
        assert chosen is not None
        chosen.in_flight += 1
        homes.append(chosen.id)

    assert len(set(homes)) == 1


def body(*messages: tuple[str, Any]) -> bytes:
    told = [{"role": role, "content": content} for role, content in messages]
    return json.dumps({"model": MODEL, "messages": told}).encode()


def test_all_turns_of_a_conversation_have_one_key_and_another_conversation_another() -> None:
    affinity = Affinity()
    opening = (("system", "Be brief."), ("user", "What is a prefix cache?"))

    first = key_of(affinity, {}, body(*opening))
    third = key_of(affinity, {}, body(*opening, ("assistant", "A cache."), ("user", "Of what?")))
    other = key_of(affinity, {}, body(opening[0], ("user", "What is a ring?")))

    assert first == third != other


def test_only_the_head_of_the_prompt_is_the_key() -> None:
    affinity = Affinity(prompt_chars=20)

    keys = {
        key_of(affinity, {}, json.dumps({"prompt": "a shared beginning, " + rest}).encode())
        for rest in ("then this", "then that")
    }

    assert len(keys) == 1


def test_the_header_goes_before_the_prompt() -> None:
    affinity = Affinity(header="x-session")
    one, two = body(("user", "one")), body(("user", "two"))

    assert key_of(affinity, {"x-session": "s"}, one) == key_of(affinity, {"x-session": "s"}, two)
    assert key_of(affinity, {}, one) != key_of(affinity, {}, two)


@pytest.mark.parametrize(
    "fields",
    [
        *({}, {"messages": []}, {"messages": "no list"}, {"messages": [3, None]}, {"prompt": None}),
        *({"prompt": [[1, 2], [3]]}, {"input": {"a": {"b": "c"}}}, [], 7),
        {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
    ],
)
def test_a_body_of_any_form_has_a_key_or_none(fields: Any) -> None:
    key_of(Affinity(), {}, json.dumps(fields).encode())


def test_a_body_that_is_no_json_has_none() -> None:
    assert key_of(Affinity(), {}, b"{") is None


def test_lists_in_lists_without_end_are_no_part_of_the_key() -> None:
    assert key_of(Affinity(), {}, b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}") is None


async def ask(gateway: Any, session: str) -> str:
    """Which node answers a session."""
    headers = {"x-session": session}
    sent = {"model": MODEL, "prompt": "hello"}
    url = f"{gateway.url}/v1/completions"
    async with gateway.client.post(url, json=sent, headers=headers) as response:
        assert response.status == 200
        return str(response.headers["x-autoscaler-endpoint"])


async def test_a_session_stays_on_its_node_until_that_is_full(gateway: Any, engines: Any) -> None:
    await gateway.pool(affinity={"header": "x-session"})
    for name in "abc":
        await gateway.add(name, (await engines()).url, max_inflight=8)

    by_session = {
        session: {await ask(gateway, session) for _ in range(4)} for session in "abcdefgh"
    }

    assert all(len(homes) == 1 for homes in by_session.values())
    assert len(set.union(*by_session.values())) > 1


async def test_through_the_gateway_a_fifth_of_the_sessions_moves_to_a_fifth_node_and_back(
    gateway: Any, engine: Any
) -> None:
    sessions = [f"session-{number}" for number in range(160)]
    await gateway.pool(affinity={"header": "x-session"})
    for name in "abcd":
        await gateway.add(name, engine.url, max_inflight=8)

    four = [await ask(gateway, session) for session in sessions]
    await gateway.add("e", engine.url, max_inflight=8)
    five = [await ask(gateway, session) for session in sessions]
    await gateway.tell("endpoints/drain", model=MODEL, id="e")
    four_again = [await ask(gateway, session) for session in sessions]

    moved = [new for old, new in zip(four, five, strict=True) if old != new]
    assert 0 < len(moved) / len(sessions) <= 1 / 5 + 0.05
    assert set(moved) == {"e"}
    assert four_again == four


async def test_through_the_gateway_one_hot_session_fills_no_node_beyond_its_bound(
    gateway: Any, engine: Any
) -> None:
    await gateway.pool(affinity={"header": "x-session", "bound": BOUND})
    for name in "abcd":
        await gateway.add(name, engine.url, max_inflight=32)
    engine.gate.clear()

    asked = [asyncio.create_task(ask(gateway, "hot")) for _ in range(40)]
    pool = await gateway.until(lambda pool: pool["running"] == 40)
    engine.gate.set()
    await asyncio.gather(*asked)

    loads = [endpoint["in_flight"] for endpoint in pool["endpoints"].values()]
    assert max(loads) == ceil(BOUND * 40 / 4)


async def test_a_request_that_waited_for_a_place_is_served_wherever_one_is_free(
    gateway: Any, engine: Any
) -> None:
    await gateway.pool(affinity={})
    engine.gate.clear()
    await gateway.add("a", engine.url, max_inflight=1)
    asked = [asyncio.create_task(gateway.chat()) for _ in range(3)]
    await gateway.until(lambda pool: pool["waiting"] == 2)

    await gateway.add("b", engine.url, max_inflight=2)
    engine.gate.set()

    assert [status for status, _, _ in await asyncio.gather(*asked)] == [200] * 3
