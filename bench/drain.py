"""Scale-ins through a real HAProxy under load: how many requests fail. The only good figure is 0.

Several models share one HAProxy (the configuration of `deploy/`) and one gateway as activator, as in production. On
each model several servers live side by side, each one life after the other: it starts, is registered with both
balancers, serves a few seconds, is drained, and is killed at once when both say that nothing is in flight, so that a
request forgotten there is cut and counted. Clients on kept connections ask all the time, most for answers that stream
for 10 s and longer. Capacities are small, so requests queue in HAProxy; at times a model has no server, and its
requests wait in the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp
import structlog
import uvloop
from aiohttp import web

from autoscaler.balance.gateway import GatewayBalancer
from autoscaler.balance.haproxy import HaproxyBalancer, HaproxySettings
from autoscaler.balance.protocol import Balancer, Pool, PoolReport, ServerState
from autoscaler.domain.ids import ModelName, slug
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable
from tests.world.files import free_ports
from tests.world.haproxy import MASTER, SOCKET, write_for_models

SCALE_INS = 200
MODELS = tuple(ModelName(f"bench/Model-{letter}") for letter in "ABCD")
LIVES_AT_ONCE = 8  # per model
STREAMING_CLIENTS = 20  # per model
SHORT_CLIENTS = 3  # per model
CAPACITY = 8
ANSWER_S = (10.0, 13.0)
SERVING_S = (2.0, 7.0)
EVENT_GAP_S = 0.25
SAMPLES_APART_S = 2.0  # between the two readings of zero in flight
LOOK_S = 0.2


@dataclass
class Server:
    """An emulated engine: streams events at a steady pace, and dies without regard when told."""

    in_flight: int = 0
    served: int = 0
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/completions", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def kill(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        events = int((await request.json())["events"])
        self.in_flight += 1
        self.served += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for number in range(events):
                await response.write(b'data: {"token": %d}\n\n' % number)
                await asyncio.sleep(EVENT_GAP_S)
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
            return response
        finally:
            self.in_flight -= 1


@dataclass
class Tally:
    """What came of it."""

    whole: int = 0
    long: int = 0  # whole answers that streamed for 10 s and longer
    failed: Counter[str] = field(default_factory=Counter)
    scale_ins: int = 0
    drained_busy: int = 0  # drains with requests in flight
    drained_last: int = 0  # drains that left a model without a server
    freed: int = 0  # requests that waited at such a moment
    drain_s: list[float] = field(default_factory=list)


@dataclass
class Bench:
    """The parts of one run."""

    haproxy: HaproxyBalancer
    gateway: GatewayBalancer
    url: str
    wanted: int
    tally: Tally = field(default_factory=Tally)
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    lives: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def balancers(self) -> tuple[Balancer, Balancer]:
        return self.gateway, self.haproxy

    async def run(self) -> None:
        for model in MODELS:
            for balancer in self.balancers:
                await balancer.ensure_pool(Pool(model))
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as clients,
        ):
            for model in MODELS:
                for _ in range(STREAMING_CLIENTS):
                    clients.create_task(self._keep_asking(session, model, is_long=True))
                for _ in range(SHORT_CLIENTS):
                    clients.create_task(self._keep_asking(session, model, is_long=False))
            async with asyncio.TaskGroup() as scaling:
                scaling.create_task(self._show())
                for model in MODELS:
                    scaling.create_task(self._serve_what_is_left(model))
                async with asyncio.TaskGroup() as lives:
                    for model in MODELS:
                        for _ in range(LIVES_AT_ONCE):
                            lives.create_task(self._live_again_and_again(model))
                self.is_over.set()

    async def _keep_asking(
        self, session: aiohttp.ClientSession, model: ModelName, *, is_long: bool
    ) -> None:
        await asyncio.sleep(self.dice.uniform(0, 5))
        while not self.is_over.is_set():
            seconds = self.dice.uniform(*ANSWER_S) if is_long else EVENT_GAP_S
            events = max(1, round(seconds / EVENT_GAP_S))
            failure = await self._ask(session, model, events)
            if failure is None:
                self.tally.whole += 1
                self.tally.long += is_long
            else:
                self.tally.failed[failure] += 1

    async def _ask(
        self, session: aiohttp.ClientSession, model: ModelName, events: int
    ) -> str | None:
        """Ask once; None when the whole answer came, else what went wrong."""
        try:
            body = {"model": model, "events": events}
            async with session.post(f"{self.url}/v1/completions", json=body) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as exc:
            return type(exc).__name__
        if answer.status != 200:
            return f"HTTP {answer.status}"
        is_whole = text.count('{"token"') == events and text.endswith("data: [DONE]\n\n")
        return None if is_whole else "cut short"

    async def _live_again_and_again(self, model: ModelName) -> None:
        await asyncio.sleep(self.dice.uniform(0, 10))
        while self.lives < self.wanted:
            self.lives += 1
            await self._live(model, self.lives)

    async def _live(self, model: ModelName, number: int) -> None:
        """One server's life, its end a scale-in."""
        async with self._registered(model, f"node{number}") as (server, endpoint):
            await asyncio.sleep(self.dice.uniform(*SERVING_S))
            started = time.monotonic()
            for balancer in self.balancers:
                await balancer.drain(model, endpoint.id)
            await self._note_drain(model, server)
            await self._until_idle(model, server, endpoint)
            for balancer in self.balancers:
                await self._remove(balancer, model, endpoint)
            self.tally.drain_s.append(time.monotonic() - started)
            self.tally.scale_ins += 1

    @contextlib.asynccontextmanager
    async def _registered(
        self, model: ModelName, name: str, capacity: int = CAPACITY
    ) -> AsyncIterator[tuple[Server, Endpoint]]:
        """Start a server and put it behind both balancers; it is killed on leaving."""
        server = Server()
        await server.start()
        try:
            endpoint = Endpoint(f"bench-{name}", server.url, capacity, 100)
            for balancer in self.balancers:
                await balancer.register(model, endpoint)
            await self._until(self.haproxy, model, lambda report: _is_up(report, endpoint))
            yield server, endpoint
        finally:
            await server.kill()

    async def _serve_what_is_left(self, model: ModelName) -> None:
        """Serve what still waits when the last life has ended."""
        await self.is_over.wait()
        async with self._registered(model, f"after-{slug(model)}", 10 * CAPACITY):
            await self._until(self.haproxy, model, _is_quiet)
            await self._until(self.gateway, model, _is_quiet)

    async def _note_drain(self, model: ModelName, server: Server) -> None:
        report = await self.haproxy.report(model)
        self.tally.drained_busy += server.in_flight > 0
        if not any(other.state is ServerState.UP for other in report.servers):
            self.tally.drained_last += 1
            self.tally.freed += report.waiting

    async def _until_idle(self, model: ModelName, server: Server, endpoint: Endpoint) -> None:
        """Wait as the daemon does: settled, then zero at both balancers and the engine, twice."""
        await asyncio.sleep(max(b.settle_time.total_seconds() for b in self.balancers))
        zeros = 0
        while zeros < 2:
            busy = server.in_flight
            for balancer in self.balancers:
                found = (await balancer.report(model)).server(endpoint.id)
                assert found is not None, f"{balancer.name} forgot {endpoint.id}"
                assert found.state is ServerState.DRAINING, f"{balancer.name} did not drain"
                busy += found.in_flight + found.queued
            zeros = 0 if busy else zeros + 1
            await asyncio.sleep(LOOK_S if busy else SAMPLES_APART_S)

    async def _remove(self, balancer: Balancer, model: ModelName, endpoint: Endpoint) -> None:
        await balancer.remove(model, endpoint.id)
        assert (await balancer.report(model)).server(endpoint.id) is None

    async def _until(
        self, balancer: Balancer, model: ModelName, is_so: Callable[[PoolReport], bool]
    ) -> None:
        async with asyncio.timeout(60):
            while not is_so(await balancer.report(model)):  # noqa: ASYNC110 -- asked over a socket
                await asyncio.sleep(LOOK_S)

    async def _show(self) -> None:
        started = time.monotonic()
        while not self.is_over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(15):
                    await self.is_over.wait()
            tally = self.tally
            print(
                f"{time.monotonic() - started:5.0f} s  {tally.scale_ins:4} scale-ins"
                f"  {tally.whole:6} answers whole  {sum(tally.failed.values())} failed",
                flush=True,
            )


