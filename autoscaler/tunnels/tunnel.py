"""One tunnel: a local port that takes connections for exactly as long as the node's port can be reached."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from autoscaler.tunnels.backoff import Backoff
from autoscaler.tunnels.link import Link, Spawn
from autoscaler.tunnels.local_port import LocalPort, PortTaken
from autoscaler.tunnels.relay import Relay
from autoscaler.tunnels.values import TunnelSpec, TunnelsSettings, TunnelState

log = structlog.get_logger(__name__)

_PROBE_MAX_S = 2.0  # while a server loads its weights: what is lost when it is ready


@dataclass(frozen=True, slots=True)
class TunnelReport:
    """How a tunnel stands.

    Attributes:
        why: why connections are refused; empty while they are taken.
        streams: connections open through it.
    """

    spec: TunnelSpec
    local_port: int
    state: TunnelState
    why: str
    streams: int


class Tunnel:
    """Relays what comes to `port`."""

    def __init__(
        self,
        spec: TunnelSpec,
        port: LocalPort,
        link: Link,
        settings: TunnelsSettings,
        spawn: Spawn,
    ) -> None:
        self.spec = spec
        self.link = link
        self._port = port
        self._settings = settings
        self._spawn = spawn
        self._streams: set[Relay] = set()
        self._news = asyncio.Event()
        self._why = ""  # of the node's port, while SSH stands
        self._is_ending = False
        link.watchers.append(self._link_changed)

    @property
    def local_port(self) -> int:
        return self._port.number

    @property
    def streams(self) -> int:
        return len(self._streams)

    def report(self) -> TunnelReport:
        state, why = TunnelState.DOWN, self._why
        if self._port.is_listening:
            state, why = TunnelState.UP, ""
        elif not self.link.is_up:
            state, why = TunnelState.CONNECTING, self.link.why
        elif not why:
            state, why = TunnelState.CONNECTING, "SSH stands, the node's port is being tried"
        return TunnelReport(self.spec, self.local_port, state, why, self.streams)

    async def run(self) -> None:
        """Take connections while they lead somewhere, refuse them while they do not, until cancelled."""
        backoff = Backoff(_PROBE_MAX_S)
        while True:
            self._news.clear()
            if not self.link.is_up:
                backoff.reset()
                await self._news.wait()
                continue
            failure = await self.link.probe(self.spec.remote_port)
            if failure is None and not self._is_ending:
                failure = await self._listen()
            if self._news.is_set():
                self._port.refuse()  # what was seen is no longer so
                continue
            if failure is None and not self._is_ending:
                log.info("tunnel_up", tunnel=self.spec.id, local_port=self.local_port)
                backoff.reset()
                await self._news.wait()
                continue
            self._refuse(failure or "the process is ending")
            await self._quiet_for(backoff.pause_s())

    async def _listen(self) -> str | None:
        try:
            await self._port.listen(lambda: Relay(self._taken, self._streams.discard))
        except PortTaken as exc:
            return str(exc)
        return None

    def end(self) -> None:
        """Take no new connection, ever; those that are open go on."""
        self._is_ending = True
        self._refuse("the process is ending")
        self._news.set()

    def close(self) -> None:
        """Give the port back and cut what is open."""
        self.link.watchers.remove(self._link_changed)
        self._port.close()
        for stream in tuple(self._streams):
            stream.abort()

    def _link_changed(self) -> None:
        self._port.refuse()
        self._why = ""
        self._news.set()

    def _refuse(self, why: str) -> None:
        self._port.refuse()
        if why != self._why:
            log.warning("tunnel_down", tunnel=self.spec.id, why=why)
            self._why = why

    async def _quiet_for(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    # streams

    def _taken(self, stream: Relay) -> None:
        self._streams.add(stream)
        if len(self._streams) > self._settings.max_streams:
            log.warning("stream_refused", tunnel=self.spec.id, streams=self._settings.max_streams)
            stream.abort()
            return
        self._spawn(self._lead_on(stream))
        asyncio.get_running_loop().call_later(
            self._settings.open_timeout_s, self._give_up_unopened, stream
        )

    async def _lead_on(self, stream: Relay) -> None:
        """Open the channel for a client. Never cancelled by the client's going: see `Link.open`."""
        try:
            failure = await self.link.open(self.spec.remote_port, stream.node)
        except Exception:
            # one stream's trouble may not end the others'
            log.exception("stream_not_opened", tunnel=self.spec.id)
            failure = "opening a way to the node failed"
        if failure is not None:
            stream.abort()
            self._doubt(failure)

    def _give_up_unopened(self, stream: Relay) -> None:
        if not stream.node.is_opened and not stream.is_gone:
            stream.abort()
            self._doubt(f"the node opened no way within {self._settings.open_timeout_s:g} s")

    def _doubt(self, why: str) -> None:
        """A client met a dead end: refuse the others before they send anything, until a probe gets through."""
        if self._port.is_listening:
            self._refuse(why)
            self._news.set()
