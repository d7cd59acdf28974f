"""VMs: create, list, get, delete, the state actions, and their disks."""

from __future__ import annotations

import base64
from dataclasses import replace

from autoscaler.emulator.admission import admit, check_attachments
from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.faults import Subject
from autoscaler.emulator.http import (
    Answer,
    Call,
    Route,
    bad_request,
    conflict,
    json_answer,
    not_found,
    read_json,
)
from autoscaler.emulator.model import OperationState, Vm, VmState
from autoscaler.emulator.routes.catalogue import comma_list
from autoscaler.emulator.schema import AttachDisks, DetachDisks, VmCreate, VmPatch, read
from autoscaler.emulator.shapes import Json

ROOT = "/projects/{project_id}/vms"


def routes(cloud: Cloud, page_size: int) -> list[Route]:
    """The VM endpoints."""

    def create(call: Call) -> Answer:
        body = read(VmCreate, call.request)
        request = read_json(call.request)
        assert isinstance(request, dict)  # VmCreate was read from it
        order = admit(cloud.books, call.project_id, body, request)
        operation = cloud.creation.create(order, cloud.now())
        hide_id = cloud.books.switches.create_id == "no"
        return json_answer(cloud.shapes().begun(operation, hide_id=hide_id))

    def list_vms(call: Call) -> Answer:
        items = [item for item in _listed(cloud, call) if _matches(call, item)]
        if _is_descending(call):
            items.reverse()
        if cloud.books.switches.list == "paged":
            return json_answer(_page(cloud, call, items, page_size))
        return json_answer({"items": items})

    def get(call: Call) -> Answer:
        vm = cloud.visible_vm(call.project_id, call.params["vm_id"], "get_vm")
        return json_answer(_told(cloud, vm, "get_vm"))

    def delete(call: Call) -> Answer:
        vm = cloud.visible_vm(call.project_id, call.params["vm_id"], "delete_vm")
        if vm.state is VmState.DELETING:
            raise conflict("the vm is being deleted")
        if vm.state is VmState.RUNNING and cloud.books.switches.delete_running == "refused":
            raise bad_request("the vm is running: stop it first")
        return json_answer(cloud.shapes().begun(cloud.lifecycle.delete(vm, cloud.now())))

    def patch(call: Call) -> Answer:
        action = read(VmPatch, call.request).action
        vm = cloud.visible_vm(call.project_id, call.params["vm_id"], "patch_vm")
        needed = VmState.SHUTOFF if action == "START" else VmState.RUNNING
        if vm.state is not needed:
            raise bad_request(f"{action} needs STATE_{needed}: the vm is STATE_{vm.state}")
        moves = {
            "START": cloud.lifecycle.start,
            "STOP": cloud.lifecycle.stop,
            "RESET": cloud.lifecycle.reset,
        }
        return json_answer(cloud.shapes().begun(moves[action](vm, cloud.now())))

    def attach(call: Call) -> Answer:
        vm = cloud.visible_vm(call.project_id, call.params["vm_id"], "attach_disks")
        wanted = read(AttachDisks, call.request).attach_disks
        already = sum(not disk.is_os for disk in cloud.books.disks_on(vm))
        disks = check_attachments(
            cloud.books, call.project_id, vm.location, wanted, already=already
        )
        for disk, one in zip(disks, wanted, strict=True):
            disk.vm_id, disk.mode = vm.id, one.mode
        return _disks_changed(cloud, vm, "ATTACH_DISKS", "attach_disks")

    def detach(call: Call) -> Answer:
        vm = cloud.visible_vm(call.project_id, call.params["vm_id"], "detach_disks")
        mine = {disk.id: disk for disk in cloud.books.disks_on(vm) if not disk.is_os}
        wanted = read(DetachDisks, call.request).detach_disks
        if not mine.keys() >= set(wanted):
            raise not_found("disk")
        for disk_id in wanted:
            mine[disk_id].vm_id = ""
        return _disks_changed(cloud, vm, "DETACH_DISKS", "detach_disks")

    return [
        Route("POST", ROOT, "create_vm", create),
        Route("GET", ROOT, "list_vms", list_vms),
        Route("GET", f"{ROOT}/{{vm_id}}", "get_vm", get),
        Route("DELETE", f"{ROOT}/{{vm_id}}", "delete_vm", delete),
        Route("PATCH", f"{ROOT}/{{vm_id}}", "patch_vm", patch),
        Route("POST", f"{ROOT}/{{vm_id}}/attach-disks", "attach_disks", attach),
        Route("POST", f"{ROOT}/{{vm_id}}/detach-disks", "detach_disks", detach),
    ]


