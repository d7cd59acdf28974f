"""The front door's part of the metrics page: connections, keys, certificate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from autoscaler.gateway.admission import Account
from autoscaler.gateway.body import Bodies
from autoscaler.gateway.connection import ClientServer
from autoscaler.gateway.door import Door

_PREFIX = "autoscaler_gateway"
_PARTS = ("client_keys", "tls")
# A label's values must be few: keys beyond these, by name, are counted together.
_MOST_KEYS = 200
_OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class FrontPage:
    """What is read at each scrape. Without parts it has no samples, and still its names."""

    door: Door | None = None
    clients: ClientServer | None = None
    bodies: Bodies | None = None

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._connections()
        yield from self._keys()
        yield from self._door()

    def _connections(self) -> Iterator[Metric]:
        clients, bodies = self.clients, self.bodies
        open_now = len(clients.connections) + len(clients.arrivals) if clients else None
        yield _gauge("connections", "Client connections, TLS handshakes included.", open_now)
        yield _counter(
            "refused_connections",
            "Client connections beyond the bound.",
            clients.crowd.refused_total if clients else None,
        )
        yield _counter(
            "evicted_connections",
            "Silent client connections that were closed to make room for others.",
            clients.crowd.evicted_total if clients else None,
        )
        yield _counter(
            "tls_handshake_failures",
            "Clients that did not agree on TLS with the gateway.",
            clients.handshake_failures_total if clients else None,
        )
        yield _gauge(
            "body_bytes",
            "Bodies of the requests under way.",
            bodies.buffered_bytes if bodies else None,
        )

    def _keys(self) -> Iterator[Metric]:
        admission = self.door.admission if self.door is not None else None
        strangers = CounterMetricFamily(
            f"{_PREFIX}_unauthorized_requests",
            "Requests answered 401, for want of a valid client key.",
            labels=["reason"],
        )
        results = CounterMetricFamily(
            f"{_PREFIX}_key_requests", "Requests by client key.", labels=["key", "result"]
        )
        running = GaugeMetricFamily(
            f"{_PREFIX}_key_requests_in_flight",
            "Requests of a client key under way, held ones included.",
            labels=["key"],
        )
        if admission is not None:
            for reason, count in admission.strangers.items():
                strangers.add_metric([reason], count)
            for name, accounts in _labelled(admission.accounts):
                running.add_metric([name], sum(account.in_flight for account in accounts))
                for result in sorted({r for account in accounts for r in account.results}):
                    total = sum(account.results[result] for account in accounts)
                    results.add_metric([name, result], total)
        yield from (strangers, results, running)

    def _door(self) -> Iterator[Metric]:
        door = self.door
        identity = door.identity if door is not None else None
        yield _gauge(
            "certificate_expiry_timestamp_seconds",
            "When the certificate in force expires.",
            identity.expires_at.timestamp() if identity else None,
        )
        refused = GaugeMetricFamily(
            f"{_PREFIX}_reload_refused",
            "1 while the files on disk are refused, and those from before are in force.",
            labels=["part"],
        )
        for part in _PARTS if door is not None else ():
            refused.add_metric([part], float(part in door.refused) if door else 0.0)
        yield refused


def _labelled(accounts: dict[str, Account]) -> Iterator[tuple[str, list[Account]]]:
    names = sorted(accounts)
    for name in names[:_MOST_KEYS]:
        yield name, [accounts[name]]
    if rest := [accounts[name] for name in names[_MOST_KEYS:]]:
        yield _OTHERS, rest


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}_{name}", text)
    if value is not None:
        family.add_metric([], value)
    return family


def _counter(name: str, text: str, value: float | None) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", text)
    if value is not None:
        family.add_metric([], value)
    return family
