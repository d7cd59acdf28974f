"""The bodies that callers send, as far as their form can be checked without the books."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from autoscaler.emulator.http import Request, bad_request, read_json

Filled = Annotated[str, StringConstraints(min_length=1)]


class Body(BaseModel):
    """Unknown fields are ignored, as the real API seems to do."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class DiskAttachment(Body):
    disk_id: Filled
    mode: Literal["read-write", "read-only"] = "read-write"
    attachment_type: Literal["data"] = "data"


class VmCreate(Body):
    name: Filled
    type: Filled
    location: Filled
    image: Filled
    ssh_public_key: Filled
    startup_script: str = ""
    shutdown_script: str = ""
    disks: tuple[DiskAttachment, ...] = ()


class VmPatch(Body):
    action: Literal["START", "STOP", "RESET"]


class AttachDisks(Body):
    attach_disks: Annotated[tuple[DiskAttachment, ...], Field(min_length=1)]


class DetachDisks(Body):
    detach_disks: Annotated[tuple[Filled, ...], Field(min_length=1)]


class DiskCreate(Body):
    name: Filled
    size: Filled
    type: Literal["persistent-ssd"] = "persistent-ssd"
    location: Filled
    block_size: Literal[512, 4096] = 4096


class DiskPatch(Body):
    size: Filled


class RuleObject(Body):
    cidr: str | None = None
    resource_id: str | None = None


class RuleCreate(Body):
    name: Filled
    action: Literal["allow"]
    direction: Literal["ingress", "egress"]
    protocols: Annotated[tuple[Literal["tcp", "udp", "icmp"], ...], Field(min_length=1)]
    sources: Annotated[tuple[RuleObject, ...], Field(min_length=1)]
    source_ports: tuple[str, ...] = ("1-65535",)
    destinations: Annotated[tuple[RuleObject, ...], Field(min_length=1)]
    destination_ports: tuple[str, ...] = ("1-65535",)
    vpc_network_id: Filled


class RulePatch(Body):
    name: Filled | None = None
    protocols: tuple[Literal["tcp", "udp", "icmp"], ...] | None = None
    sources: tuple[RuleObject, ...] | None = None
    source_ports: tuple[str, ...] | None = None
    destinations: tuple[RuleObject, ...] | None = None
    destination_ports: tuple[str, ...] | None = None


class Grant(Body):
    grant_type: Literal["password", "refresh_token"]
    email: str = ""
    password: Annotated[str, Field(repr=False)] = ""
    refresh_token: Annotated[str, Field(repr=False)] = ""


class FaultOrder(BaseModel):
    """An order for a fault, over the admin API: its kind, and the fields of that kind."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: Filled


class StockChange(Body):
    type: Filled
    location: Filled
    count: Annotated[int, Field(ge=0)]


class QuotaChange(Body):
    family: Filled
    count: Annotated[int, Field(ge=0)]


Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model], request: Request) -> Model:
    """Parse a request's body.

    Raises:
        Refused: 400, with the first thing that is wrong.
    """
    parsed = read_json(request)
    try:
        return model.model_validate(parsed)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in error["loc"]) or "body"
        what = (
            f"missing field: {field}" if error["type"] == "missing" else f"{field}: {error['msg']}"
        )
        raise bad_request(what) from exc


_SIZE = re.compile(r"(\d{1,6})(GiB|TiB)")


def size_gib(text: str) -> int:
    """Read `200GiB` or `1TiB`.

    Raises:
        Refused: 400, not of that form or out of 1 GiB to 10 TiB.
    """
    found = _SIZE.fullmatch(text)
    size = int(found[1]) * (1024 if found[2] == "TiB" else 1) if found else 0
    if not 1 <= size <= 10 * 1024:
        raise bad_request("size: must be from 1GiB to 10TiB")
    return size
