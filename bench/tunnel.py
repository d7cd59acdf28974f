"""Tunnels against going direct and against OpenSSH's own, in one run, with streaming answers.

The stub engine and the clients are those of the gateway's benchmark. Each way is asked in turn: the engine's port
itself; a port of `autoscaler tunnels`, over OpenSSH's server on this machine; and a port of `ssh -L`, over the same
server, which is what one would have without us. All processes share this machine's cores, so only the ratios mean
anything; a round trip to a rented machine comes on top for every way alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncssh
import uvloop

from autoscaler.nodes.tunnel_client import TunnelClient, TunnelWish
from bench.gateway import EVENTS, PACED_MS, RUN_S, Outcome, Way, load

CONCURRENCY = (1, 32)
HERE = "127.0.0.1"
_START_S = 30.0
_PORTS = 8


def main() -> int:
    """Run both loads over all ways; print a table and JSON lines. Non-zero when an answer failed."""
    for program in ("sshd", "ssh"):
        if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
            print(
                f"{program} is missing: apt-get install openssh-server openssh-client",
                file=sys.stderr,
            )
            return 1
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as stack:
        ways = stack.enter_context(_ways(Path(folder)))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(ways))


async def _measure(ways: Sequence[Way]) -> int:
    print(
        f"{'load':6} {'clients':>7}  {'way':8} {'events/s':>9} {'× direct':>8} {'ttft p50':>9} {'p99 ms':>7}"
        f" {'added p50':>10} {'p99 ms':>7} {'cpu µs/ev':>9} {'failed':>6}"
    )
    lines: list[str] = []
    failures = 0
    for name, gap_ms in (("paced", PACED_MS), ("burst", 0.0)):
        for clients in CONCURRENCY:
            direct: dict[str, float] = {}
            for way in ways:
                before = way.cpu_s()
                outcome = await load(way.port, clients, gap_ms)
                failures += outcome.failures
                row = _row(outcome, way.cpu_s() - before, direct)
                direct = direct or row
                print(
                    f"{name:6} {clients:7}  {way.name:8} {row['events_per_s']:9.0f} {row['throughput_ratio']:8.2f}"
                    f" {row['ttft_p50_ms']:9.2f} {row['ttft_p99_ms']:7.2f} {row['added_ttft_p50_ms']:10.2f}"
                    f" {row['added_ttft_p99_ms']:7.2f} {row['cpu_us_per_event']:9.1f} {row['failed']:6.0f}",
                    flush=True,
                )
                fact = {"bench": "tunnel", "load": name, "clients": clients, "way": way.name}
                lines.append(json.dumps(fact | {key: round(row[key], 3) for key in row}))
    print("\n".join(lines))
    return 1 if failures else 0


def _row(outcome: Outcome, cpu_s: float, direct: dict[str, float]) -> dict[str, float]:
    row = {
        "events_per_s": outcome.events / RUN_S,
        "cpu_us_per_event": cpu_s * 1e6 / (outcome.answers * EVENTS or 1),
        "ttft_p50_ms": outcome.quantile_ms(outcome.first_s, 0.5),
        "ttft_p99_ms": outcome.quantile_ms(outcome.first_s, 0.99),
        "failed": float(outcome.failures),
    }
    other = direct or row
    return row | {
        "throughput_ratio": row["events_per_s"] / (other["events_per_s"] or 1.0),
        "added_ttft_p50_ms": row["ttft_p50_ms"] - other["ttft_p50_ms"],
        "added_ttft_p99_ms": row["ttft_p99_ms"] - other["ttft_p99_ms"],
    }


@contextlib.contextmanager
def _ways(folder: Path) -> Iterator[Sequence[Way]]:
    """Start the stub, sshd and both kinds of tunnel; give the port of each way; stop them all."""
    first = _free_range()
    stub, ssh_port, forward = first + _PORTS, first + _PORTS + 1, first + _PORTS + 2
    host_key = _prepare(folder, ssh_port)
    control = folder / "control.sock"
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    commands: list[list[str]] = [
        [sys.executable, "-m", "bench.gateway", "stub", str(stub)],
        [sshd, "-D", "-e", "-f", str(folder / "sshd_config")],
        [
            *(sys.executable, "-m", "autoscaler", "tunnels", "--control", str(control)),
            *("--key-file", str(folder / "key"), "--ports", f"{first}-{first + _PORTS - 1}"),
        ],
        [
            *("ssh", "-F", "none", "-N", "-T", "-p", str(ssh_port), "-i", str(folder / "key")),
            *("-o", f"UserKnownHostsFile={folder / 'known'}", "-o", "BatchMode=yes"),
            *("-L", f"{HERE}:{forward}:{HERE}:{stub}", f"{getpass.getuser()}@{HERE}"),
        ],
    ]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            silent = subprocess.DEVNULL
            processes.append(subprocess.Popen(command, stdout=silent, stderr=silent))
            if number == 1:  # both clients want it at once
                _await(lambda: _answers(ssh_port), "sshd listens")
        _await(lambda: _answers(stub) and _answers(forward), "stub and ssh -L listen")
        wish = TunnelWish("bench", HERE, ssh_port, getpass.getuser(), host_key, stub)
        _await(control.exists, "the tunnels' process is up")
        tunnel = asyncio.run(TunnelClient(control).put(wish))
        _await(lambda: _answers(tunnel.local_port), "the tunnel is up")
        yield [
            Way("direct", stub, processes[0].pid),
            Way("tunnel", tunnel.local_port, processes[2].pid),
            Way("ssh -L", forward, processes[3].pid),
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


def _prepare(folder: Path, port: int) -> str:
    """Write what an unprivileged sshd and its clients need; the server's host key."""
    host, client = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    for name, key in (("host", host), ("key", client)):
        (folder / name).write_bytes(key.export_private_key("openssh"))
        (folder / name).chmod(0o600)
    (folder / "authorized").write_bytes(client.export_public_key())
    shown = " ".join(host.export_public_key().decode().split()[:2])
    (folder / "known").write_text(f"[{HERE}]:{port} {shown}\n")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress {HERE}\nHostKey {folder / 'host'}\nPidFile {folder / 'pid'}\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nMaxStartups 100\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return shown


def _free_range() -> int:
    """The first of some ports in a row that are free now, away from those that the kernel hands out."""
    while True:
        first = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as stack:
            try:
                for number in range(first, first + _PORTS + 3):
                    stack.enter_context(socket.socket()).bind((HERE, number))
            except OSError:
                continue
            return first


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HERE, port), timeout=1).close()
    except OSError:
        return False
    return True


def _await(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_START_S:g} s: {what}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
