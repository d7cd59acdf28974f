"""The younger's side of an upgrade: it takes over, and counts what its elders still have in flight.

Until an elder is gone its requests are as much in flight as our own: a node that drains has them, an endpoint that is
full is full of them, the daemon is told the sum. Each is asked four times a second, told of every change at once, and
forgotten only when its socket refuses us, which a living process does not, or when the connection that it keeps for us
ends. One that lives and does not answer keeps its last count, and the daemon hears that the sum is not to be relied on.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from autoscaler.errors import ConfigError
from autoscaler.gateway.peer import (
    ANSWER_S,
    SUFFIX,
    Answer,
    EndpointNews,
    PeerGone,
    PeerHidden,
    PeerSilent,
    PoolCount,
    Question,
    ask,
    is_open,
    receive,
    send,
    stay,
    take_sockets,
)
from autoscaler.gateway.pool import Pool
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.sockets import Handed

log = structlog.get_logger(__name__)

_EACH_S = 0.25
_MISSES_TOLD = 2


@dataclass(eq=False, slots=True)
class Predecessor:
    """One elder and what it last said. `is_fresh`: it has answered the last question; `line`: open while it lives."""

    path: Path
    counts: dict[str, PoolCount] = field(default_factory=dict)
    is_fresh: bool = False
    misses: int = 0
    line: socket.socket | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it is known to live without being asked."""
        return self.line is not None and is_open(self.line)

    def close(self) -> None:
        """Keep nothing open towards it."""
        line, self.line = self.line, None
        if line is not None:
            line.close()

    @property
    def running(self) -> int:
        return sum(count.running for count in self.counts.values())


