"""The ways to a node: which address, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoscaler.domain.machine import Machine
from autoscaler.domain.node import Node, State
from autoscaler.errors import VerificationFailed
from autoscaler.nodes.reach import PlainReach
from tests.nodes import life_parts
from tests.nodes.life_parts import open_store


def listed(private: str | None) -> tuple[Node, Machine]:
    row = replace(life_parts.node(State.BOOTING), replicas=2, concurrency=10)
    return row, replace(life_parts.machine_of(row), private_address=private)


async def test_over_the_clouds_own_network_a_node_is_known_by_its_private_address() -> None:
    row, vm = listed("172.27.16.9")

    found = await PlainReach().endpoints(row, vm, life_parts.policy())

    assert [e.url for e in found] == ["http://172.27.16.9:8000", "http://172.27.16.9:8001"]
    assert [e.id for e in found] == [row.name, f"{row.name}.1"]


@pytest.mark.parametrize("private", [None, "198.51.100.9", "169.254.169.254"])
async def test_a_node_without_a_private_address_is_refused_with_the_choices(
    private: str | None,
) -> None:
    row, vm = listed(private)

    with pytest.raises(VerificationFailed) as refused:
        await PlainReach().endpoints(row, vm, life_parts.policy())

    for word in ("203.0.113.7", '"private"', '"tls"', '"tunnel"', '"public-plain"'):
        assert word in str(refused.value)


async def test_a_node_that_cannot_be_reached_fails_before_anything_is_sent_to_it(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path)
    life = await life_parts.life(store, reach=PlainReach())
    row = await life.add(life_parts.node(State.PLANNED))

    failed = await life.until(row.name, State.FAILED)

    assert failed.endpoints == ()
    assert (failed.failure or "").startswith("reach: ")
    await store.close()


async def test_the_public_address_is_used_where_it_was_named() -> None:
    row, vm = listed("172.27.16.9")

    found = await PlainReach(public=True).endpoints(row, vm, life_parts.policy())

    assert found[0].url == "http://203.0.113.7:8000"
