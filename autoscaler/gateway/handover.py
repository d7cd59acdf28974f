"""The elder's side of an upgrade: it lets a younger process take over, then finishes what it has.

It gives its listening sockets away open, so that nobody is refused in between: what the kernel has queued on them is
taken by whoever serves. From the moment it gives its state until it retires it takes no change from the daemon, for
that would be lost; a younger one that fails before it serves closes the connection, and all is as before. Retired, it
takes no new connection, serves those it has, keeps its line, and does as the younger one says.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from autoscaler.gateway.endpoint import Endpoint, EndpointState
from autoscaler.gateway.listen import bind_control
from autoscaler.gateway.peer import (
    ANSWER_S,
    SUFFIX,
    Answer,
    HandedSocket,
    PeerGone,
    PeerSilent,
    PoolCount,
    Question,
    receive,
    send,
)
from autoscaler.gateway.pool import Pool
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.sockets import Handed
from autoscaler.gateway.state_file import snapshot

log = structlog.get_logger(__name__)

_LOOK_S = 1.0  # between two looks whether we can still be found
_START_S = 30.0  # for the younger one, from our sockets to serving on them


@dataclass(eq=False, slots=True)
class Handover:
    """Answers younger processes.

    Attributes:
        control: the control socket's path, by which processes of one gateway know each other.
        retire: called once with the younger one's process id; stops accepting.
        stop: called when whoever still waits is to be refused.
        may_change: clear while the daemon's changes would be lost.
    """

    pools: Pools
    control: Path
    retire: Callable[[int], None]
    stop: Callable[[], None]
    sockets: list[Handed] = field(default_factory=list)
    is_retired: bool = False
    may_change: asyncio.Event = field(default_factory=asyncio.Event)
    _listener: socket.socket | None = None
    _path: Path | None = None

    def open(self, folder: Path) -> None:
        """Listen for younger processes. A folder that may not be written to is told; upgrades then cut streams."""
        self.may_change.set()
        path = folder / f"{self.pools.boot_id[:8]}{SUFFIX}"
        try:
            self._listener = bind_control(path, mode=0o600)
        except Exception as exc:
            log.warning("upgrade_not_prepared", path=str(path), why=str(exc))
            return
        self._path = path

    def close(self) -> None:
        """Listen no more."""
        if self._listener is not None:
            self._listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    @property
    def path(self) -> Path | None:
        """Where younger processes ask, or None."""
        return self._path

    async def serve(self) -> None:
        """Answer until cancelled."""
        if self._listener is None:
            return
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                listener = self._listener
                # Not sock_accept: cancelled in the wrong moment, it loses what it has accepted.
                loop.add_reader(listener, self._accept, listener, tasks)
                try:
                    await self._hidden()
                finally:
                    loop.remove_reader(listener)
                self._reopen()

    async def _hidden(self) -> None:
        """Wait until somebody has removed the name by which younger ones find us."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._path is not None and not self._path.exists():
                return

    def _reopen(self) -> None:
        """Be found again; where that fails, the next look tries anew."""
        assert self._path is not None
        try:
            listener = bind_control(self._path, mode=0o600)
        except Exception as exc:
            log.debug("upgrade_not_prepared", path=str(self._path), why=str(exc))
            return
        if self._listener is not None:
            self._listener.close()
        self._listener = listener
        log.warning("peer_socket_restored", path=str(self._path))

    def _accept(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        try:
            peer, _ = listener.accept()
        except OSError as exc:  # no descriptor free, for one: they ask again
            log.debug("peer_not_accepted", why=str(exc))
            return
        peer.setblocking(False)
        conversation = tasks.create_task(self._converse(peer))
        conversation.add_done_callback(partial(_closed, peer))  # also one that never began

    async def _converse(self, peer: socket.socket) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                question = await receive(peer, Question)
            if question.ask == "sockets":
                await self._give_sockets(peer)
                if self.is_retired:
                    await _until_closed(peer)
            elif question.ask == "stay":
                async with asyncio.timeout(ANSWER_S):
                    await send(peer, self._answer(question))
                await _until_closed(peer)
            else:
                async with asyncio.timeout(ANSWER_S):
                    await send(peer, self._answer(question))
        except (OSError, TimeoutError, PeerGone, PeerSilent) as exc:
            log.debug("peer_broke_off", why=str(exc) or type(exc).__name__)
        except Exception:
            log.exception("peer_not_answered")  # clients are served whatever it was

    async def _give_sockets(self, peer: socket.socket) -> None:
        if self.is_retired or self.pools.is_stopping or not self.may_change.is_set():
            await send(peer, Answer(why="it is ending, or another process takes over already"))
            return
        self.may_change.clear()
        log.info("handover_begun")
        try:
            async with asyncio.timeout(_START_S):
                answer = Answer(
                    control=str(self.control),
                    sockets=[
                        HandedSocket(role=h.role, inherited=h.inherited) for h in self.sockets
                    ],
                    state=snapshot(self.pools).model_dump_json(),
                )
                await send(peer, answer, [handed.opened.fileno() for handed in self.sockets])
                question = await receive(peer, Question)
                if question.ask == "retire":
                    self.is_retired = True
                    self.retire(question.pid)
                    await send(peer, Answer(is_retired=True, counts=counts(self.pools)))
        finally:
            self.may_change.set()  # retired, it has nobody to take changes from
            if not self.is_retired:
                log.warning(
                    "handover_failed", hint="the new process did not start; its log says why"
                )

    def _answer(self, question: Question) -> Answer:
        if question.ask == "follow" and self.is_retired:
            apply(self.pools, question)
        elif question.ask == "stop" and self.is_retired:
            self.stop()
        return Answer(
            control=str(self.control), is_retired=self.is_retired, counts=counts(self.pools)
        )


async def _until_closed(peer: socket.socket) -> None:
    """Keep the connection, so that its end is proof of ours; they say nothing more."""
    await asyncio.get_running_loop().sock_recv(peer, 1)


def _closed(peer: socket.socket, _done: asyncio.Task[None]) -> None:
    peer.close()


def counts(pools: Pools) -> dict[str, PoolCount]:
    """What this process itself has in flight and in line."""
    return {
        model: PoolCount(
            running=pool.in_flight,
            waiting=pool.waiting,
            endpoints={e.id: e.in_flight for e in pool.endpoints.values() if e.in_flight},
        )
        for model, pool in pools.by_model.items()
    }


def apply(pools: Pools, news: Question) -> None:
    """Make the endpoints be as the younger process has them; who waits here goes where it may."""
    for model, pool in tuple(pools.by_model.items()):
        if model not in news.pools:
            continue  # it may have lost its state, and is told of the model again
        told = {endpoint.id: endpoint for endpoint in news.pools[model]}
        for known in tuple(pool.endpoints.values()):
            if known.id not in told:
                pool.remove(known)
        for endpoint in told.values():
            there = Endpoint(endpoint.id, endpoint.url, trust=endpoint.trust)
            _apply_one(pool, there, endpoint.state)
            known = pool.endpoints[endpoint.id]
            known.weight, known.max_inflight = endpoint.weight, endpoint.max_inflight
            known.elsewhere = endpoint.in_flight
        pool.dispatch()


def _apply_one(pool: Pool, told: Endpoint, state: EndpointState) -> None:
    known = pool.endpoints.get(told.id)
    if known is None:
        told.state = EndpointState.DRAINING  # until its bounds are known
        pool.put_endpoint(told)
        known = told
    if state is EndpointState.DRAINING:
        pool.drain(known)
    else:
        known.url, known.state, known.drained_at = told.url, state, None
        known.trust = told.trust
