"""Every endpoint of the mkinf API v0.1 that this program uses, and how sure we are of it.

`DOCUMENTED` stands in the v0.1 guide or its reference pages. `INFERRED` is our conclusion from
Crusoe's published client, of which mkinf is a reseller, from the contents of mkinf's v0 docs, and
from programs that call it. Where an inference is wrong the cloud says 404, 405 or 501; the
client then raises `EndpointMissing` with the name, the mark and the fallback from this table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal
from urllib.parse import quote

from autoscaler.errors import Rejected

PROJECT: Final = "/projects/{project_id}"


class Mark(StrEnum):
    """How we know that an endpoint exists."""

    DOCUMENTED = "documented"
    INFERRED = "inferred"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call of the API.

    Attributes:
        name: how errors and logs call it.
        repeatable: sending it twice does no more than sending it once, so it may be retried.
        of_resource: the path names a VM, a disk, an operation …, so that 404 speaks of that thing
            and not of the endpoint.
        fallback: what this program does, or what you can do, where the endpoint is missing.
    """

    name: str
    method: str
    path: str
    mark: Mark
    repeatable: bool
    of_resource: bool
    fallback: str

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_project_scoped(self) -> bool:
        return self.path.startswith(PROJECT)

    @property
    def is_delete(self) -> bool:
        return self.method == "DELETE"

    def fill(self, **parameters: str) -> str:
        """Put the parameters into the path, quoted so that none can leave its place.

        Raises:
            Rejected: a parameter is empty, a dot segment, or too long to be an id.
        """
        for name, text in parameters.items():
            if text in ("", ".", "..") or len(text) > 200:
                raise Rejected(f"{self.label}: {name} cannot be {text[:40]!r}")
        return self.path.format(**{key: quote(text, safe="") for key, text in parameters.items()})


def _endpoint(name: str, call: str, mark: Mark, fallback: str = "none is known") -> Endpoint:
    method, path = call.split()
    return Endpoint(
        name=name,
        method=method,
        path=path.replace("P/", PROJECT + "/", 1) if path.startswith("P/") else path,
        mark=mark,
        repeatable=method in ("GET", "DELETE", "PATCH"),
        of_resource=bool(set(re.findall(r"{(\w+)}", path)) - {"project_id", "organization_id"}),
        fallback=fallback,
    )


_D, _I = Mark.DOCUMENTED, Mark.INFERRED

TOKEN = _endpoint("token", "POST /auth/token", _D, "use a project access key")
ORGANIZATIONS = _endpoint("organizations", "GET /organizations", _D)
PROJECTS = _endpoint("projects", "GET /projects", _D, "set the project id in the config")
BILLING = _endpoint("billing", "GET /organizations/{organization_id}/billing", _D)

LOCATIONS = _endpoint("locations", "GET P/locations", _I, "locations are read from availabilities")
AVAILABILITIES = _endpoint("availabilities", "GET P/availabilities", _D)
SPECS = _endpoint("specs", "GET P/specs", _D)
IMAGES = _endpoint("images", "GET P/images", _D)
IMAGE = _endpoint("image", "GET P/images/{image_id}", _I, "the list of images is searched")

VMS = _endpoint("vms", "GET P/vms", _D)
VM = _endpoint("vm", "GET P/vms/{vm_id}", _D)
VM_CREATE = _endpoint("vm_create", "POST P/vms", _D)
VM_DELETE = _endpoint(
    "vm_delete",
    "DELETE P/vms/{vm_id}",
    _I,
    "delete the VM in mkinf's console, and ask support which call terminates one",
)
VM_ACTION = _endpoint(
    "vm_action", "PATCH P/vms/{vm_id}", _I, "stop or start the VM in mkinf's console"
)
VM_ATTACH = _endpoint(
    "vm_attach_disks", "POST P/vms/{vm_id}/attach-disks", _I, "give disks when creating the VM"
)
VM_DETACH = _endpoint(
    "vm_detach_disks", "POST P/vms/{vm_id}/detach-disks", _I, "delete the VM; its disks stay"
)
VM_OPERATIONS = _endpoint(
    "vm_operations", "GET P/vms/operations", _D, "the state of the VMs is used instead"
)
VM_OPERATION = _endpoint(
    "vm_operation", "GET P/vms/operations/{operation_id}", _D, "judge by the VM"
)

_DISKS_OFF = "data disks stay off"
DISKS = _endpoint("disks", "GET P/disks", _I, _DISKS_OFF)
DISK = _endpoint("disk", "GET P/disks/{disk_id}", _I, _DISKS_OFF)
DISK_CREATE = _endpoint("disk_create", "POST P/disks", _I, _DISKS_OFF)
DISK_RESIZE = _endpoint("disk_resize", "PATCH P/disks/{disk_id}", _I, _DISKS_OFF)
DISK_DELETE = _endpoint("disk_delete", "DELETE P/disks/{disk_id}", _I, "delete it in the console")
DISK_OPERATIONS = _endpoint("disk_operations", "GET P/disks/operations", _I, "poll the disk")
DISK_OPERATION = _endpoint(
    "disk_operation", "GET P/disks/operations/{operation_id}", _I, "poll the disk"
)

NETWORKS = _endpoint(
    "networks", "GET P/vpc/networks", _I, "the network of any VM's interface is used"
)
SUBNETS = _endpoint("subnets", "GET P/vpc/subnets", _I, "the subnet of any VM's interface is used")

_RULE_LIST = "our own record of the rules is used; look in mkinf's console"
FIREWALL_RULE_CREATE = _endpoint("firewall_rule_create", "POST P/vpc/firewall-rules", _D)
FIREWALL_RULES = _endpoint("firewall_rules", "GET P/vpc/firewall-rules", _I, _RULE_LIST)
FIREWALL_RULE = _endpoint("firewall_rule", "GET P/vpc/firewall-rules/{rule_id}", _I, _RULE_LIST)
FIREWALL_RULE_UPDATE = _endpoint(
    "firewall_rule_update", "PATCH P/vpc/firewall-rules/{rule_id}", _I, "make a new rule"
)
FIREWALL_RULE_DELETE = _endpoint(
    "firewall_rule_delete",
    "DELETE P/vpc/firewall-rules/{rule_id}",
    _I,
    "delete it in mkinf's console",
)
FIREWALL_OPERATIONS = _endpoint(
    "firewall_operations", "GET P/vpc/firewall-rules/operations", _I, "list the rules"
)
FIREWALL_OPERATION = _endpoint(
    "firewall_operation", "GET P/vpc/firewall-rules/operations/{operation_id}", _I, "list the rules"
)

USAGE = _endpoint("usage", "GET P/usage", _I, "the organization's usage is asked for")
ORGANIZATION_USAGE = _endpoint(
    "organization_usage",
    "GET /organizations/{organization_id}/usage",
    _I,
    "our own meter is the truth; compare it with mkinf's invoice",
)

ENDPOINTS: Final[tuple[Endpoint, ...]] = tuple(
    value for value in dict(globals()).values() if isinstance(value, Endpoint)
)

OperationFamily = Literal["vms", "disks", "firewall-rules"]
OPERATION_OF: Final[Mapping[OperationFamily, Endpoint]] = {
    "vms": VM_OPERATION,
    "disks": DISK_OPERATION,
    "firewall-rules": FIREWALL_OPERATION,
}
OPERATIONS_OF: Final[Mapping[OperationFamily, Endpoint]] = {
    "vms": VM_OPERATIONS,
    "disks": DISK_OPERATIONS,
    "firewall-rules": FIREWALL_OPERATIONS,
}
