"""HAProxy 2.6 or newer as a balancer, driven through its runtime API.

Each model has one backend, which an operator writes into `haproxy.cfg` with two backup servers that lead to the
activator. Our servers are added at run time under a prefix of ours; all others are left alone. A reload or restart
forgets our servers, so `register` compares before it writes and costs two reads when all is as it should be.

One cure stands here for a fault of HAProxy's: with `maxconn` on each server, surplus requests wait in the backend's
queue, and when the last server drains nobody takes them from there until `timeout queue` answers 503. Setting the
activator's server to maintenance and back makes it take the queue over. Alone it would leave new requests without
any server for the instant in between (594 of 23,525 requests failed over 1,626 turns); the second backup covers that
(0 of 51,628 over 2,565).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from autoscaler.balance.haproxy_backend import (
    Backend,
    address_of,
    differences,
    in_flight,
    server_report,
)
from autoscaler.balance.haproxy_channel import Where
from autoscaler.balance.haproxy_socket import (
    ask,
    backend_name,
    count_old_processes,
    server_name,
    sessions_on,
    show_info,
    show_servers_state,
    show_stat,
)
from autoscaler.balance.haproxy_tls import teach, tls_words
from autoscaler.balance.protocol import Pool, PoolReport
from autoscaler.domain.ids import ModelName, slug
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable

log = structlog.get_logger(__name__)

_STEP = timedelta(milliseconds=50)  # between two looks while HAProxy lets go of a server
_START_SLACK_S = 3  # uptime is in whole seconds, and reading it takes time


@dataclass(frozen=True, slots=True)
class HaproxySettings:
    """Where HAProxy listens, and what its configuration says that we must know.

    Attributes:
        socket_path: its `stats socket`, with `level admin`.
        master_socket_path: the socket of `haproxy -W -S PATH`. Without it the processes that a reload leaves behind
            cannot be counted, and only the engines tell what still runs in them.
        backends: model to backend, where that is not the slug of the model's name.
        server_prefix: marks servers as ours. Never let a server of yours begin with it.
        activator, activator_spare: the names of the two backup servers.
        check_interval: between two health checks of one server.
        connect_timeout: `timeout connect` of the backends.
        answer_time: for one command.
        removal_time: how long one `remove` waits for idle connections to close.
        authority: the certificate, in PEM form, of who vouches for servers of https URLs.
    """

    socket_path: Where
    master_socket_path: Where | None = None
    backends: Mapping[ModelName, str] = field(default_factory=dict)
    server_prefix: str = "as-"
    activator: str = "activator"
    activator_spare: str = "activator-spare"
    check_interval: timedelta = timedelta(seconds=1)
    connect_timeout: timedelta = timedelta(seconds=2)
    answer_time: timedelta = timedelta(seconds=3)
    removal_time: timedelta = timedelta(seconds=2)
    authority: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that would not be single words of a command (ValueError)."""
        for name in (self.server_prefix, self.activator, self.activator_spare):
            server_name(name)
        for backend in self.backends.values():
            backend_name(backend)
        if self.activator == self.activator_spare:
            raise ValueError(f"activator and activator_spare are both {self.activator!r}")

    def backend(self, model: ModelName) -> str:
        """The backend of a model: as mapped, else the slug of its name."""
        return self.backends.get(model) or backend_name(slug(model))


