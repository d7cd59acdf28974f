"""The gateway against going direct and against HAProxy, in one run, with streaming answers.

A stub engine streams events; closed-loop clients on kept-alive connections ask for them through each way in turn.
Two loads: *paced*, an event each 20 ms, shows the latency that a way adds; *burst*, events as fast as they go, shows
its throughput. All processes share this machine's cores, so only the ratios mean anything. HAProxy has `option
http-no-delay`: without it each event that stands alone arrives 200 ms late.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import aiohttp
import orjson
import uvloop

CONCURRENCY = (1, 32, 256)
RUN_S = 2.0
WARM_UP_S = 0.3
EVENTS = 25
PACED_MS = 20.0
_EVENT = (
    b'data: {"id":"cmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":'
    b'[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_DONE = b"data: [DONE]\n\n"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_HAPROXY = """\
global
 maxconn 4096
defaults
 mode http
 option http-no-delay
 option redispatch 1
 retries 2
 retry-on conn-failure
 timeout connect 2s
 timeout client 10m
 timeout server 10m
 timeout queue 60s
frontend models
 bind 127.0.0.1:{port}
 default_backend m
backend m
 balance leastconn
 server n1 127.0.0.1:{stub} maxconn 1000
"""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the stub: the port to ask at, and the process that serves it."""

    name: str
    port: int
    pid: int

    def cpu_s(self) -> float:
        """Read the processor time that the process has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Stub(asyncio.Protocol):
    """An engine that streams as the body asks: `events` of them, `gap_ms` apart."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._left = 0
        self._gap_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, gap, body = self._received.partition(b"\r\n\r\n")
        if not gap:
            return
        at = head.lower().index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._received = b""
        asked = orjson.loads(body)
        self._left = int(asked["events"])
        self._gap_s = float(asked["gap_ms"]) / 1000
        self._send(_HEAD + _chunk(_EVENT))
        self._next()

    def _next(self) -> None:
        if self._gap_s:
            self._loop.call_later(self._gap_s, self._event)
        else:
            self._loop.call_soon(self._event)

    def _event(self) -> None:
        self._left -= 1
        if self._left > 0:
            self._send(_chunk(_EVENT))
            self._next()
        else:
            self._send(_chunk(_DONE) + b"0\r\n\r\n")

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


@dataclass(slots=True)
class Outcome:
    """What one load saw."""

    answers: int = 0
    failures: int = 0
    events: int = 0
    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)

    def quantile_ms(self, values: list[float], q: float) -> float:
        ordered = sorted(values) or [0.0]
        return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class _Client(asyncio.Protocol):
    """One closed-loop client: asks again as soon as it is answered, until `ends`."""

    def __init__(self, request: bytes, outcome: Outcome, begins: float, ends: float) -> None:
        self._request = request
        self._outcome = outcome
        self._begins = begins
        self._ends = ends
        self._sent = 0.0
        self._first = 0.0
        self._tail = b""
        self._whole = False
        self._events = 0
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._first = 0.0
        self._whole = False
        self._events = 0
        self._tail = b""
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        events = data.count(b"data: {")
        if events and not self._first:
            self._first = time.perf_counter()
        self._events += events
        if self._begins <= time.perf_counter() < self._ends:
            self._outcome.events += events
        self._whole = self._whole or b"[DONE]" in data
        self._tail = (self._tail + data)[-5:]
        if self._tail != b"0\r\n\r\n":
            return
        now = time.perf_counter()
        if self._sent >= self._begins:
            self._note(now)
        if now >= self._ends:
            assert self._transport is not None
            self._transport.close()
        else:
            self._ask()

    def _note(self, now: float) -> None:
        outcome = self._outcome
        if not self._whole or self._events != EVENTS:
            outcome.failures += 1
            return
        outcome.answers += 1
        outcome.first_s.append(self._first - self._sent)
        outcome.whole_s.append(now - self._sent)

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self._ends:
            self._outcome.failures += 1
        if not self.closed.done():
            self.closed.set_result(None)


async def load(port: int, concurrency: int, gap_ms: float) -> Outcome:
    """Ask for `RUN_S` seconds with so many clients at a time."""
    body = orjson.dumps(
        {
            "model": "bench",
            "stream": True,
            "events": EVENTS,
            "gap_ms": gap_ms,
            "messages": [{"role": "user", "content": "x" * 400}],
        }
    )
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    loop = asyncio.get_running_loop()
    outcome = Outcome()
    begins = time.perf_counter() + WARM_UP_S
    ends = begins + RUN_S
    clients = [
        (
            await loop.create_connection(
                lambda: _Client(request, outcome, begins, ends), "127.0.0.1", port
            )
        )[1]
        for _ in range(concurrency)
    ]
    async with asyncio.timeout(RUN_S + 60):
        await asyncio.gather(*(client.closed for client in clients))
    return outcome


