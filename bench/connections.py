"""10,000 idle clients at the gateway's front door, plain and with TLS: what each costs, and what the next one meets.

Each client asks once and keeps its connection. The bound is 10,000, or what the open files of this machine allow. One
more is served, in the place of the one that has been silent longest, and a request on a connection that is there is
answered as before.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.gateway.front_parts import write_pair

WANTED = 10_000
PROBES = 200
_ASK = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
_AT_ONCE = 200

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def main() -> int:
    """Print a line for each way; non-zero when the bound does not hold or a request fails."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bound = min(WANTED, (hard - 256) // 2)
    print(f"{'':6} {'clients':>8} {'RSS each':>9} {'idle before':>12} {'with them':>10}  one more")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair = write_pair(folder / "tls")
        trust = ssl.create_default_context(cafile=str(pair / "fullchain.pem"))
        held = [
            asyncio.run(_measure("plain", folder, bound, (), None)),
            asyncio.run(_measure("TLS", folder, bound, ("--tls", str(pair)), trust)),
        ]
    return 0 if all(held) else 1


async def _measure(
    label: str, folder: Path, bound: int, options: tuple[str, ...], trust: ssl.SSLContext | None
) -> bool:
    with _gateway(folder, bound, options) as (process, port):
        mine = await _connect(port, trust)
        empty_kib, before_ms = _rss_kib(process.pid), await _typical_ms(mine)
        idle: list[Client] = []
        while len(idle) < bound - 1:
            wave = min(_AT_ONCE, bound - 1 - len(idle))
            idle += await asyncio.gather(*(_connect(port, trust) for _ in range(wave)))
        each_kib = (_rss_kib(process.pid) - empty_kib) / len(idle)
        after_ms = await _typical_ms(mine)
        next_one = await _one_more(port, trust)
        for _, writer in (mine, *idle):
            writer.transport.abort()
    print(
        f"{label:6} {len(idle) + 1:8} {each_kib:6.1f} KiB {before_ms:9.2f} ms {after_ms:7.2f} ms  {next_one}"
    )
    figures = {"clients": len(idle) + 1, "kib_each": each_kib, "idle_before_ms": before_ms}
    line = {"bench": "connections", "way": label, **figures, "with_them_ms": after_ms}
    print(json.dumps(line | {"one_more": next_one}))
    return next_one == "200"


@contextmanager
def _gateway(
    folder: Path, bound: int, options: tuple[str, ...]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    process = subprocess.Popen(
        (
            *(sys.executable, "-m", "autoscaler.gateway", "--listen", "127.0.0.1:0"),
            *("--control", str(folder / "control.sock"), "--max-connections", str(bound), *options),
        ),
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        listening = process.stderr.readline().decode()
        yield process, int(listening.partition('"port": ')[2].partition(",")[0])
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


async def _connect(port: int, trust: ssl.SSLContext | None) -> Client:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    await _ask((reader, writer))
    return reader, writer


async def _ask(client: Client) -> None:
    reader, writer = client
    writer.write(_ASK)
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(3)


async def _typical_ms(client: Client) -> float:
    took = []
    for _ in range(PROBES):
        began = time.perf_counter()
        await _ask(client)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


async def _one_more(port: int, trust: ssl.SSLContext | None) -> str:
    """Say what a client beyond the bound meets: a status, or the end of its connection."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        writer.write(_ASK)
        answer = await reader.read(100)
        writer.close()
    except OSError:
        return "closed"
    return answer.split()[1].decode() if answer else "closed"


def _rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


if __name__ == "__main__":
    sys.exit(main())