class HaproxyBalancer:
    """One running HAProxy. It satisfies `Balancer`."""

    def __init__(self, settings: HaproxySettings, name: str = "haproxy") -> None:
        self._settings = settings
        self._name = name
        self._pools: dict[ModelName, Pool] = {}
        self._started: tuple[int, int] | None = None  # pid, second of its start

    @property
    def name(self) -> str:
        """Unique among the configured balancers, for messages."""
        return self._name

    @property
    def settle_time(self) -> timedelta:
        """Longer than `timeout connect`: a request placed before a drain is then counted or sent elsewhere."""
        return self._settings.connect_timeout + timedelta(milliseconds=500)

    async def report(self, model: ModelName) -> PoolReport:
        """Read what HAProxy knows of this model right now.

        `waiting` is the backend's queue and all that the activator has, which includes answers that it still
        streams for requests it held. A backend that is no longer in the configuration has no servers: that is an
        answer, and what was registered there may be given back.
        """
        incarnation = await self._incarnation()
        backend = await self._find(model) or Backend(self._backend(model), (), ())
        return PoolReport(
            model=model,
            servers=tuple(
                server_report(backend, state, self._settings.server_prefix)
                for state in backend.states
                if state.server.startswith(self._settings.server_prefix)
            ),
            incarnation=incarnation,
            waiting=backend.queued + self._at_activator(backend),
            at=datetime.now(UTC),
            old_processes=await self._old_processes(),
            counts_old_processes=self._settings.master_socket_path is not None,
        )

    async def ensure_pool(self, pool: Pool) -> None:
        """See that the model's backend stands in HAProxy's configuration, with both backups taking requests.

        Bounds of holding are the activator's: HAProxy has no such settings. It also frees a queue that nobody
        serves, so that one pass after the last server died its requests are held by the activator.

        Raises:
            BalancerUnavailable: no such backend, or no activator in it; the message has the lines to add.
        """
        clash = next(
            (
                other
                for other in self._pools
                if other != pool.model and self._backend(other) == self._backend(pool.model)
            ),
            None,
        )
        if clash is not None:
            raise BalancerUnavailable(
                f"{self._name}: the models {pool.model!r} and {clash!r} share the backend"
                f" {self._backend(pool.model)!r}: map one of them to a backend of its own"
            )
        backend = await self._read(pool.model)
        await self._assert_activator(backend)
        await self._free_stalled(backend)
        self._pools[pool.model] = pool

    async def register(self, model: ModelName, endpoint: Endpoint) -> None:
        """Add the endpoint, or bring it back from draining; nothing is written when HAProxy has it already."""
        backend = await self._read(model)
        server = self._server(endpoint.id)
        address = address_of(endpoint.url)
        limit = self._max_connections(model, endpoint)
        state = backend.state(server)
        tls = endpoint.host_name
        there = (*address, tls is not None)
        if state is not None and (state.address, state.port, state.is_tls) != there:
            await self.drain(model, endpoint.id)
            await self.remove(model, endpoint.id)
            state = None
        if state is None:
            extra = await self._tls(tls) if tls is not None else ""
            await self._add(backend.name, server, address, endpoint.weight, limit, extra)
        elif not differences(backend, server, endpoint.weight, limit):
            return
        await self._bring_up(backend.name, server, endpoint.weight, limit)
        after = await self._read(model)
        wrong = differences(after, server, endpoint.weight, limit)
        if wrong:
            raise self._not_done(after.name, server, "registered", wrong)
        log.info("server_registered", balancer=self._name, backend=backend.name, server=server)

    async def drain(self, model: ModelName, endpoint_id: str) -> None:
        """Send it nothing new; what waits in the backend's queue goes to other servers or to the activator."""
        server = self._server(endpoint_id)
        backend = await self._find(model)
        if backend is None:
            return
        state = backend.state(server)
        if state is None or not state.takes_requests:
            await self._free_stalled(backend)
            return
        said = await self._ask(f"set server {backend.name}/{server} state drain")
        await self._cure(backend.name)
        after = await self._read(model)
        state = after.state(server)
        if state is not None and state.takes_requests:
            raise self._not_done(
                after.name, server, "drained", f"it still takes requests; {said!r}"
            )
        await self._free_stalled(after)
        log.info("server_drained", balancer=self._name, backend=backend.name, server=server)

    async def remove(self, model: ModelName, endpoint_id: str, *, force: bool = False) -> None:
        """Forget the endpoint; unknown is no error. `force` cuts what is still in flight there.

        Raises:
            BalancerUnavailable: requests are in flight there, or HAProxy holds on to it.
        """
        server = self._server(endpoint_id)
        backend = await self._find(model)
        if backend is None or backend.state(server) is None:
            return
        busy = in_flight(backend.stat(server))
        if busy and not force:
            raise BalancerUnavailable(
                f"{self._name}: {backend.name}/{server} has {busy} requests in flight: drain it"
                " and wait for zero"
            )
        await self._ask(f"set server {backend.name}/{server} state maint")
        said = await self._delete_when_idle(backend.name, server, force=force)
        after = await self._read(model)
        if after.state(server) is not None:
            raise self._not_done(after.name, server, "removed", repr(said))
        await self._free_stalled(after)
        log.info("server_removed", balancer=self._name, backend=backend.name, server=server)

    async def drop_pool(self, model: ModelName) -> None:
        """Remove our servers of this model. The backend is the operator's; its activator then answers 404."""
        backend = await self._find(model)
        prefix = self._settings.server_prefix
        for state in backend.states if backend is not None else ():
            if state.server.startswith(prefix):
                await self.remove(model, state.server.removeprefix(prefix))
        self._pools.pop(model, None)

    async def close(self) -> None:
        """Nothing to close: each command has a connection of its own."""

    # what is there

    def _backend(self, model: ModelName) -> str:
        return self._settings.backend(model)

    def _server(self, endpoint_id: str) -> str:
        return server_name(f"{self._settings.server_prefix}{endpoint_id}")

    def _max_connections(self, model: ModelName, endpoint: Endpoint) -> int | None:
        pool = self._pools.get(model)
        return None if pool is not None and pool.queue_in_engine else max(1, endpoint.capacity)

    async def _ask(self, command: str, lines: str | None = None) -> str:
        settings = self._settings
        return await ask(settings.socket_path, command, settings.answer_time, lines=lines)

    async def _find(self, model: ModelName) -> Backend | None:
        settings, name = self._settings, self._backend(model)
        states = await show_servers_state(settings.socket_path, name, settings.answer_time)
        if states is None:
            return None
        stats = await show_stat(settings.socket_path, name, settings.answer_time)
        return Backend(name, tuple(stats), tuple(states))

    async def _read(self, model: ModelName) -> Backend:
        backend = await self._find(model)
        if backend is None:
            raise BalancerUnavailable(
                f"{self._name}: HAProxy at {self._settings.socket_path} has no backend for model"
                f" {model!r}: add to haproxy.cfg `backend {self._backend(model)}` with"
                f" {self._activator_lines()}, and reload"
            )
        return backend

    def _activator_lines(self) -> str:
        settings = self._settings
        return (
            f"`server {settings.activator} ADDRESS:PORT backup` and"
            f" `server {settings.activator_spare} ADDRESS:PORT backup` (the gateway's address)"
        )

    async def _incarnation(self) -> str:
        info = await show_info(self._settings.socket_path, self._settings.answer_time)
        started = int(datetime.now(UTC).timestamp()) - info.uptime_s
        known = self._started
        if known is None or known[0] != info.pid or abs(known[1] - started) > _START_SLACK_S:
            self._started = known = (info.pid, started)
        return f"{known[0]}@{known[1]}"

    async def _old_processes(self) -> int:
        path = self._settings.master_socket_path
        return 0 if path is None else await count_old_processes(path, self._settings.answer_time)

    def _at_activator(self, backend: Backend) -> int:
        names = (self._settings.activator, self._settings.activator_spare)
        return sum(in_flight(backend.stat(name)) for name in names)

    def _not_done(self, backend: str, server: str, verb: str, why: str) -> BalancerUnavailable:
        return BalancerUnavailable(
            f"{self._name}: {backend}/{server} is not {verb}, whatever HAProxy answered: {why}"
        )

    # what changes it

    async def _tls(self, host_name: str) -> str:
        """What `add server` must say of a server that speaks TLS; HAProxy then knows who vouches for it."""
        authority = self._settings.authority
        if authority is None:
            raise BalancerUnavailable(f"{self._name}: nobody vouches for {host_name}")
        await teach(self._ask, authority, self._name)
        return tls_words(authority, host_name)

    async def _add(
        self,
        backend: str,
        server: str,
        address: tuple[str, int],
        weight: int,
        limit: int | None,
        extra: str,
    ) -> None:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        interval_ms = max(1, round(self._settings.check_interval / timedelta(milliseconds=1)))
        # `default-server` does not reach servers added at run time: all is said here
        said = await self._ask(
            f"add server {backend}/{server} {host}:{address[1]} check inter {interval_ms}ms"
            f" fastinter {max(1, interval_ms // 5)}ms downinter {max(1, interval_ms // 2)}ms"
            f" rise 1 fall 3 weight {weight}"
            + (f" maxconn {limit}" if limit is not None else "")
            + extra
        )
        log.debug("server_added", balancer=self._name, server=server, said=said)

    async def _bring_up(self, backend: str, server: str, weight: int, limit: int | None) -> None:
        name = f"{backend}/{server}"
        await self._ask(f"enable health {name}")  # without it an added server is never checked
        await self._ask(f"set server {name} weight {weight}")
        await self._ask(f"set maxconn server {name} {limit or 0}")
        await self._ask(f"set server {name} state ready")

    async def _delete_when_idle(self, backend: str, server: str, *, force: bool) -> str:
        """Ask until HAProxy lets go: it keeps a server while a connection to it is open, even a pooled one."""
        said = ""
        deadline = asyncio.get_running_loop().time() + self._settings.removal_time.total_seconds()
        while asyncio.get_running_loop().time() < deadline:
            if force:
                await self._cut_sessions(backend, server)
            said = await self._ask(f"del server {backend}/{server}")
            if said.startswith(("Server deleted", "No such server")):
                return said
            await asyncio.sleep(_STEP.total_seconds())
        return said

    async def _cut_sessions(self, backend: str, server: str) -> None:
        settings = self._settings
        await self._ask(f"shutdown sessions server {backend}/{server}")
        for session in await sessions_on(
            settings.socket_path, backend, server, settings.answer_time
        ):
            await self._ask(f"shutdown session {session}")

    async def _assert_activator(self, backend: Backend) -> None:
        """See that both backups are there and, after a death amid the cure, take requests again."""
        for name in (self._settings.activator, self._settings.activator_spare):
            stat, state = backend.stat(name), backend.state(name)
            if stat is None or state is None or not stat.is_backup:
                raise BalancerUnavailable(
                    f"{self._name}: backend {backend.name!r} has no backup server {name!r}: add to"
                    f" haproxy.cfg {self._activator_lines()}, and reload"
                )
            if not state.takes_requests:
                await self._ask(f"set server {backend.name}/{name} state ready")

    async def _free_stalled(self, backend: Backend) -> None:
        if backend.queued and not backend.is_served:
            log.info("stalled_queue_freed", backend=backend.name, queued=backend.queued)
            await self._cure(backend.name)

    async def _cure(self, backend: str) -> None:
        """Make the activator take over the backend's queue if it is the only one left.

        Both commands go as one line, so that no death of ours leaves the activator in maintenance.
        """
        name = f"{backend}/{self._settings.activator}"
        await self._ask(f"set server {name} state maint; set server {name} state ready")
