"""What the API's answers say, as frozen values named as the API names them.

Parsed leniently: unknown fields are ignored, a missing one is None, and `""` means none. Fields
without a default are those an answer is useless without. `schema.py` reads JSON into them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Generic, TypeVar, cast

from pydantic import BeforeValidator, Field, PlainValidator

from autoscaler.cloud.mkinf.sizes import size_gib
from autoscaler.cloud.secret import Secret


def _text(value: object) -> object:
    if value == "":
        return None
    return str(value) if isinstance(value, int | float) and value is not True else value


def _no_null(value: object) -> object:
    return () if value is None else value


def _state(value: object) -> object:
    """Fold a state to upper case without the prefix that is sometimes there."""
    return value.strip().upper().removeprefix("STATE_") if isinstance(value, str) else value


def _instant(value: object) -> object:
    if isinstance(value, str) and value:
        at = datetime.fromisoformat(value)
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return None if value == "" else value


def _secret(value: object) -> Secret:
    if not isinstance(value, str):
        raise ValueError("should be a text")
    return Secret(value)


T = TypeVar("T")

Day = date  # a field of that name hides the type
Id = Annotated[str, Field(min_length=1, max_length=200), BeforeValidator(_text)]
Text = Annotated[str | None, BeforeValidator(_text)]
Figure = Annotated[float | None, Field(allow_inf_nan=False)]
State = Annotated[str, BeforeValidator(_state)]
Instant = Annotated[datetime | None, BeforeValidator(_instant)]
Hidden = Annotated[Secret, PlainValidator(_secret)]
Several = Annotated[tuple[T, ...], BeforeValidator(_no_null)]


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list that the API gave, whole or not.

    Attributes:
        complete: every page and item was understood. If not, it may add but never remove.
        problems: why it is not complete, for people.
        doubts: it looks complete, but something hints at more (an unknown field beside the items,
            a count as round as a page).
    """

    items: tuple[T, ...]
    complete: bool = True
    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)


@dataclass(frozen=True, slots=True)
class Token:
    access_token: Hidden
    refresh_token: Hidden | None = None
    expires_in: Annotated[float, Field(gt=0, le=31_536_000)] = 3600.0


@dataclass(frozen=True, slots=True)
class Organization:
    id: Id
    name: Text = None


@dataclass(frozen=True, slots=True)
class Project:
    id: Id
    name: Text = None
    version: Text = None
    organization_id: Text = None


@dataclass(frozen=True, slots=True)
class BillingLink:
    url: Hidden


def _location(value: object) -> object:
    return value.get("name") if isinstance(value, dict) else value


# A location is listed as a text, or perhaps as an object with a name. The cast: mypy takes an
# Annotated type for no `type[str]`.
LocationName = cast("type[str]", Annotated[Id, BeforeValidator(_location)])


@dataclass(frozen=True, slots=True)
class Availability:
    type: Id
    location: Id
    available: bool


@dataclass(frozen=True, slots=True)
class Spec:
    product_name: Id
    num_gpu: Annotated[int, Field(ge=0)]
    gpu_type: Text = None
    description: Text = None
    cpu_cores: int | None = None
    cpu_type: Text = None
    memory_gb: Figure = None
    disk_gb: Figure = None
    disk_type: Text = None


@dataclass(frozen=True, slots=True)
class Image:
    name: Id
    id: Text = None
    description: Text = None
    tags: Several[str] = ()
    created_at: Instant = None
    locations: tuple[str, ...] | None = None  # None: not said


@dataclass(frozen=True, slots=True)
class Address:
    address: Text = None


@dataclass(frozen=True, slots=True)
class AddressPair:
    private_ipv4: Address | None = None
    public_ipv4: Address | None = None


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    id: Text = None
    network: Text = None
    subnet: Text = None
    ips: Several[AddressPair] = ()


@dataclass(frozen=True, slots=True)
class VmDisk:
    id: Id
    name: Text = None
    size: Text = None
    attachment_type: Text = None
    mode: Text = None


@dataclass(frozen=True, slots=True)
class Vm:
    """A virtual machine. `state` is upper case without prefix; `UNSPECIFIED` when not said.

    Its `project_id` and `ssh_destination` are left out: the first is another firm's, the second
    always says `:0`.
    """

    id: Id
    name: str
    type: Text = None
    location: Text = None
    state: State = "UNSPECIFIED"
    created_at: Instant = None
    updated_at: Instant = None
    disks: Several[VmDisk] = ()
    network_interfaces: Several[NetworkInterface] = ()

    @property
    def public_address(self) -> str | None:
        return next((pair.public_ipv4.address for pair in self._pairs() if pair.public_ipv4), None)

    @property
    def private_address(self) -> str | None:
        pairs = (pair.private_ipv4.address for pair in self._pairs() if pair.private_ipv4)
        return next(pairs, None)

    def _pairs(self) -> tuple[AddressPair, ...]:
        return self.network_interfaces[0].ips[:1] if self.network_interfaces else ()


