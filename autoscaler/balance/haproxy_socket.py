"""HAProxy's runtime API: one command, one connection, one answer, and the three tables that we read.

The commands are text, so whatever goes into one passes `server_name` or `backend_name` first: a name with a space or
a semicolon would be a second command. Answers are read to their end under a deadline and a size limit. Columns are
found by their header, since each release appends some.
"""

from __future__ import annotations

import asyncio
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from autoscaler.balance.haproxy_channel import LocalSocket, Where
from autoscaler.errors import BalancerUnavailable

ANSWER_TIME = timedelta(seconds=3)
_CROWDED_PAUSE_S = 0.01

_SERVER_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,127}")
_BACKEND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SESSION_ID = re.compile(r"0x[0-9a-f]{1,16}")
_OLD_WORKERS = "# old workers"


def server_name(name: str) -> str:
    """Pass a server's name through, or refuse one that would not be a single word of a command.

    Raises:
        ValueError: characters outside `a-z 0-9 . -`, empty, or longer than 128.
    """
    if _SERVER_NAME.fullmatch(name) is None:
        raise ValueError(f"not a server name for HAProxy: {name!r} (a-z 0-9 . - only)")
    return name


def backend_name(name: str) -> str:
    """Pass a backend's name through, or refuse one that would not be a single word of a command.

    Raises:
        ValueError: characters outside `A-Z a-z 0-9 _ . -`, empty, or longer than 128.
    """
    if _BACKEND_NAME.fullmatch(name) is None:
        raise ValueError(f"not a backend name for HAProxy: {name!r} (A-Z a-z 0-9 _ . - only)")
    return name


