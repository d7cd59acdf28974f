"""All the balancers together: who is asked, who is waited for, and what one that comes back is told.

Each model sees each balancer for itself, so that a backend missing for one model holds up no other. A balancer that
does not answer is asked by one asker at a time: the others take its silence for given and lose no time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Protocol

import structlog

from autoscaler.balance.presence import (
    Patience,
    Presence,
    amends,
    node_of,
    overlooked,
    patience_left,
    why_no_release,
)
from autoscaler.balance.protocol import Balancer, Pool, PoolReport, ServerState
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import CLOSED, Endpoint, Node, State
from autoscaler.errors import BalancerUnavailable

log = structlog.get_logger(__name__)

_SAID_LATELY_S = 60.0


class Rows(Protocol):
    """What is recorded of nodes. The store satisfies it."""

    async def nodes(self) -> Sequence[Node]:
        """Every open node."""

    async def node(self, name: NodeName) -> Node | None:
        """One node, open or closed; None when no row knows it."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the balancers say of one model.

    Attributes:
        reports: of every balancer that is waited for; each of them answered.
        overlooked: the names of those that did not answer and are not waited for.
    """

    reports: tuple[PoolReport, ...]
    overlooked: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Member:
    balancer: Balancer
    is_front: bool
    presences: dict[ModelName, Presence] = field(default_factory=dict)
    trouble: str | None = None  # why it did not answer when last asked
    is_probed: bool = False
    said: dict[ModelName, tuple[float, PoolReport]] = field(default_factory=dict)  # last, and when


class BalancerGroup:
    """Every configured balancer.

    Args:
        boot_s: seconds since boot.
        behind: names of those that clients do not come through: activators behind the others.
    """

    def __init__(
        self,
        balancers: Sequence[Balancer],
        boot_s: Callable[[], float],
        patience: Patience | None = None,
        behind: Collection[str] = (),
    ) -> None:
        self._members = [_Member(b, b.name not in behind) for b in balancers]
        self._boot_s = boot_s
        self._patience = patience or Patience()
        self._pools: dict[ModelName, Pool] = {}

    @property
    def patience(self) -> Patience:
        return self._patience

    @property
    def settle_time(self) -> timedelta:
        """The longest of theirs."""
        return max((m.balancer.settle_time for m in self._members), default=timedelta(0))

    async def close(self) -> None:
        """Close all connections."""
        for member in self._members:
            await member.balancer.close()

    # asking

    async def ask(self, model: ModelName, patience: timedelta) -> Heard:
        """Ask every balancer what it knows of a model.

        Args:
            patience: how long a silent one is waited for while a front counts.

        Raises:
            BalancerUnavailable: one that is waited for did not answer: nothing is known.
        """
        answers = await asyncio.gather(*(self._report(m, model) for m in self._members))
        ignored = overlooked(self._presences(model), patience, self._boot_s())
        for member, answer in zip(self._members, answers, strict=True):
            if answer is None and member.balancer.name not in ignored:
                raise BalancerUnavailable(member.trouble or f"{member.balancer.name}: no answer")
        return Heard(tuple(a for a in answers if a is not None), ignored)

    async def in_traffic(self, models: Sequence[ModelName]) -> frozenset[NodeName]:
        """The nodes of these models that a balancer sends to, or that still have requests: known to us or not.

        Of a balancer that does not answer nothing is known, so nothing is said.
        """
        pairs = [(member, model) for member in self._members for model in models]
        reports = await asyncio.gather(*(self._report(*pair) for pair in pairs))
        return frozenset(
            node_of(server.endpoint_id)
            for report in reports
            if report is not None
            for server in report.servers
            if server.state is not ServerState.DOWN
        )

    def overlooked(self, model: ModelName) -> frozenset[str]:
        """Name those whose silence holds up no launch any more."""
        return overlooked(self._presences(model), self._patience.grace, self._boot_s())

    def patience_left(self, model: ModelName) -> timedelta | None:
        """Say for how long from now on a silence holds launches and figures up; None where none does, or for ever."""
        return patience_left(self._presences(model), self._patience.grace, self._boot_s())

    def why_no_release(self, model: ModelName) -> str | None:
        """Say why no registered node of a model may be drained or deleted now, None when one may."""
        return why_no_release(self._presences(model), self._patience.absent_after, self._boot_s())

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why each balancer that is away did not answer when last asked."""
        return tuple(m.trouble for m in self._members if m.trouble is not None)

    def waited_for(self, model: ModelName) -> str | None:
        """Name the balancers whose silence holds up a launch; None when all answer."""
        silent = {n for n, p in self._presences(model).items() if not p.answers}
        names = sorted(silent - self.overlooked(model))
        return ", ".join(names) or None

    # telling

    async def ensure_pool(self, pool: Pool) -> None:
        """Make the model known to every balancer that answers.

        Where one refuses it is asked whether it is there at all, so that the pass that follows knows.

        Raises:
            BalancerUnavailable: one of them refused; the others were told. Repeat.
        """
        self._pools[pool.model] = pool

        async def ensure(member: _Member) -> None:
            try:
                await member.balancer.ensure_pool(pool)
            except BalancerUnavailable:
                await self._report(member, pool.model)
                raise

        await self._tell(ensure)

    async def register(self, node: Node, may: Callable[[], object] = lambda: None) -> None:
        """Put the node behind every balancer that answers; the others are told when they come back.

        Args:
            may: called before each endpoint; raises where its model is ours no more, as after a long sleep.

        Raises:
            BalancerUnavailable: one of them refused; the others were told. Repeat.
        """
        for endpoint in node.endpoints:
            may()
            await self._tell(partial(_register, node.model, endpoint))

    async def drain(self, node: Node) -> None:
        """Tell every balancer that answers to place nothing new there; raises as `register`."""
        for endpoint in node.endpoints:
            await self._tell(partial(_drain, node.model, endpoint.id))

    async def remove(self, node: Node, *, force: bool) -> None:
        """Make every balancer that answers forget the node; `force` cuts what is in flight; raises as `register`."""
        for endpoint in node.endpoints:
            await self._tell(partial(_remove, node.model, endpoint.id, force))

    async def welcome(self, models: Sequence[ModelName], rows: Rows) -> None:
        """Ask those that do not count, and tell each that answers how things stand; then it counts.

        The others are made to forget nodes that are gone: an entry may come back by the late word of a daemon that
        was frozen while its heir gave the node back.
        """
        nodes = await rows.nodes()
        await asyncio.gather(*(self._welcome(m, models, nodes, rows) for m in self._members))

    async def _welcome(
        self, member: _Member, models: Sequence[ModelName], nodes: Sequence[Node], rows: Rows
    ) -> None:
        for model in models:
            if self._presence(member, model).counts:
                await self._forget_gone(member, model, nodes, rows)
                continue
            report = await self._report(member, model)
            if report is None:
                return  # it will not answer for the next model either
            try:
                is_right = await self._make_amends(member, report, rows)
            except BalancerUnavailable as exc:
                log.warning(
                    "balancer_not_reconciled",
                    balancer=member.balancer.name,
                    model=model,
                    why=str(exc),
                )
                continue
            if is_right:
                member.presences[model] = self._presence(member, model).reconciled()
                log.info("balancer_reconciled", balancer=member.balancer.name, model=model)

    async def _forget_gone(
        self, member: _Member, model: ModelName, nodes: Sequence[Node], rows: Rows
    ) -> None:
        """Make a balancer that counts forget entries of nodes that are gone; what it said lately is enough to see."""
        at_s, said = member.said.get(model, (0.0, None))
        if said is None or self._boot_s() - at_s >= _SAID_LATELY_S:
            said = await self._report(member, model)
        if said is None or not await _closed(said, nodes, rows):
            return
        now = await self._report(member, model)  # it may have been told since
        gone = await _closed(now, nodes, rows) if now is not None else frozenset()
        listed = [s.endpoint_id for s in now.servers] if now is not None else []
        try:
            for endpoint_id in (e for e in listed if node_of(e) in gone):
                log.warning(
                    "balancer_lists_gone", balancer=member.balancer.name, endpoint=endpoint_id
                )
                await _forget(member.balancer, model, endpoint_id)
        except BalancerUnavailable as exc:
            log.warning("gone_not_forgotten", balancer=member.balancer.name, why=str(exc))

    async def _make_amends(self, member: _Member, report: PoolReport, rows: Rows) -> bool:
        """Tell a balancer what it lacks of a model; whether it then says itself that it lacks nothing."""
        model, balancer = report.model, member.balancer
        if model in self._pools:
            await balancer.ensure_pool(self._pools[model])
        # the rows are read after the report: what it lists was recorded before
        wrong = amends(report, nodes := await rows.nodes(), await _closed(report, nodes, rows))
        for endpoint in wrong.register:
            row = await rows.node(
                node_of(endpoint.id)
            )  # while another was told, this one may have left
            if row is not None and row.state is State.READY:
                await balancer.register(model, endpoint)
        for endpoint_id in wrong.drain:
            await balancer.drain(model, endpoint_id)
        for endpoint_id in wrong.forget:
            await _forget(balancer, model, endpoint_id)
        if not wrong:
            return True
        after = await balancer.report(model)
        nodes = await rows.nodes()
        return not amends(after, nodes, await _closed(after, nodes, rows))

    # who is there

    def _presences(self, model: ModelName) -> dict[str, Presence]:
        return {m.balancer.name: self._presence(m, model) for m in self._members}

    def _presence(self, member: _Member, model: ModelName) -> Presence:
        return member.presences.setdefault(model, Presence(member.is_front, self._boot_s()))

    async def _report(self, member: _Member, model: ModelName) -> PoolReport | None:
        """Ask one balancer, and note whether it answered."""
        if member.is_probed:
            self._unanswered(member, model)
            return None
        member.is_probed = member.trouble is not None
        try:
            report = await member.balancer.report(model)
        except BalancerUnavailable as exc:
            self._note(member, str(exc))
            self._unanswered(member, model)
            return None
        finally:
            member.is_probed = False
        self._note(member, None)
        member.said[model] = (self._boot_s(), report)
        member.presences[model] = self._presence(member, model).answered()
        return report

    def _unanswered(self, member: _Member, model: ModelName) -> None:
        member.presences[model] = self._presence(member, model).unanswered(self._boot_s())

    def _note(self, member: _Member, trouble: str | None) -> None:
        if trouble is not None and member.trouble is None:
            log.warning("balancer_absent", balancer=member.balancer.name, why=trouble)
        elif trouble is None and member.trouble is not None:
            log.info("balancer_back", balancer=member.balancer.name)
        member.trouble = trouble

    async def _tell(self, order: Callable[[_Member], Awaitable[None]]) -> None:
        there = [member for member in self._members if member.trouble is None]
        done = await asyncio.gather(*map(order, there), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome


async def _closed(report: PoolReport, nodes: Sequence[Node], rows: Rows) -> frozenset[NodeName]:
    """Which nodes that a balancer lists are recorded as gone."""
    listed = {node_of(server.endpoint_id) for server in report.servers}
    closed = set()
    for name in listed - {node.name for node in nodes}:
        row = await rows.node(name)
        if row is not None and row.state in CLOSED:
            closed.add(name)
    return frozenset(closed)


async def _forget(balancer: Balancer, model: ModelName, endpoint_id: str) -> None:
    await balancer.drain(model, endpoint_id)
    await balancer.remove(model, endpoint_id, force=True)  # its machine is gone


async def _register(model: ModelName, endpoint: Endpoint, member: _Member) -> None:
    await member.balancer.register(model, endpoint)


async def _drain(model: ModelName, endpoint_id: str, member: _Member) -> None:
    await member.balancer.drain(model, endpoint_id)


async def _remove(model: ModelName, endpoint_id: str, force: bool, member: _Member) -> None:
    await member.balancer.remove(model, endpoint_id, force=force)
