"""The emulator's own API under `/_emulator`: faults, stock, switches, machines, money, the ledger.

It asks for no credential: the emulator listens on loopback only, and whoever may speak to it there
may already run what they like on its machines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime

from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.faults import KINDS, Fault, FaultInvalid, make_fault
from autoscaler.emulator.firewall import allows
from autoscaler.emulator.http import (
    Answer,
    Call,
    Request,
    Route,
    bad_request,
    json_answer,
    not_found,
    read_json,
)
from autoscaler.emulator.ledger import Event
from autoscaler.emulator.meter import Account
from autoscaler.emulator.model import Vm, VmState
from autoscaler.emulator.schema import FaultOrder, QuotaChange, StockChange, read
from autoscaler.emulator.shapes import Json
from autoscaler.emulator.switches import CHOICES, QUESTIONS

PREFIX = "/_emulator"


def routes(cloud: Cloud, add_fault: Callable[[Fault], Fault]) -> list[Route]:
    """All routes below `/_emulator`."""
    return [
        *_overview(cloud),
        *_faults(cloud, add_fault),
        *_market(cloud),
        *_machines(cloud),
        *_money(cloud),
    ]


def _get(path: str, name: str, handler: Callable[[Call], Answer]) -> Route:
    return Route("GET", PREFIX + path, name, handler, is_open=True)


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
                "stock": _stock(cloud),
                "quota": _quota(cloud),
                "faults": [asdict(fault) for fault in cloud.faults.standing()],
                "faults_struck": cloud.faults.struck,
                "counters": cloud.ledger.counters,
                "usd_total": _usd_total(cloud),
            }
        )

    def ledger(call: Call) -> Answer:
        query = call.request.query
        limit = _whole(call.request, "limit", 1000)
        events = list(
            cloud.ledger.events(
                after=_whole(call.request, "after", 0),
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
        _get("/health", "health", health),
        _get("/snapshot", "snapshot", snapshot),
        _get("/ledger", "ledger", ledger),
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


# -- faults


def _faults(cloud: Cloud, add_fault: Callable[[Fault], Fault]) -> list[Route]:
    def kinds(_: Call) -> Answer:
        return json_answer(
            {
                name: {
                    "stage": kind.stage.value,
                    "meaning": kind.meaning,
                    "options": dict(kind.options),
                }
                for name, kind in KINDS.items()
            }
        )

    def standing(_: Call) -> Answer:
        orders = [asdict(fault) for fault in cloud.faults.standing()]
        return json_answer({"faults": orders, "struck": cloud.faults.struck})

    def add(call: Call) -> Answer:
        order = read(FaultOrder, call.request)
        try:
            fault = make_fault(order.kind, order.model_extra or {})
        except FaultInvalid as exc:
            raise bad_request(str(exc)) from exc
        return json_answer(asdict(add_fault(fault)), 201)

    def clear(_: Call) -> Answer:
        cloud.faults.clear()
        return json_answer({"faults": []})

    def remove(call: Call) -> Answer:
        fault_id = call.params["fault_id"]
        if not fault_id.isdecimal() or not cloud.faults.remove(int(fault_id)):
            raise not_found("fault")
        return json_answer({})

    path = PREFIX + "/faults"
    return [
        _get("/faults/kinds", "fault_kinds", kinds),
        _get("/faults", "faults", standing),
        Route("POST", path, "add_fault", add, is_open=True),
        Route("DELETE", path, "clear_faults", clear, is_open=True),
        Route("DELETE", path + "/{fault_id}", "remove_fault", remove, is_open=True),
    ]


# -- stock, quota, switches, credentials


def _market(cloud: Cloud) -> list[Route]:
    books = cloud.books

    def stock(_: Call) -> Answer:
        return json_answer({"items": _stock(cloud)})

    def set_stock(call: Call) -> Answer:
        change = read(StockChange, call.request)
        if change.type not in books.catalogue.types:
            raise bad_request(f"type: {change.type!r} is not in the catalogue")
        if change.location not in books.catalogue.locations:
            raise bad_request(f"location: one of {', '.join(books.catalogue.locations)}")
        books.stock[change.type, change.location] = change.count
        return json_answer({"items": _stock(cloud)})

    def quota(_: Call) -> Answer:
        return json_answer({"items": _quota(cloud)})

    def set_quota(call: Call) -> Answer:
        change = read(QuotaChange, call.request)
        if change.family not in books.quota:
            raise bad_request(f"family: one of {', '.join(books.quota)}")
        books.quota[change.family] = change.count
        return json_answer({"items": _quota(cloud)})

    def switches(_: Call) -> Answer:
        told = {
            name: {"value": value, "choices": CHOICES[name], "question": QUESTIONS[name]}
            for name, value in books.switches.as_dict().items()
        }
        return json_answer(told)

    def set_switches(call: Call) -> Answer:
        try:
            wanted = _strings(call)
            books.switches = books.switches.with_values(wanted)
        except ValueError as exc:
            raise bad_request(str(exc)) from exc
        cloud.ledger.record(cloud.now(), "switched", **wanted)
        return json_answer(books.switches.as_dict())

    def credentials(call: Call) -> Answer:
        match call.params["action"]:
            case "revoke":
                cloud.credentials.revoked = True
            case "restore":
                cloud.credentials.revoked = False
            case "expire":
                cloud.credentials.expire_all()
            case _:
                raise not_found("action: one of revoke, restore, expire;")
        return json_answer({})

    return [
        _get("/stock", "stock", stock),
        Route("PUT", PREFIX + "/stock", "set_stock", set_stock, is_open=True),
        _get("/quota", "quota", quota),
        Route("PUT", PREFIX + "/quota", "set_quota", set_quota, is_open=True),
        _get("/switches", "switches", switches),
        Route("PUT", PREFIX + "/switches", "set_switches", set_switches, is_open=True),
        Route("POST", PREFIX + "/credentials/{action}", "credentials", credentials, is_open=True),
    ]


def _strings(call: Call) -> dict[str, str]:
    body = read_json(call.request)
    if not isinstance(body, dict):
        raise ValueError("the body must be an object of switches")
    return {str(name): str(value) for name, value in body.items()}


def _stock(cloud: Cloud) -> list[Json]:
    return [
        {"type": name, "location": location, "count": count}
        for (name, location), count in cloud.books.stock.items()
    ]


def _quota(cloud: Cloud) -> list[Json]:
    project_id = cloud.shop.settings.projects[0].id
    return [
        {"family": family, "count": count, "used": cloud.books.gpus_in_use(project_id, family)}
        for family, count in cloud.books.quota.items()
    ]


# -- machines


def _machines(cloud: Cloud) -> list[Route]:
    def act(call: Call) -> Answer:
        vm = _vm(cloud, call.params["vm"])
        actions = {
            "kill": cloud.lifecycle.crash,
            "vanish": cloud.lifecycle.vanish,
            "power_off": cloud.lifecycle.power_off,
        }
        action = actions.get(call.params["action"])
        if action is None:
            raise not_found(f"action: one of {', '.join(actions)};")
        if vm.state is not VmState.RUNNING and call.params["action"] != "vanish":
            raise bad_request(f"{vm.name} is {vm.state}, not RUNNING")
        action(vm, cloud.now())
        return json_answer({"id": vm.id, "name": vm.name, "state": vm.state.value})

    def firewall(call: Call) -> Answer:
        query = call.request.query
        vm = _vm(cloud, query.get("vm", ""))
        port = _whole(call.request, "port", 0)
        source, protocol = query.get("source", ""), query.get("protocol", "tcp")
        ssh_port = cloud.shop.settings.ssh_port
        try:
            is_allowed = allows(cloud.books, vm, port, source, protocol, ssh_port)
        except ValueError as exc:
            raise bad_request(f"source: {source!r} is not an IP address") from exc
        if not is_allowed:
            cloud.ledger.record(
                cloud.now(),
                "port_without_rule",
                vm_id=vm.id,
                name=vm.name,
                port=port,
                source=source,
            )
        return json_answer({"allows": is_allowed})

    return [
        Route("POST", PREFIX + "/vms/{vm}/{action}", "act_on_vm", act, is_open=True),
        _get("/firewall/allows", "firewall_allows", firewall),
    ]


def _vm(cloud: Cloud, id_or_name: str) -> Vm:
    vm = cloud.books.find_vm(id_or_name)
    if vm is None:
        raise not_found("vm")
    return vm


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

    return [_get("/bill", "bill", bill)]


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


def _whole(request: Request, key: str, default: int) -> int:
    text = request.query.get(key, str(default))
    if not text.isdecimal():
        raise bad_request(f"{key}: must be a whole number")
    return int(text)