@dataclass(frozen=True, slots=True)
class StatRow:
    """One line of `show stat`: a frontend, a backend, or a server of one.

    Attributes:
        proxy, server: names; `server` is FRONTEND or BACKEND for the proxy's own line.
        scur, qcur: sessions now; requests queued now (a backend's are those that wait for any of its servers).
        slim: the server's `maxconn`, None when it has none.
        stot: sessions since start. Counters begin again at 0 after a restart or reload.
        req_tot: HTTP requests since start; None on servers, which count only sessions.
        qtime_ms, ctime_ms, rtime_ms, ttime_ms: mean over the last 1024 requests, however old these are.
        status: UP, DOWN, MAINT, DRAIN, `UP 1/3` while a check wavers, `no check`.
        check_status: L7OK and its like; INI before the first check; empty without checks.
        weight: the configured weight of a server; a backend's is the sum of what is up.
    """

    proxy: str
    server: str
    status: str
    check_status: str
    scur: int
    qcur: int
    slim: int | None
    stot: int
    req_tot: int | None
    hrsp_1xx: int
    hrsp_2xx: int
    hrsp_3xx: int
    hrsp_4xx: int
    hrsp_5xx: int
    hrsp_other: int
    rate: int
    econ: int
    eresp: int
    wretr: int
    wredis: int
    qtime_ms: int
    ctime_ms: int
    rtime_ms: int
    ttime_ms: int
    last_change_s: int
    weight: int
    is_backup: bool
    address: str

    @property
    def is_frontend(self) -> bool:
        return self.server == "FRONTEND"

    @property
    def is_backend(self) -> bool:
        return self.server == "BACKEND"


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One line of `show servers state`.

    Attributes:
        op_state: 0 stopped, 1 starting, 2 running, 3 stopping. A new server is 2 before its first check.
        admin_state: 0 ready; bits 1, 2, 4, 32, 64 maintenance; bits 8, 16 drain.
        weight: as set at run time, 0..256.
        is_checked: whether health checks run.
        address, port: where it listens.
        is_tls: whether HAProxy speaks TLS with it.
    """

    backend: str
    server: str
    op_state: int
    admin_state: int
    weight: int
    is_checked: bool
    address: str
    port: int
    is_tls: bool = False

    @property
    def is_in_maintenance(self) -> bool:
        return self.admin_state & 0x67 != 0

    @property
    def takes_requests(self) -> bool:
        """Whether an operator or we let it take requests; its checks have their own say."""
        return self.admin_state == 0


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """Which process answers, and for how long it has run."""

    pid: int
    uptime_s: int
    version: str


async def ask(
    where: Where,
    command: str,
    timeout: timedelta = ANSWER_TIME,
    *,
    is_master: bool = False,
    lines: str | None = None,
) -> str:
    """Send one command and return the whole answer, stripped.

    A master's socket ends its answer only once we have ended our side.

    Args:
        lines: what belongs to the command, such as a certificate; none of them empty.

    Raises:
        BalancerUnavailable: nobody listens, no permission, no end of the answer in time, or too much of it.
    """
    if "\n" in command or (lines is not None and not all(lines.split("\n"))):
        raise ValueError("one command a line, one line a connection")
    if lines is not None:
        command = f"{command} <<\n{lines}\n"
    socket = LocalSocket(where) if isinstance(where, Path) else where
    await socket.prepare()
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            while (  # noqa: ASYNC110 -- HAProxy sends no event when a place is free
                answer := await socket.exchange(command, ends_first=is_master)
            ) is None:
                await asyncio.sleep(_CROWDED_PAUSE_S)
    except TimeoutError as exc:
        raise BalancerUnavailable(
            f"HAProxy did not answer on {socket} within {timeout.total_seconds():g} s: see that it"
            " is not stopped or starved of CPU"
        ) from exc
    except OSError as exc:
        raise BalancerUnavailable(
            f"HAProxy cannot be asked on {socket} ({exc.strerror or exc}): start it, give its"
            " `stats socket` this path with `level admin`, and let this user write to it"
        ) from exc
    text = answer.decode("utf-8", "replace").strip()
    if text == "Permission denied":
        raise BalancerUnavailable(
            f"HAProxy refuses commands on {socket}: add `level admin` to its `stats socket` line"
        )
    return text


async def show_stat(
    where: Where, backend: str | None = None, timeout: timedelta = ANSWER_TIME
) -> list[StatRow]:
    """Read `show stat`: everything, or one backend with its servers; empty when there is no such backend.

    Raises:
        BalancerUnavailable: no answer, or not one of HAProxy's.
    """
    scope = "" if backend is None else f" {backend_name(backend)} 6 -1"
    answer = await ask(where, f"show stat{scope}", timeout)
    if answer.startswith("No such proxy"):
        return []
    lines = answer.splitlines()
    if not lines or not lines[0].startswith("# pxname,svname,"):
        raise BalancerUnavailable(_unreadable(where, "show stat", answer))
    try:
        columns = lines[0].removeprefix("# ").split(",")
        return [_stat_row(row) for row in csv.DictReader(lines[1:], columns)]
    except (KeyError, ValueError, csv.Error) as exc:
        raise BalancerUnavailable(_unreadable(where, "show stat", answer)) from exc


async def show_servers_state(
    where: Where, backend: str, timeout: timedelta = ANSWER_TIME
) -> list[ServerRow] | None:
    """Read `show servers state` of one backend; None when there is no such backend.

    Raises:
        BalancerUnavailable: no answer, or not one of HAProxy's.
    """
    answer = await ask(where, f"show servers state {backend_name(backend)}", timeout)
    if answer.startswith("Can't find backend"):
        return None
    lines = answer.splitlines()
    if len(lines) < 2 or lines[0] != "1" or not lines[1].startswith("# be_id "):
        raise BalancerUnavailable(_unreadable(where, "show servers state", answer))
    columns = lines[1].removeprefix("# ").split(" ")
    try:
        rows = (dict(zip(columns, line.split(" "), strict=False)) for line in lines[2:])
        return [_server_row(row) for row in rows]
    except (KeyError, ValueError) as exc:
        raise BalancerUnavailable(_unreadable(where, "show servers state", answer)) from exc


async def show_info(where: Where, timeout: timedelta = ANSWER_TIME) -> ProcessInfo:
    """Read which process answers.

    Raises:
        BalancerUnavailable: no answer, or not one of HAProxy's.
    """
    answer = await ask(where, "show info", timeout)
    facts = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
    try:
        return ProcessInfo(int(facts["Pid"]), int(facts["Uptime_sec"]), facts["Version"])
    except (KeyError, ValueError) as exc:
        raise BalancerUnavailable(_unreadable(where, "show info", answer)) from exc


async def sessions_on(
    where: Where, backend: str, server: str, timeout: timedelta = ANSWER_TIME
) -> list[str]:
    """The ids of the sessions that a server has, for `shutdown session ID`.

    `shutdown sessions server` alone misses those that waited when the server came up: HAProxy hands them over
    without entering them into the server's list (they do not count against its `maxconn` either).
    """
    answer = await ask(where, "show sess", timeout)
    placed = f" be={backend_name(backend)} srv={server_name(server)} "
    ids = (line.partition(":")[0] for line in answer.splitlines() if placed in line)
    return [session for session in ids if _SESSION_ID.fullmatch(session)]


async def count_old_processes(master: Where, timeout: timedelta = ANSWER_TIME) -> int:
    """Count the workers that a reload left behind because requests still run in them.

    Args:
        master: the socket given to HAProxy by `-S`.

    Raises:
        BalancerUnavailable: no answer, or not a master's.
    """
    answer = await ask(master, "show proc", timeout, is_master=True)
    if "# workers" not in answer:
        raise BalancerUnavailable(_unreadable(master, "show proc", answer))
    _, _, after = answer.partition(_OLD_WORKERS)
    old, _, _ = after.partition("#")
    return sum(1 for line in old.splitlines() if line.split()[1:2] == ["worker"])


def _unreadable(where: Where, command: str, answer: str) -> str:
    return f"`{command}` on {where} gave no table of HAProxy's but {answer[:120]!r}"


def _stat_row(row: Mapping[str, str]) -> StatRow:
    def number(column: str) -> int:
        return int(row[column] or 0)

    return StatRow(
        proxy=row["pxname"],
        server=row["svname"],
        status=row["status"],
        # an asterisk says that a check is running now: what stands behind it is the last result
        check_status=row["check_status"].removeprefix("* "),
        scur=number("scur"),
        qcur=number("qcur"),
        slim=int(row["slim"]) if row["slim"] else None,
        stot=number("stot"),
        req_tot=int(row["req_tot"]) if row["req_tot"] else None,
        hrsp_1xx=number("hrsp_1xx"),
        hrsp_2xx=number("hrsp_2xx"),
        hrsp_3xx=number("hrsp_3xx"),
        hrsp_4xx=number("hrsp_4xx"),
        hrsp_5xx=number("hrsp_5xx"),
        hrsp_other=number("hrsp_other"),
        rate=number("rate"),
        econ=number("econ"),
        eresp=number("eresp"),
        wretr=number("wretr"),
        wredis=number("wredis"),
        qtime_ms=number("qtime"),
        ctime_ms=number("ctime"),
        rtime_ms=number("rtime"),
        ttime_ms=number("ttime"),
        last_change_s=number("lastchg"),
        weight=number("weight"),
        is_backup=row["bck"] == "1" and row["svname"] not in ("BACKEND", "FRONTEND"),
        address=row["addr"],
    )


def _server_row(row: Mapping[str, str]) -> ServerRow:
    return ServerRow(
        backend=row["be_name"],
        server=row["srv_name"],
        op_state=int(row["srv_op_state"]),
        admin_state=int(row["srv_admin_state"]),
        weight=int(row["srv_uweight"]),
        is_checked=int(row["srv_check_state"]) & 0b100 != 0,
        address=row["srv_addr"],
        port=int(row["srv_port"]),
        is_tls=row.get("srv_use_ssl") == "1",
    )


def find_row(rows: Sequence[StatRow], server: str) -> StatRow | None:
    """The line of that server, or None."""
    return next((row for row in rows if row.server == server), None)
