"""Usage: whole days, told after midnight UTC."""

from __future__ import annotations

from datetime import UTC, date, timedelta

from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.http import Answer, Call, Route, bad_request, json_answer, not_found
from autoscaler.emulator.meter import DayOfUse, usage
from autoscaler.emulator.routes.catalogue import comma_list
from autoscaler.emulator.settings import Settings
from autoscaler.emulator.shapes import Json


def routes(cloud: Cloud, settings: Settings) -> list[Route]:
    """Usage of one project, and of the organization."""

    def of_project(call: Call) -> Answer:
        return _usage(cloud, call, frozenset((call.project_id,)))

    def of_organization(call: Call) -> Answer:
        if call.params["organization_id"] != settings.organization_id:
            raise not_found("organization")
        every = frozenset(cloud.books.projects)
        open_to = frozenset((call.project_id,)) if call.project_id else every
        return _usage(cloud, call, open_to)

    return [
        Route("GET", "/projects/{project_id}/usage", "usage", of_project),
        Route("GET", "/organizations/{organization_id}/usage", "usage", of_organization),
    ]


def _usage(cloud: Cloud, call: Call, project_ids: frozenset[str]) -> Answer:
    now = cloud.now()
    today = now.astimezone(UTC).date()
    first = _day(call, "start_date", today - timedelta(days=30))
    last = _day(call, "end_date", today)
    if (last - first).days > 366:
        raise bad_request("start_date: at most 366 days")
    named, types, regions = (
        comma_list(call, key) for key in ("projects", "resource_types", "regions")
    )
    days = usage(cloud.books.meter, cloud.books.switches.meter, first, last, now)
    items = [
        _item(cloud, day)
        for day in days
        if day.project_id in project_ids
        and (not named or day.project_id in named)
        and (not types or day.type in types)
        and (not regions or day.region in regions)
    ]
    return json_answer({"items": items})


def _item(cloud: Cloud, day: DayOfUse) -> Json:
    by_gpu = cloud.books.switches.usage_quantity == "gpu_hours"
    if day.kind == "disk":
        metric, quantity = "gib-hours", day.unit_hours
    else:
        metric = "gpu-hours" if by_gpu else "vm-hours"
        quantity = day.unit_hours if by_gpu else day.hours
    return {
        "date": day.day.isoformat(),
        "project_id": cloud.books.projects[day.project_id].upstream_id,
        "region": day.region,
        "resource_type": day.type,
        "billable_metric": metric,
        "quantity": round(quantity, 6),
        "reservation_id": "",
    }


def _day(call: Call, key: str, default: date) -> date:
    text = call.request.query.get(key, "")
    try:
        return date.fromisoformat(text) if text else default
    except ValueError as exc:
        raise bad_request(f"{key}: must be YYYY-MM-DD") from exc
