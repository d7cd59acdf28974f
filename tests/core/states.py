"""Random states of the world, each put into a real store: what `autoscaler plan` shows of one, and what a pass does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from autoscaler.act import Unbooked
from autoscaler.config import Config
from autoscaler.decide.memory import LawMemory
from autoscaler.decide.release import SCALE_IN
from autoscaler.domain.ids import ModelName, OperationId
from autoscaler.domain.money import Money
from autoscaler.domain.node import Endpoint, Node, NodeEvent, State
from autoscaler.domain.offer import BackOff, Offer, OfferKey
from autoscaler.domain.override import Override
from autoscaler.domain.signals import Figure, FigureName, Gap, Signals
from autoscaler.market import MarketFeed
from autoscaler.nodes.leases import Leases
from autoscaler.policy import Policy
from autoscaler.reconcile import Reconciler
from autoscaler.serve.views import marked
from autoscaler.shadow import Shadow
from autoscaler.store.sqlite import SqliteStore
from autoscaler.store.sqlite_file import FileLock, open_database
from tests.core.desk import CHAT, policy
from tests.nodes.life_parts import NOON, OWNER, AirCloud, HandClock, intent_id, node, offer

_OTHER = ModelName("mistral")
_TABLES = (
    "nodes",
    "intents",
    "decisions",
    "launches",
    "money",
    "models",
    "events",
    "backoffs",
    "boots",
)
_FIGURES = (FigureName.ARRIVALS, FigureName.RUNNING, FigureName.WAITING)


@dataclass(frozen=True, slots=True)
class Effects:
    """What is, or would be, rented, given back, taken back and refused, in its order."""

    rented: tuple[tuple[str, str], ...]
    given_back: frozenset[str]
    taken_back: frozenset[str]
    refused: tuple[tuple[str, str], ...]

    @property
    def is_nothing(self) -> bool:
        return not (self.rented or self.given_back or self.taken_back or self.refused)


@dataclass
class _Feed:
    """The same signals however often they are read."""

    history: tuple[Signals, ...]

    async def read(
        self, endpoints: Sequence[Endpoint], starting: Sequence[str], now: datetime
    ) -> Sequence[Signals]:
        return self.history


@dataclass
class States:
    """Makes states in one store, one after the other."""

    store: SqliteStore
    clock: HandClock = field(default_factory=HandClock)

    @classmethod
    def open(cls, directory: Path) -> States:
        """A store whose commits do not wait for the disk: nothing here outlives the process."""
        lock = FileLock(directory / "states.lock")
        lock.acquire()
        db = open_database(directory / "states.db")
        with closing(db.execute("PRAGMA synchronous=OFF")):
            return cls(SqliteStore(db, lock, timedelta(hours=1)))

    async def compare(self, seed: int) -> tuple[Effects, Effects]:
        """What the plan says of a state, and what a pass then does in it."""
        draw = Random(seed)
        await self._wipe()
        now, wanted = self.clock.now(), _policy(draw)
        leases = Leases(self.store, "states", self.clock)
        for model in (CHAT, _OTHER):
            assert await leases.acquire(model)
        cloud = AirCloud(self.clock, rentable=_offers(draw))
        market = MarketFeed(cloud, self.store, self.clock)
        await market.refresh()
        await self._fill(draw, leases, wanted, now)
        feed = _Feed(_history(draw, now))
        machines = tuple(Money.of("2") for _ in range(draw.choice((0, 0, 0, 1, 2))))
        stray = Unbooked(machines, len(machines), Money.of("0.1") * len(machines))
        forbidden = draw.choice((None,) * 9 + ("safe mode",))
        unattended = draw.choice((None,) * 9 + ("a balancer is away",))
        most = draw.choice((None,) * 9 + (1,))
        reconciler = Reconciler(
            _config(draw),
            self.store,
            market,
            leases,
            lambda model: feed,
            lambda: {CHAT: wanted, _OTHER: policy(model=_OTHER)},
            lambda: forbidden,
            lambda: stray,
            lambda model: unattended,
            lambda: most,
        )
        return await self._plan(reconciler, wanted), await self._pass(reconciler, wanted)

    async def _plan(self, reconciler: Reconciler, wanted: Policy) -> Effects:
        record = await self.store.record(CHAT)
        thought = await reconciler.think(wanted, record, self.clock.now())
        refused = dict(thought.refused)
        return Effects(
            tuple(
                (str(one.offer), str(one.price_per_hour))
                for number, one in enumerate(thought.plan.launches)
                if number not in refused
            ),
            frozenset(release.node for release in thought.plan.releases),
            frozenset(thought.plan.undrain),
            tuple((str(thought.plan.launches[n].offer), why) for n, why in thought.refused),
        )

    async def _pass(self, reconciler: Reconciler, wanted: Policy) -> Effects:
        """The effects are read from the store, but for what was refused, which leaves no row."""
        before = {row.name: row for row in await self._rows()}
        outcome = await reconciler.reconcile(wanted, self.clock.now())
        after = {row.name: row for row in await self._rows()}
        moved = {n: r for n, r in after.items() if n in before and r.state is not before[n].state}
        new = {row.name: row for name, row in after.items() if name not in before}
        return Effects(
            tuple(
                (str(new[row.name].offer), str(new[row.name].price_per_hour))
                for row in outcome.launched
            ),
            frozenset(
                n
                for n, r in moved.items()
                if r.state in (State.DRAINING, State.TERMINATING, State.CANCELLED)
            ),
            frozenset(n for n, r in moved.items() if before[n].state is State.DRAINING),
            tuple((str(row.offer), why) for row, why in outcome.refused),
        )

    async def _rows(self) -> tuple[Node, ...]:
        rows = await self.store.nodes(closed_since=NOON - timedelta(days=99))
        return tuple(row for row in rows if row.model == CHAT)

    async def _wipe(self) -> None:
        for table in _TABLES:
            await self.store._execute(f"DELETE FROM {table}", ())

    async def _fill(self, draw: Random, leases: Leases, wanted: Policy, now: datetime) -> None:
        count, others = draw.choice((0, 0, 1, 2, 3, 5, 12)), draw.choice((0, 0, 1, 4))
        for number in range(count + others):
            model = CHAT if number < count else _OTHER
            row = _node(draw, number, model, wanted, now)
            event = NodeEvent(now, "node_made", model, row.name, row.state, "made", "test")
            await self.store.insert(leases.current(model), row, event)
            if draw.random() < 0.4:
                await self.store._execute(
                    "INSERT INTO launches VALUES (?, ?, ?)",
                    (
                        row.name,
                        model,
                        (now - _minutes(draw, 20)).isoformat(timespec="microseconds"),
                    ),
                )
        for key in {one.key for one in _offers(draw)}:
            if draw.random() < 0.15:
                await self.store.set_backoff(BackOff(key, now + _minutes(draw, 9), "it failed", 2))
            if draw.random() < 0.3:
                await self.store.add_boot(CHAT, key, draw.uniform(30, 400), now)
        memory = json.dumps(_memory(draw, now).to_json())
        shadow = Shadow(now - timedelta(hours=1), 5, 1).to_json() if draw.random() < 0.5 else ""
        await self.store._execute(
            "INSERT INTO models (model, memory, paused_by, retired_by, shadow) VALUES (?, ?, ?, ?, ?)",
            (CHAT, memory, _rarely(draw, "anna"), _rarely(draw, "anna"), shadow),
        )
        if draw.random() < 0.25:
            until = now + timedelta(minutes=draw.choice((-5, 5, 90)))
            word = Override(draw.randrange(7), until, "anna", now, draw.random() < 0.3)
            await self.store.set_override(CHAT, word, marked(CHAT, "model_scaled", "anna", now))


def _policy(draw: Random) -> Policy:
    least = draw.choice((0, 0, 0, 1, 2))
    changes: dict[str, object] = {
        "nodes": {"min": least, "max": least + draw.choice((0, 2, 9, 20))},
        "mode": draw.choice(("active",) * 7 + ("shadow", "paused")),
        "spread": {
            "survive_node": draw.choice((0, 0.5)),
            "survive_location": draw.choice((0, 0.3)),
        },
        "limits": {
            "on_limit": draw.choice(("hold", "drain-to-min")),
            **({"usd_per_hour": draw.randrange(1, 12)} if draw.random() < 0.3 else {}),
            **({"usd_per_day": draw.randrange(1, 60)} if draw.random() < 0.3 else {}),
            **({"usd_per_month": draw.randrange(1, 300)} if draw.random() < 0.2 else {}),
            **({"gpus": draw.randrange(6)} if draw.random() < 0.3 else {}),
            "on_launches": draw.choice(("hold", "hold", "drain-to-min")),
            "on_failures": draw.choice(("hold", "hold", "drain-to-min")),
        },
        "retries": {
            "launches_per_window": draw.choice((1, 3, 20)),
            "same_failure_limit": draw.choice((1, 3)),
        },
    }
    return policy(**changes)


def _config(draw: Random) -> Config:
    limits = {
        "nodes": draw.choice((1, 10, 30, 30)),
        "on_limit": draw.choice(("hold", "drain-to-min")),
        "usd_per_hour": draw.choice((4, 50, 50)),
        "usd_per_month": draw.choice((20, 5000, 5000)),
        "launches_per_window": draw.choice((1, 5, 60)),
        "same_failure_limit": draw.choice((2, 10)),
        **({"gpus": draw.randrange(12)} if draw.random() < 0.3 else {}),
    }
    return Config.model_validate(
        {
            "schema": 1,
            "cloud": {"owner": OWNER, "url": "http://127.0.0.1:1", "key_file": "/k"},
            "limits": limits,
            "timings": {"start_caution": draw.choice(("0s", "0s", "10m"))},
        }
    )


def _offers(draw: Random) -> tuple[Offer, ...]:
    made = [
        offer(),
        offer("a40.1x", "a40", "1.10"),
        offer("a100-80gb.1x", "a100-80gb-pcie", "1.81"),
        replace(offer("a40.4x", "a40", "4.40"), gpus=4),
    ]
    chosen = []
    for one in made:
        for place in ("us-east1-a", "us-west1-b"):
            in_stock = draw.random() < 0.8
            chosen.append(replace(one, key=OfferKey(one.key.type, place), in_stock=in_stock))
    return tuple(chosen)


def _node(draw: Random, number: int, model: ModelName, wanted: Policy, now: datetime) -> Node:
    state = draw.choice(
        (State.READY,) * 6
        + (State.DRAINING,) * 2
        + (State.PLANNED, State.CREATING, State.BOOTING, State.VERIFYING)
        + (State.TERMINATING, State.FAILED, State.GONE, State.LOST, State.CANCELLED)
    )
    at = now - _minutes(draw, 200)
    type_, price = draw.choice((("l40s-48gb.1x", "1.25"), ("a40.1x", "1.10")))
    scaled_in = state is State.DRAINING and draw.random() < 0.7
    return node(
        state,
        intent=intent_id(number),
        model=model,
        offer=OfferKey(type_, draw.choice(("us-east1-a", "us-west1-b"))),
        price_per_hour=Money.of(price),
        created_at=at,
        since=at,
        sent_at=None if state in (State.PLANNED, State.CANCELLED) else at,
        gone_at=at if state is State.GONE else None,
        operation_id=OperationId("o") if draw.random() < 0.5 else None,
        unregistered_at=at if state is State.DRAINING and draw.random() < 0.3 else None,
        verified_at=at if state in (State.READY, State.DRAINING) or draw.random() < 0.3 else None,
        reason=f"{SCALE_IN}: less is needed" if scaled_in else "wanted",
        failure=draw.choice((None, "verify: no GPU")) if state is State.GONE else None,
        spec_hash=wanted.spec_hash(),
        concurrency=draw.choice((8, 40)),
    )


def _history(draw: Random, now: datetime) -> tuple[Signals, ...]:
    arrivals = draw.choice((0.0, 0.3, 2.0, 9.0, 40.0, 90.0))
    values = dict(
        zip(_FIGURES, (arrivals, arrivals * 3, draw.choice((0.0, 0.0, 50.0))), strict=True)
    )
    lost = {name for name in _FIGURES if draw.random() < 0.06}
    figures = tuple((n, Figure(v, now, "made up")) for n, v in values.items() if n not in lost)
    gaps = tuple(Gap(name, "made up", "refused") for name in lost)
    held = draw.choice((0, 0, 0, 4))
    return (Signals(now, figures, gaps, idle=arrivals == 0 and not lost and not held, held=held),)


def _memory(draw: Random, now: datetime) -> LawMemory:
    want = draw.randrange(5)
    idle = now - _minutes(draw, 90) if draw.random() < 0.4 else None
    return LawMemory(
        started_at=now - timedelta(hours=9), need=float(want), want=want, idle_since=idle
    )


def _minutes(draw: Random, most: float) -> timedelta:
    return timedelta(seconds=round(draw.uniform(1, most * 60)))


def _rarely(draw: Random, what: str) -> str | None:
    return what if draw.random() < 0.06 else None
