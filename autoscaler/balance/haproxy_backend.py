"""What HAProxy's tables say of one backend, read into our words. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from autoscaler.balance.haproxy_socket import ServerRow, StatRow, find_row
from autoscaler.balance.protocol import ServerReport, ServerState
from autoscaler.errors import BalancerUnavailable

_CHECK_PASSED = frozenset({"L4OK", "L6OK", "L7OK", "L7OKC"})


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend as both tables show it at one moment."""

    name: str
    stats: tuple[StatRow, ...]
    states: tuple[ServerRow, ...]

    def stat(self, server: str) -> StatRow | None:
        return find_row(self.stats, server)

    def state(self, server: str) -> ServerRow | None:
        return next((row for row in self.states if row.server == server), None)

    @property
    def queued(self) -> int:
        return sum(row.qcur for row in self.stats if row.is_backend)

    @property
    def is_served(self) -> bool:
        """Whether any server but the backups takes requests."""
        backups = {row.server for row in self.stats if row.is_backup}
        return any(
            row.takes_requests and row.op_state != 0 and row.server not in backups
            for row in self.states
        )


def in_flight(stat: StatRow | None) -> int:
    """Requests that run on a server or wait for exactly it."""
    return 0 if stat is None else stat.scur + stat.qcur


def server_state(state: ServerRow, stat: StatRow | None) -> ServerState:
    """Read both tables as one state.

    `UP 1/3` with a passed (or no) result is a server that was just made ready: HAProxy calls it up before it has
    looked. With a failed result it is one that wavers and still takes requests.
    """
    if not state.takes_requests:
        return ServerState.DRAINING
    if stat is None or state.op_state == 0 or not stat.status.startswith("UP"):
        return ServerState.DOWN
    has_passed = stat.check_status in _CHECK_PASSED
    is_unproven = stat.check_status in ("", "INI") or (has_passed and stat.status != "UP")
    return ServerState.DOWN if is_unproven else ServerState.UP


def address_of(url: str) -> tuple[str, int]:
    """The address and port of an endpoint; HAProxy resolves no names for servers added at run time."""
    parts = urlsplit(url)
    try:
        host = ipaddress.ip_address(parts.hostname or "")
        port = parts.port
    except ValueError as exc:
        raise BalancerUnavailable(f"endpoint {url!r}: HAProxy needs an IP address") from exc
    if parts.scheme not in ("http", "https") or port is None or parts.path not in ("", "/"):
        raise BalancerUnavailable(f"endpoint {url!r}: HAProxy needs http(s)://ADDRESS:PORT")
    return str(host), port


def server_report(backend: Backend, state: ServerRow, prefix: str) -> ServerReport:
    """One of our servers, whose names begin with `prefix`, in a balancer's words."""
    stat = backend.stat(state.server)
    host = f"[{state.address}]" if ":" in state.address else state.address
    return ServerReport(
        endpoint_id=state.server.removeprefix(prefix),
        url=f"{'https' if state.is_tls else 'http'}://{host}:{state.port}",
        state=server_state(state, stat),
        in_flight=stat.scur if stat is not None else 0,
        queued=stat.qcur if stat is not None else 0,
        weight=state.weight,
        check_fails=state.is_checked and not state.is_in_maintenance and state.op_state == 0,
    )


def differences(backend: Backend, server: str, weight: int, limit: int | None) -> str:
    """Say what is not as a registration wants it; empty when all is."""
    state, stat = backend.state(server), backend.stat(server)
    if state is None or stat is None:
        return "it is not listed"
    wrong = []
    if not state.takes_requests:
        wrong.append(f"administrative state {state.admin_state} instead of 0")
    if not state.is_checked:
        wrong.append("its health checks are off")
    if state.weight != weight:
        wrong.append(f"weight {state.weight} instead of {weight}")
    if stat.slim != limit:
        wrong.append(f"maxconn {stat.slim} instead of {limit}")
    return ", ".join(wrong)