def _is_up(report: PoolReport, endpoint: Endpoint) -> bool:
    found = report.server(endpoint.id)
    return found is not None and found.state is ServerState.UP


def _is_quiet(report: PoolReport) -> bool:
    return report.waiting == 0 and all(server.in_flight == 0 for server in report.servers)


def main(scale_ins: int = SCALE_INS) -> int:
    """Run, and print the failed requests. Non-zero unless there are none.

    Args:
        scale_ins: how many; 200 take about 3 minutes, 20 half a minute.
    """
    binary = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if binary is None:
        print("haproxy is missing: apt-get install haproxy", file=sys.stderr)
        return 1
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a client that left is counted
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    print(
        f"{scale_ins} scale-ins through HAProxy: {len(MODELS)} models, {LIVES_AT_ONCE} servers each at"
        f" most, {len(MODELS) * STREAMING_CLIENTS} clients whose answers stream"
        f" {ANSWER_S[0]:g} to {ANSWER_S[1]:g} s, {len(MODELS) * SHORT_CLIENTS} with short ones"
    )
    with (
        tempfile.TemporaryDirectory(prefix="drain-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        tally = runner.run(_measure(binary, Path(folder), scale_ins))
    return _print(tally)


async def _measure(binary: str, folder: Path, scale_ins: int) -> Tally:
    front, inner, metrics = free_ports(3)
    control, stats, master = folder / "gateway.sock", folder / SOCKET, folder / MASTER
    config = write_for_models(folder, MODELS, front=front, inner=inner, metrics=metrics)
    gateway = (
        *(sys.executable, "-m", "autoscaler.gateway", "--listen", f"127.0.0.1:{inner}"),
        *("--control", str(control), "--drain-timeout", "1"),
    )
    async with (
        _process((binary, "-W", "-S", str(master), "-f", str(config))),
        _process(gateway),
    ):
        haproxy = HaproxyBalancer(
            HaproxySettings(stats, master, check_interval=timedelta(seconds=0.5))
        )
        bench = Bench(haproxy, GatewayBalancer(control), f"http://127.0.0.1:{front}", scale_ins)
        try:
            for balancer in bench.balancers:
                await _answers(balancer)
            await bench.run()
        finally:
            await bench.gateway.close()
    return bench.tally


@contextlib.asynccontextmanager
async def _process(argv: Sequence[str]) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _answers(balancer: Balancer) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(BalancerUnavailable):
                await balancer.report(MODELS[0])
                return
            await asyncio.sleep(0.05)


def _print(tally: Tally) -> int:
    failed = sum(tally.failed.values())
    drains = sorted(tally.drain_s)
    facts = {
        "bench": "drain",
        "scale_ins": tally.scale_ins,
        "answers_whole": tally.whole,
        "answers_of_10_s_and_longer": tally.long,
        "drains_with_requests_in_flight": tally.drained_busy,
        "drains_of_a_models_last_server": tally.drained_last,
        "requests_waiting_at_those": tally.freed,
        "drain_s_p50": round(statistics.median(drains), 1),
        "drain_s_max": round(drains[-1], 1),
        "failed_requests": failed,
        "failures": dict(tally.failed),
    }
    for name, value in facts.items():
        print(f"  {name.replace('_', ' '):34} {value}")
    print(json.dumps(facts))
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale-ins", type=int, default=SCALE_INS)
    sys.exit(main(parser.parse_args().scale_ins))
