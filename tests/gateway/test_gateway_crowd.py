"""Who is let in, and who makes room, when connections are at their bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from autoscaler.gateway.crowd import Crowd, network_of


@dataclass(eq=False)
class Guest:
    network: str | None
    silent_since: float | None = 0.0
    has_asked: bool = False
    is_gone: bool = False

    def make_room(self) -> None:
        self.is_gone = True


@dataclass
class House:
    """A crowd on a clock of its own."""

    most: int
    now: float = 100.0
    crowd: Crowd = field(init=False)

    def __post_init__(self) -> None:
        self.crowd = Crowd(self.most, lambda: self.now)

    def fill(self, count: int, network: str | None, since: float | None = 0.0) -> list[Guest]:
        guests = [Guest(network, since) for _ in range(count)]
        for guest in guests:
            assert self.crowd.enter(guest)
        return guests


def test_one_address_takes_half_and_no_more_however_it_keeps_busy() -> None:
    house = House(100)
    house.fill(51, "a", since=None)

    assert not house.crowd.enter(Guest("a"))
    house.fill(25, "b", since=None)
    assert not house.crowd.enter(Guest("b"))
    house.fill(1, "c", since=None)
    assert house.crowd.refused_total == 2


def test_the_silent_of_the_most_crowded_address_make_room_first() -> None:
    house = House(10)
    few = house.fill(2, "few", since=0.0)
    many = house.fill(4, "many", since=50.0)
    house.fill(2, "busy", since=None)
    house.fill(2, None, since=None)

    assert house.crowd.enter(Guest("new", silent_since=None))

    assert sum(guest.is_gone for guest in many) == 1
    assert not any(guest.is_gone for guest in few)
    assert len(house.crowd.guests) == 10


def test_who_never_asked_makes_room_before_who_did_and_the_longest_silent_first() -> None:
    house = House(3)
    kept, older, newer = (Guest(None, 1.0, has_asked=True), Guest(None, 2.0), Guest(None, 3.0))
    for guest in (newer, kept, older):
        assert house.crowd.enter(guest)

    gone = []
    for _ in range(3):
        assert house.crowd.enter(Guest(None, silent_since=None))
        gone.append([guest.is_gone for guest in (older, newer, kept)])

    assert gone == [[True, False, False], [True, True, False], [True, True, True]]


def test_who_was_silent_for_less_than_a_second_or_is_served_by_now_is_left_alone() -> None:
    house = House(2)
    just, turned = house.fill(1, None, since=99.5)[0], house.fill(1, None, since=0.0)[0]
    turned.silent_since = None

    assert not house.crowd.enter(Guest(None))

    house.now = 101.0
    assert house.crowd.enter(Guest(None))
    assert just.is_gone
    assert not turned.is_gone


def test_a_crowded_address_makes_room_for_its_own_and_for_nobody_less_crowded_than_it() -> None:
    house = House(10)
    others = house.fill(2, "b")
    own = house.fill(4, "a")
    house.fill(4, None, since=None)

    assert house.crowd.enter(Guest("a"))
    assert sum(guest.is_gone for guest in own) == 1
    for guest in own:
        guest.silent_since = None

    assert not house.crowd.enter(Guest("a"))
    assert not any(guest.is_gone for guest in others)


def test_what_left_twice_is_counted_once() -> None:
    house = House(4)
    first, _ = house.fill(2, "a", since=None)
    house.crowd.leave(first)
    house.crowd.leave(first)

    house.fill(1, "a", since=None)

    assert len(house.crowd.guests) == 2


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3::4", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (("127.0.0.1", 1), None),
        (("::1", 1, 0, 0), None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_says_whose_a_connection_is_unless_it_is_of_this_host(
    peer: object, network: str | None
) -> None:
    assert network_of(peer) == network
