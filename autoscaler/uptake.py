"""Policies on their way into force: kept in the store, reloaded, and the firewall's ports that follow from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import NodeEvent
from autoscaler.errors import StoreUnavailable
from autoscaler.growth import Growth
from autoscaler.health import Health
from autoscaler.market import MarketFeed
from autoscaler.nodes.firewall import FirewallGate
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.reach import Reach
from autoscaler.nodes.startup.render import replicas_of
from autoscaler.nodes.sweep import ORPHANS_MODEL
from autoscaler.policies import PolicyBook
from autoscaler.policy import Mode, Policy
from autoscaler.serve.metrics import Metrics
from autoscaler.store.protocol import Store
from autoscaler.wakes import Wakes

log = structlog.get_logger(__name__)

_RELOAD = timedelta(minutes=1)
_MOST_PORTS = 16


@dataclass(frozen=True, slots=True)
class PolicyUptake:
    """Puts policies into force.

    Attributes:
        start: begins the passes of a model that was added.
        drop_feed: closes what reads a model's signals, since its policy changed.
        told: policies of which it was said that they are held, each by its hash.
    """

    book: PolicyBook
    store: Store
    leases: Leases
    wakes: Wakes
    market: MarketFeed
    firewall: FirewallGate
    reach: Reach
    metrics: Metrics
    health: Health
    start: Callable[[ModelName], None]
    drop_feed: Callable[[ModelName], Awaitable[None]]
    now: Callable[[], datetime]
    told: dict[ModelName, str] = field(default_factory=dict)

    async def take_up(self) -> None:
        """Remember the policies in force, and take up those of models that have nodes and no file any more."""
        await self.settle_promotions()
        held = []
        for model in tuple(self.book.policies):
            before = await self._kept(model)
            growth = self.book.hold(before) if before is not None else None
            held += [growth] if growth is not None else []
            await self._keep(model)
        await self._tell((), held)
        models = {n.model for n in await self.store.nodes()} - {ORPHANS_MODEL}
        for model in sorted(models - set(self.book.policies)):
            kept = await self.store.meta(f"policy:{model}")
            try:
                if kept is None:
                    raise ValueError("it was never kept")
                self.book.remember(Policy.model_validate_json(kept))
            except ValueError as exc:
                self.health.stray = (*self.health.stray, model)
                log.error("nodes_without_policy", model=model, why=str(exc))
            else:
                log.error("policy_vanished", models=[model], do="autoscaler retire MODEL")

    async def _kept(self, model: ModelName) -> Policy | None:
        """The policy that was in force before this start, None when that is not known."""
        text = await self.store.meta(f"policy:{model}")
        try:
            return Policy.model_validate_json(text) if text is not None else None
        except ValueError:
            return None  # of another version: what it could spend is not known either

    async def _tell(self, grown: Sequence[Growth], held: Sequence[Growth]) -> None:
        """Say which policies may spend more or less than before, and which wait for a person; each once."""
        for growth in grown:
            await self._say(growth, "policy_spend_changed", growth.words)
        for growth in held:
            if self.told.get(growth.model) != growth.spec:
                log.error("policy_held", model=growth.model, why=growth.held)
                await self._say(growth, "policy_held", growth.words)
        self.told.clear()
        self.told.update({growth.model: growth.spec for growth in held})

    async def _say(self, growth: Growth, kind: str, cause: str) -> None:
        await self.store.add_event(
            NodeEvent(self.now(), kind, growth.model, None, None, cause, actor="daemon")
        )

    async def _keep(self, model: ModelName) -> None:
        text = self.book.written(model).model_dump_json(by_alias=True)
        await self.store.set_meta(f"policy:{model}", text)

    async def settle_promotions(self) -> None:
        """Take over who may rent. A file that says itself whether it may ends what a person once said of it."""
        found = dict(await self.store.promotions())
        for model in tuple(found):
            mode = self.book.written(model).mode if model in self.book.policies else None
            if mode in (None, Mode.SHADOW) or self.book.is_fixed:
                continue
            cause = f'its policy says mode = "{mode}" itself'
            event = NodeEvent(
                self.now(), "promotion_ended", model, None, None, cause, actor="daemon"
            )
            await self.store.set_promotion(model, None, event)
            log.info("promotion_ended", model=model, why=cause)
            del found[model]
        self.book.promote(found)

    async def reload(self) -> None:
        """Read the files again whenever woken, for ever."""
        # now and then also without a sign: a directory that was replaced is watched no more
        self.wakes.every("policies", _RELOAD)
        added: list[ModelName] = []
        changed: list[ModelName] = []
        while True:
            await self.wakes.wait("policies")
            change = self.book.reload()
            self.metrics.reloaded(ok=change.error is None and not change.held)
            added += change.added
            changed += change.changed
            try:
                for model in (*added, *changed):
                    await self._keep(model)
                await self.settle_promotions()
                await self._tell(change.grown, change.held)
                await self._begin(added, changed)
            except StoreUnavailable as exc:
                # The book knows them by now and will not name them again: they stay due.
                log.warning("policies_not_taken_up", models=[*added, *changed], why=str(exc))
            self.want_ports()

    async def _begin(self, added: list[ModelName], changed: list[ModelName]) -> None:
        """Begin the passes of what was added and new feeds of what changed; what is done is taken out."""
        while added:
            await self.leases.acquire(added[0])
            self.start(added.pop(0))
        while changed:
            await self.drop_feed(changed[0])
            self.wakes.now(f"model {changed.pop(0)}")

    def want_ports(self) -> None:
        """Every port that a node of any policy may serve on: one per replica."""
        market = self.market.last
        ports: set[int] = set()
        for policy in self.book.policies.values():
            replicas = max(
                (replicas_of(policy, offer) for offer in market.offers) if market else (),
                default=_MOST_PORTS,
            )
            ports |= {policy.server.port + i for i in range(max(1, min(replicas, _MOST_PORTS)))}
        self.firewall.want(self.reach.ports_to_open(sorted(ports)))
