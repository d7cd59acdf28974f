"""The mkinf API v0.1, call by call, typed.

`endpoints.py` says of each call whether it is documented; where an inferred one is missing, the
fallback named there is taken if it can be taken in code.

Calls of one kind raise alike. Reading and deleting are repeated a few times, then raise
`CloudUnavailable`; an effect that is not safe to repeat is sent once and may raise
`OutcomeUnknown`. Every call may raise `AuthFailed`, `Rejected` and its kinds, and `SchemaError`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, datetime
from operator import attrgetter
from types import TracebackType
from typing import Final, Literal, Self

import structlog

from autoscaler.clock import Clock, SystemClock
from autoscaler.cloud.mkinf import bodies, endpoints
from autoscaler.cloud.mkinf.calls import Calls
from autoscaler.cloud.mkinf.credentials import Credential
from autoscaler.cloud.mkinf.fallbacks import networks_of, note_fallback, subnets_of
from autoscaler.cloud.mkinf.schema import parse
from autoscaler.cloud.mkinf.session import Session
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.mkinf.transport import HttpTransport, Send
from autoscaler.cloud.mkinf.values import (
    Attachment,
    Availability,
    BillingLink,
    Disk,
    FirewallRule,
    Image,
    Listing,
    LocationName,
    Network,
    Operation,
    Organization,
    Project,
    RuleRequest,
    Spec,
    Subnet,
    Usage,
    Vm,
    VmRequest,
)
from autoscaler.cloud.mkinf.whose import only_organization, only_project, project_named
from autoscaler.cloud.secret import Secret
from autoscaler.errors import AuthFailed, EndpointMissing, NotFound

log = structlog.get_logger(__name__)

Action = Literal["START", "STOP", "RESET"]

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class MkinfClient:
    """Calls the mkinf API. Use it as an async context manager, or `close` it."""

    def __init__(
        self,
        settings: MkinfSettings,
        credential: Credential,
        *,
        send: Send | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            send: makes the HTTP exchanges, by default over the network.
            rng: draws the jitter.
        """
        self._settings = settings
        self._transport: HttpTransport | None = None
        if send is None:
            self._transport = HttpTransport(settings)
            send = self._transport.send
        self._session = Session(
            settings,
            credential,
            send,
            clock or SystemClock(),
            rng or random.Random(),
        )
        self._calls = Calls(self._session, self.project_id)
        self._only_project_id: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections. Calls still under way are not waited for."""
        await self._session.close()
        if self._transport is not None:
            await self._transport.close()

    # the account

    @property
    def configured_project_id(self) -> str | None:
        return self._settings.project_id

    async def project_id(self) -> str:
        """Tell the project that everything is in: the configured one, by id or name, or the only one there is."""
        configured = self._settings.project_id
        if configured and _ID.fullmatch(configured):
            return configured
        if self._only_project_id is None and configured:
            self._only_project_id = await self._id_of(configured)
        if self._only_project_id is None:
            self._only_project_id = only_project(await self.projects())
        return self._only_project_id

    async def _id_of(self, name: str) -> str:
        """The id of the project of that name."""
        try:
            projects = await self.projects()
        except (AuthFailed, EndpointMissing, NotFound):
            return name  # a project's own key may not list them: taken for an id
        return project_named(name, projects)

    async def organizations(self) -> Listing[Organization]:
        return await self._calls.read_list(endpoints.ORGANIZATIONS, Organization)

    async def projects(self) -> Listing[Project]:
        return await self._calls.read_list(endpoints.PROJECTS, Project)

    async def billing_link(self) -> Secret:
        """Get the link to the organization's billing page: short-lived, and as good as a key."""
        organization = await self._organization_id()
        link = await self._calls.get(
            endpoints.BILLING, BillingLink, {"organization_id": organization}
        )
        return link.url

    async def usage(
        self,
        start: date,
        end: date,
        *,
        projects: Sequence[str] = (),
        resource_types: Sequence[str] = (),
        regions: Sequence[str] = (),
    ) -> Listing[Usage]:
        """List metered use by day, `end` included; each day appears after its midnight in UTC."""
        query = bodies.query(
            start_date=start.isoformat(),
            end_date=end.isoformat(),
            projects=projects,
            resource_types=resource_types,
            regions=regions,
        )
        try:
            return await self._calls.read_list(endpoints.USAGE, Usage, query)
        except EndpointMissing as exc:
            note_fallback(exc)
        return await self._calls.read_list(
            endpoints.ORGANIZATION_USAGE,
            Usage,
            query,
            {"organization_id": await self._organization_id()},
        )

    # the catalogue

    async def locations(self) -> tuple[str, ...]:
        """List locations, sorted. Where there is no such endpoint, from availabilities."""
        try:
            return tuple(sorted(await self._calls.read_list(endpoints.LOCATIONS, LocationName)))
        except EndpointMissing as exc:
            note_fallback(exc)
        return tuple(sorted({each.location for each in await self.availabilities()}))

    async def availabilities(
        self, *, types: Sequence[str] = (), locations: Sequence[str] = ()
    ) -> Listing[Availability]:
        """List what is said to be in stock, of these types and locations (all when empty).

        That several can be asked for at once is inferred, so the answer is filtered again.
        """
        query = bodies.query(product_name=types, location=locations)
        listing = await self._calls.read_list(endpoints.AVAILABILITIES, Availability, query)
        wanted = (
            each
            for each in listing
            if (not types or each.type in types) and (not locations or each.location in locations)
        )
        return Listing(tuple(wanted), listing.complete, listing.problems, listing.doubts)

    async def specs(self, *, location: str | None = None) -> Listing[Spec]:
        return await self._calls.read_list(endpoints.SPECS, Spec, bodies.query(location=location))

    async def images(self, *, product_group: str | None = None) -> Listing[Image]:
        return await self._calls.read_list(
            endpoints.IMAGES, Image, bodies.query(product_group=product_group)
        )

    async def image(self, image_id: str) -> Image:
        """Get one image by id or name; where there is no such endpoint, from the list.

        Raises:
            NotFound: there is none.
        """
        try:
            return await self._calls.get(endpoints.IMAGE, Image, {"image_id": image_id})
        except (EndpointMissing, NotFound):
            for image in await self.images():
                if image_id in (image.id, image.name):
                    return image
            raise NotFound(f"no image {image_id!r}: `autoscaler cloud images` lists them") from None

    # virtual machines

    async def create_vm(self, request: VmRequest) -> Operation:
        """Ask for one VM, once.

        Raises:
            OutOfStock, QuotaExceeded, PaymentRequired, Rejected: nothing was made.
            CloudUnavailable: nothing was sent.
            OutcomeUnknown: it may have been made: look for its name.
        """
        return await self._calls.effect(endpoints.VM_CREATE, {}, bodies.vm(request))

    async def vms(self) -> Listing[Vm]:
        """List every VM of the project, unfiltered, following pages to the end."""
        return await self._calls.read_list(endpoints.VMS, Vm, key=attrgetter("id"))

    async def vm(self, vm_id: str) -> Vm:
        """Get one VM. `NotFound` may be said of one just made, and alone proves nothing."""
        return await self._calls.get(endpoints.VM, Vm, {"vm_id": vm_id})

    async def delete_vm(self, vm_id: str) -> Operation | None:
        """Ask for a VM to go. No answer proves that it does; `NotFound` neither."""
        return await self._calls.optional_effect(endpoints.VM_DELETE, {"vm_id": vm_id})

    async def act_on_vm(self, vm_id: str, action: Action) -> Operation | None:
        """Start, stop or reset a VM."""
        return await self._calls.optional_effect(
            endpoints.VM_ACTION,
            {"vm_id": vm_id},
            {"action": action},
            repeatable=action != "RESET",
        )

    async def attach_disks(self, vm_id: str, disks: Sequence[Attachment]) -> Operation | None:
        body = {"attach_disks": [asdict(disk) for disk in disks]}
        return await self._calls.optional_effect(endpoints.VM_ATTACH, {"vm_id": vm_id}, body)

    async def detach_disks(self, vm_id: str, disk_ids: Sequence[str]) -> Operation | None:
        body = {"detach_disks": list(disk_ids)}
        return await self._calls.optional_effect(endpoints.VM_DETACH, {"vm_id": vm_id}, body)

    # operations

    async def operation(
        self, operation_id: str, of: endpoints.OperationFamily = "vms"
    ) -> Operation:
        """Get one operation. A finished one may be told once only: keep what it says.

        Raises:
            NotFound: it was told before, or never was: judge by the VM.
        """
        return await self._calls.get(
            endpoints.OPERATION_OF[of], Operation, {"operation_id": operation_id}
        )

    async def operations(
        self,
        of: endpoints.OperationFamily = "vms",
        *,
        since: datetime | None = None,
        resource_id: str | None = None,
        state: str | None = None,
    ) -> Listing[Operation]:
        """List operations under way, and finished ones that nobody has read yet."""
        query = bodies.query(
            resource_id=resource_id,
            state=state,
            lower_time_bound=since.isoformat().replace("+00:00", "Z") if since else None,
        )
        return await self._calls.read_list(
            endpoints.OPERATIONS_OF[of], Operation, query, key=attrgetter("operation_id")
        )

    # disks

    async def disks(self) -> Listing[Disk]:
        return await self._calls.read_list(endpoints.DISKS, Disk, key=attrgetter("id"))

    async def disk(self, disk_id: str) -> Disk:
        return await self._calls.get(endpoints.DISK, Disk, {"disk_id": disk_id})

    async def create_disk(
        self,
        name: str,
        size: str,
        location: str,
        *,
        type: str = "persistent-ssd",
        block_size: int = 4096,
    ) -> Operation:
        """Make a data disk; `size` as in `200GiB`. Raises as `create_vm` does."""
        body = {
            "name": name,
            "size": size,
            "type": type,
            "location": location,
            "block_size": block_size,
        }
        return await self._calls.effect(endpoints.DISK_CREATE, {}, body)

    async def resize_disk(self, disk_id: str, size: str) -> Operation | None:
        return await self._calls.optional_effect(
            endpoints.DISK_RESIZE, {"disk_id": disk_id}, {"size": size}
        )

    async def delete_disk(self, disk_id: str) -> Operation | None:
        return await self._calls.optional_effect(endpoints.DISK_DELETE, {"disk_id": disk_id})

    # networks and the firewall

    async def networks(self) -> Listing[Network]:
        """List networks; where there is no such endpoint, those that the VMs stand in."""
        try:
            return await self._calls.read_list(endpoints.NETWORKS, Network)
        except EndpointMissing as exc:
            note_fallback(exc)
        return networks_of(await self.vms())

    async def subnets(self) -> Listing[Subnet]:
        """List subnets; where there is no such endpoint, those that the VMs stand in."""
        try:
            return await self._calls.read_list(endpoints.SUBNETS, Subnet)
        except EndpointMissing as exc:
            note_fallback(exc)
        return subnets_of(await self.vms())

    async def firewall_rules(self) -> Listing[FirewallRule]:
        return await self._calls.read_list(endpoints.FIREWALL_RULES, FirewallRule)

    async def firewall_rule(self, rule_id: str) -> FirewallRule:
        return await self._calls.get(endpoints.FIREWALL_RULE, FirewallRule, {"rule_id": rule_id})

    async def create_firewall_rule(self, request: RuleRequest) -> Operation | FirewallRule:
        """Make an ingress rule. Answered by an operation, or (undocumented) by the bare rule."""
        document = await self._calls.call(endpoints.FIREWALL_RULE_CREATE, {}, bodies.rule(request))
        if isinstance(document, dict) and "id" in document and "operation" not in document:
            rule, _ = parse(endpoints.FIREWALL_RULE_CREATE, FirewallRule, document)
            return rule
        return self._calls.operation(endpoints.FIREWALL_RULE_CREATE, document)

    async def update_firewall_rule(
        self,
        rule_id: str,
        *,
        name: str | None = None,
        sources: Sequence[str] | None = None,
        destination_ports: Sequence[str] | None = None,
    ) -> Operation | None:
        """Change what is given of a rule; `sources` are CIDRs."""
        body = bodies.rule_change(name, sources, destination_ports)
        return await self._calls.optional_effect(
            endpoints.FIREWALL_RULE_UPDATE, {"rule_id": rule_id}, body
        )

    async def delete_firewall_rule(self, rule_id: str) -> Operation | None:
        return await self._calls.optional_effect(
            endpoints.FIREWALL_RULE_DELETE, {"rule_id": rule_id}
        )

    async def _organization_id(self) -> str:
        """Find the organization: from the settings, the project's, or the only one."""
        if self._settings.organization_id:
            return self._settings.organization_id
        for project in await self.projects():
            if self._settings.project_id in (project.id, project.name) and project.organization_id:
                return project.organization_id
        return only_organization(await self.organizations())