@dataclass(frozen=True, slots=True)
class RequestEcho:
    """What an operation repeats of its request. Of the startup script only that it is there, never its text."""

    name: Text = None
    type: Text = None
    location: Text = None
    startup_script: Annotated[bool, BeforeValidator(bool)] = False


@dataclass(frozen=True, slots=True)
class OperationMetadata:
    operation_name: Text = None
    id: Text = None
    type: Text = None
    request: RequestEcho | None = None


@dataclass(frozen=True, slots=True)
class OperationResult:
    id: Text = None
    name: Text = None
    code: Text = None
    message: Text = None


@dataclass(frozen=True, slots=True)
class Operation:
    """An asynchronous call. `state` is upper case; any but SUCCEEDED and FAILED is under way."""

    operation_id: Id
    state: State
    metadata: OperationMetadata | None = None
    result: OperationResult | None = None
    started_at: Instant = None
    completed_at: Instant = None

    @property
    def kind(self) -> str:
        return (self.metadata and self.metadata.operation_name) or ""

    @property
    def resource_id(self) -> str | None:
        """The VM, disk or rule it is about, when it says so."""
        if self.metadata and self.metadata.id:
            return self.metadata.id
        return self.result.id if self.result and self.state == "SUCCEEDED" else None

    @property
    def request_name(self) -> str | None:
        return self.metadata.request.name if self.metadata and self.metadata.request else None

    @property
    def echoes_script(self) -> bool:
        """Whether it shows the startup script to whoever has a key."""
        request = self.metadata.request if self.metadata else None
        return request is not None and request.startup_script


@dataclass(frozen=True, slots=True)
class OperationAnswer:
    """An operation as the answer to a call with an effect wraps it."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class Attachment:
    """A data disk as it is given to a VM."""

    disk_id: str
    mode: str = "read-write"
    attachment_type: str = "data"


@dataclass(frozen=True, slots=True)
class AttachedTo:
    id: Text = None
    name: Text = None


def _attached(value: object) -> object:
    """Read whom a disk is attached to: texts, or objects of a VM's id."""
    if isinstance(value, list):
        return [{"id": each} if isinstance(each, str) else each for each in value]
    return _no_null(value)


@dataclass(frozen=True, slots=True)
class Disk:
    id: Id
    name: Text = None
    type: Text = None
    size: Text = None
    location: Text = None
    block_size: int | None = None
    created_at: Instant = None
    attached_to: Annotated[tuple[AttachedTo, ...], BeforeValidator(_attached)] = ()

    @property
    def size_gib(self) -> float | None:
        return size_gib(self.size)


@dataclass(frozen=True, slots=True)
class Network:
    id: Id
    name: Text = None
    cidr: Text = None
    subnets: Several[str] = ()


@dataclass(frozen=True, slots=True)
class Subnet:
    id: Id
    name: Text = None
    cidr: Text = None
    location: Text = None
    vpc_network_id: Text = None


@dataclass(frozen=True, slots=True)
class Endpoints:
    """One side of a firewall rule: a CIDR, or a network, subnet or VM by its id."""

    cidr: Text = None
    resource_id: Text = None


@dataclass(frozen=True, slots=True)
class FirewallRule:
    id: Id
    name: Text = None
    action: Text = None
    direction: Text = None
    state: Text = None
    protocols: Several[str] = ()
    sources: Several[Endpoints] = ()
    source_ports: Several[str] = ()
    destinations: Several[Endpoints] = ()
    destination_ports: Several[str] = ()
    vpc_network_id: Text = None


@dataclass(frozen=True, slots=True)
class RuleRequest:
    """An ingress rule to make: TCP from CIDRs to ports of a network (or subnet, or VM)."""

    name: str
    network_id: str
    sources: tuple[str, ...]
    destination_ports: tuple[str, ...]
    destination_id: str | None = None
    source_ports: tuple[str, ...] = ("1-65535",)
    protocols: tuple[str, ...] = ("tcp",)


@dataclass(frozen=True, slots=True)
class VmRequest:
    """A VM to create."""

    name: str
    type: str
    location: str
    image: str
    ssh_public_key: str
    startup_script: str = ""
    shutdown_script: str = ""
    disks: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    date: Day
    quantity: Decimal
    resource_type: Text = None
    billable_metric: Text = None
    project_id: Text = None
    region: Text = None
