"""Operations of VMs, disks and firewall rules: read one, or list those of interest."""

from __future__ import annotations

from datetime import UTC, datetime

from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.http import Answer, Call, Route, bad_request, json_answer, not_found
from autoscaler.emulator.model import Operation, OperationState

_PLACES = {"vm": "vms", "disk": "disks", "firewall_rule": "vpc/firewall-rules"}


def routes(cloud: Cloud) -> list[Route]:
    """`…/operations` and `…/operations/{id}` in three places."""
    return [route for scope in _PLACES for route in _routes_of(cloud, scope)]


def _routes_of(cloud: Cloud, scope: str) -> list[Route]:
    def get(call: Call) -> Answer:
        operation = cloud.books.operations.get(call.params["operation_id"])
        if operation is None or not _is_kept(cloud, operation):
            raise not_found("operation")
        if operation.scope != scope or operation.project_id != call.project_id:
            raise not_found("operation")
        if operation.state is not OperationState.IN_PROGRESS:
            operation.read = True
        return json_answer(cloud.shapes().operation(operation))

    def list_operations(call: Call) -> Answer:
        query = call.request.query
        since = _instant(query.get("lower_time_bound", ""))
        shapes = cloud.shapes()
        items = [
            shapes.operation(operation)
            for operation in cloud.books.operations.values()
            if operation.scope == scope
            and operation.project_id == call.project_id
            and _is_kept(cloud, operation)
            and query.get("resource_id") in (None, "", operation.resource_id)
            and query.get("state") in (None, "", operation.state.value)
            and (since is None or operation.started_at >= since)
        ]
        return json_answer({"items": items})

    root = f"/projects/{{project_id}}/{_PLACES[scope]}/operations"
    return [
        Route("GET", root, f"list_{scope}_operations", list_operations),
        Route("GET", f"{root}/{{operation_id}}", f"get_{scope}_operation", get),
    ]


def _is_kept(cloud: Cloud, operation: Operation) -> bool:
    return cloud.books.switches.finished_operations == "kept" or not operation.read


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as exc:
        raise bad_request("lower_time_bound: must be an RFC 3339 time") from exc
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
