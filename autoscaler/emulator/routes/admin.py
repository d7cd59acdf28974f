"""The emulator's own API under `/_emulator`: faults, stock, switches, machines, money, the ledger.

It asks for no credential: the emulator listens on loopback only, and whoever may speak to it there
may already run what they like on its machines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.faults import Fault
from autoscaler.emulator.http import Answer, Call, Request, Route, json_answer, whole_number
from autoscaler.emulator.ledger import Event
from autoscaler.emulator.meter import Account
from autoscaler.emulator.model import Vm
from autoscaler.emulator.routes import control
from autoscaler.emulator.routes.control import PREFIX, get, quota_used, stock_left
from autoscaler.emulator.shapes import Json

__all__ = ["PREFIX", "routes"]


def routes(cloud: Cloud, add_fault: Callable[[Fault], Fault]) -> list[Route]:
    """All routes below `/_emulator`."""
    return [
        *_overview(cloud),
        *_money(cloud),
        *control.routes(cloud, add_fault),
    ]


def is_from_here(request: Request) -> bool:
    """Whether a program on this machine asks, and not a web page that some browser here shows."""
    if "origin" in request.headers:
        return False
    host = request.headers.get("host", "localhost").rpartition(":")[0] or "localhost"
    return host == "localhost" or host.startswith("127.") or host == "[::1]"


# -- what there is


def _overview(cloud: Cloud) -> list[Route]:
    def health(_: Call) -> Answer:
        settings = cloud.shop.settings
        project = settings.projects[0]
        return json_answer(
            {
                "status": "ok",
                "now": _iso(cloud.now()),
                "time_factor": settings.time_factor,
                "project_id": project.id,
            }
        )

    def snapshot(_: Call) -> Answer:
        books = cloud.books
        shapes = cloud.shapes()
        return json_answer(
            {
                "now": _iso(cloud.now()),
                "time_factor": cloud.shop.settings.time_factor,
                "switches": books.switches.as_dict(),
                "vms": [_inside(cloud, vm) for vm in books.vms.values()],
                "disks": [shapes.disk(disk) for disk in books.disks.values()],
                "firewall_rules": [shapes.rule(rule) for rule in books.rules.values()],
                "operations": [shapes.operation(one) for one in books.operations.values()],
                "stock": stock_left(cloud),
                "quota": quota_used(cloud),
                "faults": [asdict(fault) for fault in cloud.faults.standing()],
                "faults_struck": cloud.faults.struck,
                "counters": cloud.ledger.counters,
                "usd_total": _usd_total(cloud),
            }
        )

    def ledger(call: Call) -> Answer:
        query = call.request.query
        limit = whole_number(call.request, "limit", 1000)
        events = list(
            cloud.ledger.events(
                after=whole_number(call.request, "after", 0),
                kind=query.get("kind"),
                name=query.get("name"),
            )
        )
        return json_answer(
            {
                "events": [_event(event) for event in events[:limit]],
                "more": len(events) > limit,
                "dropped": cloud.ledger.dropped,
                "counters": cloud.ledger.counters,
            }
        )

    return [
        get("/health", "health", health),
        get("/snapshot", "snapshot", snapshot),
        get("/ledger", "ledger", ledger),
    ]


def _inside(cloud: Cloud, vm: Vm) -> Json:
    """A VM as it is, not as it is told."""
    return {
        "id": vm.id,
        "name": vm.name,
        "project_id": vm.project_id,
        "type": vm.type.name,
        "location": vm.location,
        "state": vm.state.value,
        "address": vm.address,
        "address_told": vm.address_told,
        "host_key": vm.host_key,
        "seen_by_get": vm.seen_by_get and not vm.gone,
        "seen_by_list": vm.seen_by_list,
        "boots": vm.boots,
        "boot_faults": sorted(vm.boot_faults),
        "processes": cloud.shop.hands.machines.is_running(vm.id),
        "created_at": _iso(vm.created_at),
    }


def _event(event: Event) -> Json:
    return {
        "seq": event.seq,
        "at": _iso(event.at),
        "kind": event.kind,
        "caller": event.caller,
        "vm_id": event.vm_id,
        "name": event.name,
        "details": event.details,
    }


# -- money


def _money(cloud: Cloud) -> list[Route]:
    def bill(_: Call) -> Answer:
        rule, now = cloud.books.switches.meter, cloud.now()
        accounts = list(cloud.books.meter.accounts())
        return json_answer(
            {
                "now": _iso(now),
                "currency": cloud.books.catalogue.currency,
                "meter": rule,
                "usd_total": _usd_total(cloud),
                "usd_per_hour": str(
                    sum(one.usd_per_hour for one in accounts if one.is_billing(rule))
                ),
                "still_billing": [
                    {"kind": one.kind, "id": one.id, "name": one.name}
                    for one in accounts
                    if one.is_billing(rule)
                ],
                "items": [_account(one, rule, now) for one in accounts],
            }
        )

    return [get("/bill", "bill", bill)]


def _account(account: Account, rule: str, now: datetime) -> Json:
    return {
        "kind": account.kind,
        "id": account.id,
        "name": account.name,
        "project_id": account.project_id,
        "type": account.type,
        "location": account.location,
        "usd_per_hour": str(account.usd_per_hour),
        "seconds": account.seconds(rule, now),
        "usd": f"{account.usd(rule, now):.6f}",
        "billing": account.is_billing(rule),
        "spans": [
            {"from": _iso(span.start), "to": _iso(span.end) if span.end else None}
            for span in account.billed(rule)
        ],
    }


def _usd_total(cloud: Cloud) -> str:
    total = cloud.books.meter.total_usd(cloud.books.switches.meter, cloud.now())
    return f"{total:.6f}"


# -- helpers


def _iso(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds")
