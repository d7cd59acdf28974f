"""Persistent disks."""

from __future__ import annotations

from datetime import datetime

from autoscaler.emulator.cloud import Cloud
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
from autoscaler.emulator.model import Disk, Operation, OperationState
from autoscaler.emulator.schema import DiskCreate, DiskPatch, read, size_gib

ROOT = "/projects/{project_id}/disks"


def routes(cloud: Cloud) -> list[Route]:
    """The disk endpoints."""

    def list_disks(call: Call) -> Answer:
        shapes = cloud.shapes()
        disks = [one for one in cloud.books.disks.values() if one.project_id == call.project_id]
        return json_answer({"items": [shapes.disk(disk) for disk in disks]})

    def create(call: Call) -> Answer:
        body = read(DiskCreate, call.request)
        request = read_json(call.request)
        assert isinstance(request, dict)  # DiskCreate was read from it
        if body.location not in cloud.books.catalogue.locations:
            raise bad_request(f"location: {body.location!r} does not exist")
        now = cloud.now()
        disk = Disk(
            id=cloud.shop.chance.new_id(),
            name=body.name,
            project_id=call.project_id,
            location=body.location,
            size_gib=size_gib(body.size),
            block_size=body.block_size,
            serial_number=cloud.shop.chance.new_serial(),
            created_at=now,
            updated_at=now,
        )
        mine = [one for one in cloud.books.disks.values() if one.project_id == call.project_id]
        if any(one.name == disk.name for one in mine):
            raise conflict(f"name: a disk named {disk.name!r} exists")
        cloud.books.add_disk(disk, now)
        result: dict[str, object] = {"id": disk.id, "name": disk.name}
        return _begun(cloud, disk, "CREATE", "create_disk", request, result)

    def get(call: Call) -> Answer:
        return json_answer(cloud.shapes().disk(_disk(cloud, call)))

    def patch(call: Call) -> Answer:
        disk = _disk(cloud, call)
        size = size_gib(read(DiskPatch, call.request).size)
        if size < disk.size_gib:
            raise bad_request("size: a disk cannot shrink")
        cloud.books.grow_disk(disk, size, cloud.now())
        return _begun(cloud, disk, "UPDATE", "patch_disk", {}, None)

    def delete(call: Call) -> Answer:
        disk = _disk(cloud, call)
        if disk.vm_id:
            raise bad_request("the disk is attached to a vm")
        answer = _begun(cloud, disk, "DELETE", "delete_disk", {}, None)
        cloud.books.remove_disk(disk, cloud.now())
        return answer

    one = f"{ROOT}/{{disk_id}}"
    return [
        Route("GET", ROOT, "list_disks", list_disks),
        Route("POST", ROOT, "create_disk", create),
        Route("GET", one, "get_disk", get),
        Route("PATCH", one, "patch_disk", patch),
        Route("DELETE", one, "delete_disk", delete),
    ]


def _disk(cloud: Cloud, call: Call) -> Disk:
    disk = cloud.books.disks.get(call.params["disk_id"])
    if disk is None or disk.project_id != call.project_id:
        raise not_found("disk")
    return disk


def _begun(
    cloud: Cloud,
    disk: Disk,
    name: str,
    call: str,
    request: dict[str, object],
    result: dict[str, object] | None,
) -> Answer:
    now = cloud.now()
    operation = cloud.books.begin(
        "disk", name, disk.project_id, disk.id, request, now, stuck=cloud.stuck(call, disk.name)
    )
    end_later(cloud, operation, cloud.shop.settings.timings.disk, result, now)
    return json_answer(cloud.shapes().begun(operation))


def end_later(
    cloud: Cloud,
    operation: Operation,
    bounds: tuple[float, float],
    result: dict[str, object] | None,
    now: datetime,
) -> None:
    """The operation succeeds after a while."""
    delay = cloud.shop.draw(bounds, operation.name, operation.resource_id)
    cloud.shop.agenda.at(
        now + delay,
        lambda at: cloud.books.end(operation, OperationState.SUCCEEDED, result, at),
    )
