"""What may be done to the emulated cloud from outside: faults, stock, quota, switches, machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.faults import KINDS, Fault, FaultInvalid, make_fault
from autoscaler.emulator.firewall import allows
from autoscaler.emulator.http import (
    Answer,
    Call,
    Route,
    bad_request,
    json_answer,
    not_found,
    read_json,
    whole_number,
)
from autoscaler.emulator.model import Vm, VmState
from autoscaler.emulator.schema import FaultOrder, QuotaChange, StockChange, read
from autoscaler.emulator.shapes import Json
from autoscaler.emulator.switches import CHOICES, QUESTIONS

PREFIX = "/_emulator"


def routes(cloud: Cloud, add_fault: Callable[[Fault], Fault]) -> list[Route]:
    """The routes that change something, and those that tell what may be changed."""
    return [*_faults(cloud, add_fault), *_market(cloud), *_machines(cloud)]


def get(path: str, name: str, handler: Callable[[Call], Answer]) -> Route:
    """A route of the emulator's own that reads."""
    return Route("GET", PREFIX + path, name, handler, is_open=True)


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
        get("/faults/kinds", "fault_kinds", kinds),
        get("/faults", "faults", standing),
        Route("POST", path, "add_fault", add, is_open=True),
        Route("DELETE", path, "clear_faults", clear, is_open=True),
        Route("DELETE", path + "/{fault_id}", "remove_fault", remove, is_open=True),
    ]


# -- stock, quota, switches, credentials


def _market(cloud: Cloud) -> list[Route]:
    books = cloud.books

    def stock(_: Call) -> Answer:
        return json_answer({"items": stock_left(cloud)})

    def set_stock(call: Call) -> Answer:
        change = read(StockChange, call.request)
        if change.type not in books.catalogue.types:
            raise bad_request(f"type: {change.type!r} is not in the catalogue")
        if change.location not in books.catalogue.locations:
            raise bad_request(f"location: one of {', '.join(books.catalogue.locations)}")
        books.stock[change.type, change.location] = change.count
        return json_answer({"items": stock_left(cloud)})

    def quota(_: Call) -> Answer:
        return json_answer({"items": quota_used(cloud)})

    def set_quota(call: Call) -> Answer:
        change = read(QuotaChange, call.request)
        if change.family not in books.quota:
            raise bad_request(f"family: one of {', '.join(books.quota)}")
        books.quota[change.family] = change.count
        return json_answer({"items": quota_used(cloud)})

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
        get("/stock", "stock", stock),
        Route("PUT", PREFIX + "/stock", "set_stock", set_stock, is_open=True),
        get("/quota", "quota", quota),
        Route("PUT", PREFIX + "/quota", "set_quota", set_quota, is_open=True),
        get("/switches", "switches", switches),
        Route("PUT", PREFIX + "/switches", "set_switches", set_switches, is_open=True),
        Route("POST", PREFIX + "/credentials/{action}", "credentials", credentials, is_open=True),
    ]


def _strings(call: Call) -> dict[str, str]:
    body = read_json(call.request)
    if not isinstance(body, dict):
        raise ValueError("the body must be an object of switches")
    return {str(name): str(value) for name, value in body.items()}


def stock_left(cloud: Cloud) -> list[Json]:
    return [
        {"type": name, "location": location, "count": count}
        for (name, location), count in cloud.books.stock.items()
    ]


def quota_used(cloud: Cloud) -> list[Json]:
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
        port = whole_number(call.request, "port", 0)
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
        get("/firewall/allows", "firewall_allows", firewall),
    ]


def _vm(cloud: Cloud, id_or_name: str) -> Vm:
    vm = cloud.books.find_vm(id_or_name)
    if vm is None:
        raise not_found("vm")
    return vm
