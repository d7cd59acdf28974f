"""Adopting: what is proven and serves gets its row back, all at once; the rest is left alone and says why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autoscaler.balance.protocol import ServerReport, ServerState
from autoscaler.domain.ids import ModelName
from autoscaler.domain.machine import Machine
from autoscaler.domain.money import Money
from autoscaler.domain.node import State
from autoscaler.errors import ConfigError, VerificationFailed
from autoscaler.nodes.host_authority import open_host_authority
from autoscaler.nodes.protocol import Coming, Proven
from autoscaler.nodes.ssh import fingerprint
from autoscaler.nodes.sweep import ORPHANS_MODEL, model_slugs
from tests.nodes.adopt_parts import PUBLIC_LINE, Abandoned, AirHost, abandoned, new_host_key
from tests.nodes.life_parts import MODEL, NOON, TIMINGS, intent_id, life, minutes, node, open_store
from tests.nodes.life_verbs import release

SLUGS = model_slugs((MODEL,))


@pytest.fixture
async def left(tmp_path: Path) -> AsyncIterator[Abandoned]:
    store = open_store(tmp_path)
    made = await life(store)
    assert await made.leases.acquire(ORPHANS_MODEL)
    yield abandoned(made, tmp_path)
    await store.close()


async def adopt(left: Abandoned, vm: str | None = None) -> dict[str, str]:
    """Adopt; why each machine was not, "" for those that were."""
    done = await left.adopter.take(await left.adopter.survey(vm), "anna")
    return {one.machine.name: one.why for one in done}


async def test_a_row_is_written_anew_as_it_was_signed(left: Abandoned) -> None:
    was = node(intent=intent_id(1), price_per_hour=Money.of("9.99"), created_at=NOON - minutes(90))
    machine, host = await left.machine(
        1, price_per_hour=was.price_per_hour, created_at=was.created_at
    )

    assert await adopt(left) == {machine.name: ""}

    (row,) = await left.rows()
    kept = ("name", "model", "intent", "attempt", "offer", "price_per_hour", "spec_hash", "units")
    assert [getattr(row, key) for key in kept] == [getattr(was, key) for key in kept]
    assert (row.machine_id, row.address, row.host_key) == (
        machine.id,
        machine.address,
        host.host_key,
    )
    assert (row.sent_at, row.epoch) == (was.created_at, left.life.leases.current(MODEL).epoch)
    assert PUBLIC_LINE in (host.home / ".ssh/authorized_keys").read_text().splitlines()
    (event,) = await left.life.store.events(node=row.name)
    assert (event.kind, event.actor) == ("node_adopted", "anna")
    assert event.cause == "adopted by anna: our authority signed its host key"
    ready = await left.life.until(row.name, State.READY)
    assert await left.life.store.boots(MODEL) == {}  # no boot was measured
    assert [server.url for server in left.life.balancer.servers.values()] == [
        endpoint.url for endpoint in ready.endpoints
    ]


async def test_all_rows_appear_between_two_sweeps_and_nothing_is_deleted(left: Abandoned) -> None:
    machines = [(await left.machine(number))[0] for number in range(1, 5)]
    _, deaf = await left.machine(5)
    deaf.lets_in = False
    held = await left.sweeper.sweep(SLUGS, None)
    left.life.clock.move(TIMINGS.orphan_grace.total_seconds() + 1)  # while it was held
    await left.life.leases.renew_all()

    done = await adopt(left)
    await left.sweeper.sweep(SLUGS, None)
    after = await left.sweeper.sweep(SLUGS, None)

    assert "5 of our listed machines are unknown" in (held.held or "")
    assert [why for why in done.values() if why] == ["203.0.113.5: does not accept our key (yet)"]
    assert {row.machine_id for row in await left.rows()} == {m.id for m in machines}
    assert after.held is None
    assert len(after.orphans) == 1  # its grace time begins anew
    assert left.life.cloud.sent("delete") == []


@pytest.mark.parametrize("state", ServerState)
async def test_even_one_machine_is_held_while_a_balancer_sends_to_it(
    left: Abandoned, state: ServerState
) -> None:
    machine, _ = await left.machine(1)
    balancer = left.life.balancer
    balancer.servers[machine.name] = ServerReport(machine.name, "http://x", state, 0, 0)

    first = await left.sweeper.sweep(SLUGS, None)
    left.life.clock.move(TIMINGS.orphan_grace.total_seconds() + 1)
    await left.life.leases.renew_all()
    last = await left.sweeper.sweep(SLUGS, None)
    rows = [row.state for row in await left.rows()]

    if state is ServerState.DOWN:  # nobody is served by it
        assert (first.held, last.held, rows) == (None, None, [State.TERMINATING])
    else:
        assert "send to a machine of ours that no row knows" in (first.held or "")
        assert "`autoscaler adopt`" in (last.held or "")
        assert rows == []
        assert await adopt(left) == {machine.name: ""}
        assert (await left.sweeper.sweep(SLUGS, None)).held is None


async def test_a_person_may_give_up_what_a_balancer_sends_to(left: Abandoned) -> None:
    machine, _ = await left.machine(1)
    up = ServerReport(machine.name, "http://x", ServerState.UP, 0, 0)
    left.life.balancer.servers[machine.name] = up
    await left.sweeper.sweep(SLUGS, None)
    left.life.clock.move(TIMINGS.orphan_grace.total_seconds() + 1)
    await left.life.leases.renew_all()

    left.sweeper.confirm()
    await left.sweeper.sweep(SLUGS, None)

    assert [row.state for row in await left.rows()] == [State.TERMINATING]


Break = Callable[[Abandoned, Machine, AirHost], Awaitable[None]]


async def by_another_authority(left: Abandoned, machine: Machine, host: AirHost) -> None:
    other = open_host_authority(left.folder / "other")
    await left.sign(host, node(intent=intent_id(1), machine_id=machine.id), other)


async def with_another_machines_certificate(
    left: Abandoned, machine: Machine, host: AirHost
) -> None:
    _, other = await left.machine(2)
    host.certificate.write_bytes(other.certificate.read_bytes())
    del left.life.cloud.vms[(await left.machine(3))[0].id]


async def as_a_copy_of_another_machines_disk(
    left: Abandoned, machine: Machine, host: AirHost
) -> None:
    _, other = await left.machine(2)
    host.certificate.write_bytes(other.certificate.read_bytes())
    host.host_key = other.host_key


async def with_a_lie_about_its_model(left: Abandoned, machine: Machine, host: AirHost) -> None:
    left.life.policies[ModelName("other")] = left.life.policies[MODEL]
    row = node(intent=intent_id(1), machine_id=machine.id)
    await left.sign(host, replace(row, model=ModelName("other")))


async def with_another_offer(left: Abandoned, machine: Machine, host: AirHost) -> None:
    left.life.cloud.vms[machine.id] = replace(machine, type="a40.1x")


async def without_a_policy(left: Abandoned, machine: Machine, host: AirHost) -> None:
    left.life.policies.clear()


async def without_a_certificate(left: Abandoned, machine: Machine, host: AirHost) -> None:
    host.certificate.unlink()


async def without_an_address(left: Abandoned, machine: Machine, host: AirHost) -> None:
    left.life.cloud.vms[machine.id] = replace(machine, address=None)


async def that_serves_something_else(left: Abandoned, machine: Machine, host: AirHost) -> None:
    left.life.prober.verdict = VerificationFailed("serves gpt2, not llama")


async def that_never_gets_ready(left: Abandoned, machine: Machine, host: AirHost) -> None:
    left.life.prober.verdict = Coming("server: answers 503")


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (by_another_authority, "signed by another authority than ssh.host_authority"),
        (with_another_machines_certificate, "copied from another machine"),
        (as_a_copy_of_another_machines_disk, "not this machine's: machine m-as1-abcdefgh-"),
        (
            with_a_lie_about_its_model,
            "not this machine's: model as1-abcdefgh-aaaaaaaaaaaab-1-other",
        ),
        (with_another_offer, "offer l40s-48gb.1x@us-east1-a there, a40.1x@us-east1-a in the"),
        (without_a_policy, "there is no policy of llama"),
        (without_a_certificate, "it has no certificate of ours"),
        (without_an_address, "the cloud lists no address"),
        (that_serves_something_else, "serves gpt2, not llama"),
        (that_never_gets_ready, "not verified within 4m: server: answers 503"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_machine_is_refused_and_left_as_it_is(
    left: Abandoned, broken: Break, why: str
) -> None:
    machine, host = await left.machine(1)
    await broken(left, machine, host)

    done = await adopt(left)

    assert why in done[machine.name]
    assert machine.id not in {row.machine_id for row in await left.rows()}
    assert left.life.cloud.sent("delete") == []


async def test_one_machine_is_adopted_by_its_name_and_never_twice(left: Abandoned) -> None:
    machine, _ = await left.machine(1)
    other, _ = await left.machine(2)

    assert await adopt(left, machine.name) == {machine.name: ""}

    with pytest.raises(ConfigError, match=r"it is node .* already, verifying"):
        await left.adopter.survey(machine.id)
    with pytest.raises(ConfigError, match="no such machine"):
        await left.adopter.survey("nothing")
    assert await adopt(left) == {other.name: ""}


async def test_what_was_found_twice_gets_one_row(left: Abandoned) -> None:
    machine, _ = await left.machine(1)
    twice = [await left.adopter.survey() for _ in range(2)]

    done = [(await left.adopter.take(found, "anna"))[0] for found in twice]

    assert [one.why for one in done] == ["", f"it is node {machine.name} already"]
    assert len(await left.rows()) == 1


async def test_without_the_models_lease_nothing_is_adopted(left: Abandoned) -> None:
    machine, _ = await left.machine(1)
    left.life.clock.move(60)

    assert await adopt(left) == {machine.name: "llama: its lease was not renewed in time"}


# by hand


async def test_a_rented_vm_joins_by_its_fingerprint_and_is_deleted_by_its_id_alone(
    left: Abandoned,
) -> None:
    machine, host = left.stranger("Anna's box")
    left.stranger("another box", 98)

    met, shown, lets_in = await left.adopter.meet(machine.name, MODEL)
    found = await left.adopter.vouched(met, MODEL, fingerprint(host.host_key))
    (done,) = await left.adopter.take([found], "anna")
    assert done.node is not None
    ready = await left.life.until(done.node.name, State.READY)
    await left.sweeper.sweep(SLUGS, None)
    await release(left.life, ready)
    gone = await left.life.until(ready.name, State.GONE)

    assert (shown, lets_in) == (host.host_key, True)
    assert ready.name.startswith("as1-abcdefgh-")
    assert ready.is_by_hand
    assert set(left.life.cloud.calls) == {("delete", machine.id)}
    assert gone.cost > Money.of("0")


async def test_a_vm_whose_key_is_not_the_one_given_is_not_touched(left: Abandoned) -> None:
    machine, host = left.stranger("box")

    for given in (new_host_key(), fingerprint(new_host_key()), "SHA256:", "nonsense"):
        with pytest.raises(ConfigError, match="which is not the key given: nothing was sent"):
            await left.adopter.vouched(machine, MODEL, given)
    assert (await left.adopter.vouched(machine, MODEL, f"{host.host_key} root@box")).node


async def test_what_is_anothers_unknown_or_without_a_price_is_not_taken_by_hand(
    left: Abandoned,
) -> None:
    left.stranger("as1-otherone-aaaaaaaaaaaab-1-llama")
    cheap, _ = left.stranger("cheap", 97)
    left.life.cloud.vms[cheap.id] = cheap = replace(cheap, type="z9.1x")

    with pytest.raises(ConfigError, match="belongs to deployment as1-otherone, and this is as1-"):
        await left.adopter.meet("as1-otherone-aaaaaaaaaaaab-1-llama", MODEL)
    with pytest.raises(ConfigError, match="there is no policy of gpt"):
        await left.adopter.meet("cheap", ModelName("gpt"))
    with pytest.raises(ConfigError, match=r"z9\.1x@us-east1-a is not offered with a price"):
        await left.adopter.vouched(cheap, MODEL, left.access.hosts["203.0.113.97"].host_key)


async def test_a_machine_of_ours_whose_authority_was_lost_keeps_its_name(left: Abandoned) -> None:
    machine, _ = await left.machine(1, signed=open_host_authority(left.folder / "lost"))

    met, shown, _ = await left.adopter.meet(machine.name, MODEL)
    (done,) = await left.adopter.take([await left.adopter.vouched(met, MODEL, shown)], "anna")

    assert done.node is not None
    assert (done.node.name, done.node.is_by_hand) == (machine.name, False)
    assert done.node.reason == "adopted by anna: a person vouches for its host key"


async def test_a_rented_vm_comes_back_by_its_certificate_when_the_store_is_lost_again(
    left: Abandoned,
) -> None:
    _, host = left.stranger("box")
    met, shown, _ = await left.adopter.meet("box", MODEL)
    found = await left.adopter.vouched(met, MODEL, shown)
    assert found.node is not None
    await left.sign(host, found.node)  # as verification's first look does

    assert await adopt(left) == {}  # it has no mark of ours, so it is nobody's until it is named
    assert await adopt(left, "box") == {"box": ""}

    (row,) = await left.rows()
    assert (row.name, row.is_by_hand) == (found.node.name, True)


async def test_a_node_that_is_almost_there_is_looked_at_again(left: Abandoned) -> None:
    await left.machine(1)
    left.life.prober.verdict = Coming("health")
    found = await left.adopter.survey()

    def gets_ready() -> None:
        left.life.prober.verdict = Proven(90.0, "fine")

    left.waiting.meanwhile.append(gets_ready)

    (done,) = await left.adopter.take(found, "anna")

    assert done.node is not None
    assert done.node.tokens_per_s == 90.0
