"""Sign-in, organizations, projects and the billing link."""

from __future__ import annotations

from urllib.parse import parse_qsl

from pydantic import ValidationError

from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.credentials import SignInRefused
from autoscaler.emulator.http import (
    Answer,
    Call,
    Refused,
    Route,
    bad_request,
    json_answer,
    not_found,
    read_json,
)
from autoscaler.emulator.schema import Grant
from autoscaler.emulator.settings import Settings


def routes(cloud: Cloud, settings: Settings) -> list[Route]:
    """`/auth/token` and the account's own endpoints."""

    def token(call: Call) -> Answer:
        grant = _read_grant(call)
        try:
            if grant.grant_type == "password":
                pair = cloud.credentials.sign_in(grant.email, grant.password, cloud.now())
            else:
                pair = cloud.credentials.refresh(grant.refresh_token, cloud.now())
        except SignInRefused as exc:
            raise Refused(json_answer({"code": "401", "message": "bad_credential"}, 401)) from exc
        return json_answer(
            {
                "access_token": pair.access_token,
                "refresh_token": pair.refresh_token,
                "expires_in": cloud.credentials.life_told_s(),
                "token_type": "bearer",
            }
        )

    def organizations(_: Call) -> Answer:
        return json_answer(
            [
                {
                    "id": settings.organization_id,
                    "name": settings.organization_name,
                    "stripe_customer_id": "cus_Emulated0",
                }
            ]
        )

    def projects(call: Call) -> Answer:
        return json_answer(
            [
                {
                    "id": project.id,
                    "name": project.name,
                    "version": "v0.1",
                    "organization_id": settings.organization_id,
                }
                for project in settings.projects
                if call.project_id in ("", project.id)
            ]
        )

    def billing(call: Call) -> Answer:
        if call.params["organization_id"] != settings.organization_id:
            raise not_found("organization")
        session = cloud.shop.chance.new_token()[:24]
        return json_answer({"url": f"https://billing.example/session/{session}"})

    return [
        Route("POST", "/auth/token", "token", token, is_open=True),
        Route("GET", "/organizations", "organizations", organizations),
        Route("GET", "/projects", "projects", projects),
        Route("GET", "/organizations/{organization_id}/billing", "billing", billing),
    ]


def _read_grant(call: Call) -> Grant:
    """The grant's fields stand in a JSON body or a form; its type may stand in the query."""
    request = call.request
    fields: dict[str, object] = dict(request.query)
    if "form" in request.headers.get("content-type", ""):
        fields |= dict(parse_qsl(request.body.decode("utf-8", "replace")))
    else:
        body = read_json(request)
        fields |= body if isinstance(body, dict) else {}
    try:
        return Grant.model_validate(fields)
    except ValidationError as exc:
        raise bad_request("grant_type: must be password or refresh_token") from exc
