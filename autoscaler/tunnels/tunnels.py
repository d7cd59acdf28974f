"""All tunnels of this process: put, removed, listed; those to one node share its SSH connection."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import asyncssh
import structlog

from autoscaler.tunnels.link import Link
from autoscaler.tunnels.local_port import HOST, LocalPort, PortTaken
from autoscaler.tunnels.tunnel import Tunnel, TunnelReport
from autoscaler.tunnels.values import Login, TunnelSpec, TunnelsSettings

log = structlog.get_logger(__name__)

_PAUSE_S = 5.0  # before a broken part begins anew


class NoPortLeft(Exception):
    """Every port of the range is a tunnel's already, or somebody else's."""


class OtherSpec(Exception):
    """The id is that of a tunnel to elsewhere."""


@dataclass(slots=True)
class _Kept:
    """A link with the number of tunnels that use it."""

    link: Link
    task: asyncio.Task[None]
    users: int = 0


class Tunnels:
    """Owns tunnels, links and their tasks.

    Attributes:
        boot_id: another one after each start of the process.
        generation: grows with each change that outlives the process.
    """

    def __init__(
        self, settings: TunnelsSettings, key: asyncssh.SSHKey, tasks: asyncio.TaskGroup
    ) -> None:
        self.boot_id = secrets.token_hex(8)
        self.generation = 0
        self._settings = settings
        self._key = key
        self._tasks = tasks
        self._open: dict[str, tuple[Tunnel, asyncio.Task[None]]] = {}
        self._links: dict[Login, _Kept] = {}
        self._next_port = settings.first_port

    def put(self, spec: TunnelSpec, local_port: int | None = None) -> Tunnel:
        """Have this tunnel; the one that there is stays as it is.

        Args:
            local_port: the port that it had; another is taken where this one cannot be had.

        Raises:
            OtherSpec: its id leads elsewhere; remove that one first.
            NoPortLeft: there is no local port for it.
        """
        known = self._open.get(spec.id)
        if known is not None:
            if known[0].spec != spec:
                raise OtherSpec(f"tunnel {spec.id!r} leads to {_place(known[0].spec)}")
            return known[0]
        port = self._take_port(local_port)
        kept = self._link(spec.login)
        kept.users += 1
        tunnel = Tunnel(spec, port, kept.link, self._settings, self._tasks.create_task)
        task = self._tasks.create_task(_for_ever(tunnel.run), name=f"tunnel {spec.id}")
        self._open[spec.id] = (tunnel, task)
        self.generation += 1
        log.info("tunnel_put", tunnel=spec.id, local_port=port.number, to=_place(spec))
        return tunnel

    def remove(self, tunnel_id: str) -> int:
        """Have it no more; how many open streams that cut. Unknown is no error."""
        known = self._open.pop(tunnel_id, None)
        if known is None:
            return 0
        tunnel, task = known
        task.cancel()
        cut = tunnel.streams
        tunnel.close()
        kept = self._links[tunnel.spec.login]
        kept.users -= 1
        if not kept.users:
            del self._links[tunnel.spec.login]
            kept.task.cancel()
        self.generation += 1
        log.info("tunnel_removed", tunnel=tunnel_id, cut=cut)
        return cut

    def report(self) -> list[TunnelReport]:
        """How each stands, by id."""
        return [self._open[tunnel_id][0].report() for tunnel_id in sorted(self._open)]

    @property
    def streams(self) -> int:
        return sum(tunnel.streams for tunnel in self)

    def __iter__(self) -> Iterator[Tunnel]:
        return iter([tunnel for tunnel, _ in self._open.values()])

    def end(self) -> None:
        """Refuse new connections everywhere; those that are open go on."""
        for tunnel in self:
            tunnel.end()

    def close(self) -> None:
        """Cut what is open and give the ports back; what was put is not forgotten on disk."""
        for tunnel, task in self._open.values():
            task.cancel()
            tunnel.close()
        for kept in self._links.values():
            kept.task.cancel()
        self._open.clear()
        self._links.clear()

    def _link(self, login: Login) -> _Kept:
        kept = self._links.get(login)
        if kept is None:
            link = Link(login, self._key, self._settings, self._tasks.create_task)
            task = self._tasks.create_task(_for_ever(link.run), name=f"link {login.address}")
            kept = self._links[login] = _Kept(link, task)
        return kept

    def _take_port(self, wanted: int | None) -> LocalPort:
        first, last = self._settings.first_port, self._settings.last_port
        ours = {tunnel.local_port for tunnel in self}
        if wanted is not None and first <= wanted <= last and wanted not in ours:
            try:
                return LocalPort(wanted)
            except PortTaken as exc:
                log.warning("local_port_lost", why=str(exc))
        # round and round: a port that was given back is the last to be given again
        for step in range(last - first + 1):
            number = first + (self._next_port - first + step) % (last - first + 1)
            if number in ours:
                continue
            try:
                port = LocalPort(number)
            except PortTaken:
                continue
            self._next_port = number + 1
            return port
        raise NoPortLeft(
            f"no port is free on {HOST} from {first} to {last}: give more with --ports"
        )


async def _for_ever(run: Callable[[], Awaitable[None]]) -> None:
    """Run what never ends. One that breaks is logged and begins anew, and the others go on."""
    while True:
        try:
            await run()
        except Exception:
            log.exception("tunnel_part_broken")
            await asyncio.sleep(_PAUSE_S)


def _place(spec: TunnelSpec) -> str:
    return f"{spec.login.user}@{spec.login.address}:{spec.login.port} port {spec.remote_port}"