def _disks_changed(cloud: Cloud, vm: Vm, name: str, call: str) -> Answer:
    now = cloud.now()
    operation = cloud.shop.begin_on_vm(vm, name, call, {}, now)
    delay = cloud.shop.draw(cloud.shop.settings.timings.disk, call, vm.name)
    cloud.shop.agenda.at(
        now + delay,
        lambda at: cloud.books.end(operation, OperationState.SUCCEEDED, None, at),
    )
    return json_answer(cloud.shapes().begun(operation))


def _told(cloud: Cloud, vm: Vm, call: str) -> Json:
    told = cloud.shapes().vm(vm)
    if cloud.faults.take("odd_state", replace(vm.subject, call=call)) is not None:
        told["state"] = "STATE_FROBNICATING"
    return told


def _listed(cloud: Cloud, call: Call) -> list[Json]:
    """The project's VMs as the list tells them, which faults may bend."""
    faults = cloud.faults
    vms = [vm for vm in cloud.books.vms_of(call.project_id) if vm.seen_by_list]
    subject = Subject(call="list_vms")
    if faults.take("list_empty", subject) is not None:
        return []
    stale = faults.take("list_stale", subject)
    if stale is not None:
        return list(cloud.stale_lists.get(stale.id, {}).get(call.project_id, []))
    items = [
        _told(cloud, vm, "list_vms")
        for vm in vms
        if faults.take("flicker", replace(vm.subject, call="list_vms")) is None
    ]
    partial = faults.take("list_partial", subject)
    if partial is not None:
        items = items[: int(len(items) * partial.option("keep"))]
    if faults.take("bad_item", subject) is not None:
        items.insert(0, {"id": None, "state": 7, "network_interfaces": "none"})
    return items


def _matches(call: Call, item: Json) -> bool:
    filters = {"ids": "id", "names": "name", "types": "type", "locations": "location"}
    for key, field in filters.items():
        wanted = comma_list(call, key)
        if wanted and item.get(field) not in wanted:
            return False
    states = {state.upper().removeprefix("STATE_") for state in comma_list(call, "states")}
    return not states or str(item.get("state")).removeprefix("STATE_") in states


def _is_descending(call: Call) -> bool:
    return call.request.query.get("sort", "").lower() in ("desc", "-created_at", "created_at:desc")


def _page(cloud: Cloud, call: Call, items: list[Json], page_size: int) -> Json:
    """One page. A token names the last VM before it, so that one deleted meanwhile shifts nothing."""
    query = call.request.query
    numbers = cloud.books.vm_numbers
    try:
        after = _number(query.get("next_token", "") or query.get("prev_token", ""))
        size = min(max(int(query.get("limit", page_size)), 1), 1000)
    except ValueError as exc:
        raise bad_request("limit or token is not valid") from exc
    places = [numbers.get(str(item["id"]), 0) for item in items]
    if _is_descending(call):
        places = [-place for place in places]
        after = -after
    start = 0 if not after else sum(place <= after for place in places)
    end = start + size
    page: Json = {"items": items[start:end], "next_page_token": ""}
    if end < len(items):
        page["next_page_token"] = _token(places[end - 1])
    if start:
        page["prev_page_token"] = _token(places[start - size - 1] if start > size else 0)
    if cloud.faults.take("list_loops", Subject(call="list_vms")) is not None:
        page["next_page_token"] = _token(after)
    return page


def _token(number: int) -> str:
    return base64.urlsafe_b64encode(f"after:{abs(number)}".encode()).decode()


def _number(token: str) -> int:
    """Raises ValueError for what is no token."""
    if not token:
        return 0
    word, _, number = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    if word != "after":
        raise ValueError(token)
    return int(number)