@dataclass(slots=True)
class Succession:
    """A handover that has begun: what the elder gave, and the connection that it waits on."""

    predecessor: Predecessor
    peer: socket.socket
    sockets: list[Handed]
    state: str
    is_done: bool = False

    def close(self) -> None:
        """End it; if it is not done, the elder goes on as before."""
        self.peer.close()
        if not self.is_done:
            for one in self.sockets:
                one.opened.close()

    async def finish(self) -> Predecessor:
        """Say that we serve; the elder accepts nothing more from here on.

        Raises:
            ConfigError: it did not say that it has heard.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                await send(self.peer, Question(ask="retire", pid=os.getpid()))
                answer = await receive(self.peer, Answer)
        except (OSError, TimeoutError, PeerGone, PeerSilent) as exc:
            self.peer.close()
            raise ConfigError(
                f"the gateway at {self.predecessor.path} gave its sockets and did not retire "
                f"({type(exc).__name__}); see its log, and start the new one again"
            ) from exc
        self.predecessor.counts, self.predecessor.is_fresh = answer.counts, True
        self.predecessor.line = self.peer
        self.is_done = True
        return self.predecessor


@dataclass(eq=False, slots=True)
class Predecessors:
    """All elders of this process that are not gone."""

    pools: Pools
    members: list[Predecessor] = field(default_factory=list)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find(self, folder: Path, control: Path, own: Path | None) -> Path | None:
        """Look for elders that finish what they have; return the one that serves now, if there is one."""
        serving: Path | None = None
        for path in await asyncio.to_thread(_listed, folder):
            if path == own:
                continue
            try:
                answer, line = await stay(path)
            except PeerGone:
                path.unlink(missing_ok=True)
                continue
            except PeerSilent as exc:
                log.warning("predecessor_silent", path=str(path), why=str(exc))
                continue
            if answer.control == str(control) and answer.is_retired:
                self.members.append(Predecessor(path, answer.counts, is_fresh=True, line=line))
                continue
            line.close()
            if answer.control == str(control):
                serving = path
        return serving

    def adopt(self, predecessor: Predecessor) -> None:
        """Count one more."""
        self.members.append(predecessor)
        self._sum_up()

    async def tell(self) -> bool:
        """Tell all how things stand, and hear what they have; whether each of them has heard it."""
        if not self.members:
            return True
        async with self._asking:
            await asyncio.gather(*(self._ask(one) for one in tuple(self.members)))
        self._sum_up()
        return all(one.is_fresh for one in self.members)

    async def follow(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await asyncio.sleep(_EACH_S)
            try:
                await self.tell()
            except Exception:
                log.exception("predecessors_not_told")  # clients are served whatever it was

    async def stop(self) -> None:
        """Let them refuse who still waits."""
        for one in self.members:
            try:
                await ask(one.path, Question(ask="stop"))
            except (PeerGone, PeerSilent) as exc:
                log.debug("predecessor_not_stopped", why=str(exc))

    @property
    def running(self) -> int:
        """Requests in flight at all of them."""
        return sum(one.running for one in self.members)

    def report(self) -> list[dict[str, object]]:
        """Describe them for the daemon."""
        return [
            {"name": one.path.stem, "running": one.running, "fresh": one.is_fresh}
            for one in self.members
        ]

    def forget(self) -> None:
        """Have none of them any more: they are another process's to count, or we end."""
        while self.members:
            self.members.pop().close()

    async def _ask(self, one: Predecessor) -> None:
        question = Question(
            ask="follow",
            pools={model: self._news(pool, one) for model, pool in self.pools.by_model.items()},
        )
        try:
            answer = await ask(one.path, question)
        except PeerGone:
            self._bury(one)
        except PeerSilent as exc:
            if isinstance(exc, PeerHidden) and not one.is_alive:
                self._bury(one)
                return
            one.is_fresh, one.misses = False, one.misses + 1
            if one.misses == _MISSES_TOLD:  # a single one is its end, as a rule
                log.warning("predecessor_silent", name=one.path.stem, why=str(exc))
        else:
            one.counts, one.is_fresh, one.misses = answer.counts, True, 0

    def _bury(self, one: Predecessor) -> None:
        one.close()
        if one in self.members:
            self.members.remove(one)
        one.path.unlink(missing_ok=True)
        log.info("predecessor_gone", name=one.path.stem, cut=one.running)

    def _news(self, pool: Pool, one: Predecessor) -> list[EndpointNews]:
        own = one.counts.get(pool.settings.model, PoolCount()).endpoints
        return [
            EndpointNews(
                id=e.id,
                url=e.url,
                weight=e.weight,
                max_inflight=e.max_inflight,
                state=e.state,
                in_flight=max(0, e.load - own.get(e.id, 0)),
                authority=e.trust.authority if e.trust is not None else "",
                host_name=e.trust.host_name if e.trust is not None else "",
            )
            for e in pool.endpoints.values()
        ]

    def _sum_up(self) -> None:
        for model, pool in self.pools.by_model.items():
            each = [one.counts[model] for one in self.members if model in one.counts]
            had = pool.waiting_elsewhere
            pool.running_elsewhere = sum(count.running for count in each)
            pool.waiting_elsewhere = sum(count.waiting for count in each)
            for endpoint in pool.endpoints.values():
                endpoint.elsewhere = sum(count.endpoints.get(endpoint.id, 0) for count in each)
            pool.dispatch()
            if pool.waiting_elsewhere and not had:
                self.pools.note_demand(pool)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


async def begin(path: Path) -> Succession:
    """Ask the gateway that serves for all that it has.

    Raises:
        ConfigError: it does not give it.
    """
    try:
        peer, answer, opened = await asyncio.to_thread(take_sockets, path)
    except (PeerGone, PeerSilent) as exc:
        raise ConfigError(
            f"the gateway that serves does not hand over ({exc}); see its log, or stop it first"
        ) from exc
    if answer.why or len(opened) != len(answer.sockets):
        for one in opened:
            one.close()
        peer.close()
        raise ConfigError(
            f"the gateway that serves does not hand over: {answer.why or 'sockets are missing'}"
        )
    sockets = [
        Handed(told.role, one, told.inherited)
        for told, one in zip(answer.sockets, opened, strict=True)
    ]
    return Succession(Predecessor(path), peer, sockets, answer.state)