def main() -> int:
    """Run all loads over all ways; print a table and JSON lines. Non-zero when an answer failed."""
    if shutil.which("haproxy") is None:
        print("haproxy is missing: apt-get install haproxy", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ways = stack.enter_context(_ways(Path(folder)))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(ways))


async def _measure(ways: Sequence[Way]) -> int:
    print("gateway against direct and HAProxy: streaming, closed loop, all on this machine's cores")
    print(f"{'load':6} {'clients':>7}  {'way':8} {'events/s':>9} {'× direct':>8}", end="")
    print(
        f" {'ttft p50':>9} {'p99 ms':>7} {'added p50':>10} {'p99 ms':>7} {'cpu µs/ev':>9} {'failed':>6}"
    )
    lines: list[str] = []
    failures = 0
    for name, gap_ms in (("paced", PACED_MS), ("burst", 0.0)):
        for concurrency in CONCURRENCY:
            direct: dict[str, float] | None = None
            for way in ways:
                before = way.cpu_s()
                outcome = await load(way.port, concurrency, gap_ms)
                failures += outcome.failures
                row = _row(outcome, way.cpu_s() - before)
                direct = direct or row
                ratios = {
                    "throughput_ratio": row["events_per_s"] / (direct["events_per_s"] or 1.0),
                    "added_ttft_p50_ms": row["ttft_p50_ms"] - direct["ttft_p50_ms"],
                    "added_ttft_p99_ms": row["ttft_p99_ms"] - direct["ttft_p99_ms"],
                }
                fact = {"bench": "gateway", "load": name, "clients": concurrency, "way": way.name}
                _print_row(name, concurrency, way.name, row, ratios)
                lines.append(json.dumps(fact | _rounded(row) | _rounded(ratios)))
    print("\n".join(lines))
    return 1 if failures else 0


def _row(outcome: Outcome, cpu_s: float) -> dict[str, float]:
    return {
        "events_per_s": outcome.events / RUN_S,
        "cpu_us_per_event": cpu_s * 1e6 / (outcome.answers * EVENTS or 1),
        "ttft_p50_ms": outcome.quantile_ms(outcome.first_s, 0.5),
        "ttft_p99_ms": outcome.quantile_ms(outcome.first_s, 0.99),
        "whole_p50_ms": outcome.quantile_ms(outcome.whole_s, 0.5),
        "whole_p99_ms": outcome.quantile_ms(outcome.whole_s, 0.99),
        "failed": outcome.failures,
    }


def _print_row(
    load_name: str, clients: int, way: str, row: dict[str, float], ratios: dict[str, float]
) -> None:
    print(
        f"{load_name:6} {clients:7}  {way:8} {row['events_per_s']:9.0f}"
        f" {ratios['throughput_ratio']:8.2f} {row['ttft_p50_ms']:9.2f} {row['ttft_p99_ms']:7.2f}"
        f" {ratios['added_ttft_p50_ms']:10.2f} {ratios['added_ttft_p99_ms']:7.2f}"
        f" {row['cpu_us_per_event']:9.1f} {row['failed']:6.0f}",
        flush=True,
    )


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


@contextlib.contextmanager
def _ways(folder: Path) -> Iterator[Sequence[Way]]:
    """Start the stub, the gateway and HAProxy; give the port of each way; stop them all."""
    stub, front, proxy = _free_port(), _free_port(), _free_port()
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=proxy, stub=stub))
    control = folder / "control.sock"
    python = sys.executable
    front_command = [python, "-m", "autoscaler.gateway"]
    commands = (
        [python, "-m", "bench.gateway", "stub", str(stub)],
        [*front_command, "--listen", f"127.0.0.1:{front}", "--control", str(control)],
        ["haproxy", "-db", "-q", "-f", str(config)],
    )
    processes: list[subprocess.Popen[bytes]] = []
    silent = subprocess.DEVNULL
    try:
        processes.extend(subprocess.Popen(c, stdout=silent, stderr=silent) for c in commands)
        for port in (stub, front, proxy):
            _await_port(port)
        asyncio.run(_add_endpoint(control, stub))
        yield [
            Way("direct", stub, processes[0].pid),
            Way("gateway", front, processes[1].pid),
            Way("haproxy", proxy, processes[2].pid),
        ]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _add_endpoint(control: Path, stub: int) -> None:
    connector = aiohttp.UnixConnector(str(control))
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:
        pool = {"model": "bench"}
        endpoint = {"model": "bench", "id": "n1", "url": f"http://127.0.0.1:{stub}"}
        async with session.post("http://gateway/v1/pools/put", json=pool):
            pass
        async with session.post("http://gateway/v1/endpoints/add", json=endpoint):
            pass


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


async def _serve_stub(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Stub, "127.0.0.1", port, backlog=2048)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["stub"]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as stub_runner:
            stub_runner.run(_serve_stub(int(sys.argv[2])))
    else:
        sys.exit(main())
