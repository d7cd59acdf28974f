"""`autoscaler cloud …`: every call of the mkinf API from the shell.

It is for looking, and for setting right by hand what went wrong. It knows no policy and no limit:
what is created here is no node, and the daemon shows it as somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autoscaler.cli.cloud_disks import attachment, disks_app
from autoscaler.cli.cloud_network import network_app
from autoscaler.cli.cloud_tables import (
    OPERATION_COLUMNS,
    Id,
    Ids,
    YesOption,
    answered,
    document,
    each_answered,
    listed,
    notes,
    one,
    operation_row,
    when,
)
from autoscaler.cli.connection import JsonOption, Table, cloud_command, confirmed, show
from autoscaler.cloud.mkinf import endpoints
from autoscaler.cloud.mkinf.client import Action
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.endpoints import OperationFamily
from autoscaler.cloud.mkinf.values import (
    Operation,
    Vm,
    VmRequest,
)
from autoscaler.domain.ids import parse_name
from autoscaler.errors import ConfigError, NotFound

cloud_app = typer.Typer(
    name="cloud",
    help="Call the mkinf API: look at what is there, and set it right by hand.",
    no_args_is_help=True,
)
cloud_app.add_typer(disks_app)
cloud_app.add_typer(network_app)


class Of(StrEnum):
    """Whose operations."""

    VMS = "vms"
    DISKS = "disks"
    FIREWALL_RULES = "firewall-rules"


_FAMILY: dict[Of, OperationFamily] = {
    Of.VMS: "vms",
    Of.DISKS: "disks",
    Of.FIREWALL_RULES: "firewall-rules",
}


# the catalogue


@cloud_app.command("locations")
@cloud_command
async def locations(cloud: MkinfCloud) -> Table:
    """List locations."""
    names = await cloud.client.locations()
    return Table(("Location",), [(name,) for name in names], {"items": names})


@cloud_app.command("availabilities")
@cloud_command
async def availabilities(
    cloud: MkinfCloud,
    type: Annotated[list[str] | None, typer.Option("--type", help="may be repeated")] = None,
    location: Annotated[
        list[str] | None, typer.Option("--location", help="may be repeated")
    ] = None,
) -> Table:
    """List which types are said to be in stock where."""
    listing = await cloud.client.availabilities(types=type or (), locations=location or ())
    return listed(listing, type="type", location="location", available="available")


@cloud_app.command("specs")
@cloud_command
async def specs(
    cloud: MkinfCloud, location: Annotated[str | None, typer.Option(help="only there")] = None
) -> Table:
    """List what types are made of, as the API says."""
    listing = await cloud.client.specs(location=location)
    return listed(
        listing,
        type="product_name",
        GPUs="num_gpu",
        GPU="gpu_type",
        vCPU="cpu_cores",
        RAM="memory_gb",
        disk_gb="disk_gb",
        description="description",
    )


@cloud_app.command("images")
@cloud_command
async def images(
    cloud: MkinfCloud,
    product_group: Annotated[str | None, typer.Option(help="as mkinf names it")] = None,
) -> Table:
    """List the images that VMs boot from, and where they are."""
    listing = await cloud.client.images(product_group=product_group)
    return listed(
        listing,
        name="name",
        tags="tags",
        locations="locations",
        description="description",
        id="id",
    )


@cloud_app.command("image")
@cloud_command
async def image(
    cloud: MkinfCloud, image: Annotated[str, typer.Argument(help="id or name")]
) -> Table:
    """Show one image."""
    return one(await cloud.client.image(image))


@cloud_app.command("endpoints")
def list_endpoints(json: JsonOption = False) -> None:
    """List the API's endpoints: which are documented, which inferred, and what if they fail."""
    rows = [
        (each.name, each.method, each.path, each.mark, each.fallback)
        for each in endpoints.ENDPOINTS
    ]
    columns = ("Name", "Method", "Path", "Mark", "If it is missing")
    document = [asdict(each) for each in endpoints.ENDPOINTS]
    show(Table(columns, rows, {"items": document}), as_json=json)


# virtual machines


@cloud_app.command("vms")
@cloud_command
async def vms(cloud: MkinfCloud) -> Table:
    """List every VM of the project."""
    listing = await cloud.client.vms()
    rows = [
        (vm.name, vm.state, vm.type, vm.location, vm.public_address, when(vm.created_at), vm.id)
        for vm in listing
    ]
    columns = ("Name", "State", "Type", "Location", "Address", "Created", "Id")
    return Table(columns, rows, document(listing), notes(listing))


@cloud_app.command("vm")
@cloud_command
async def vm(cloud: MkinfCloud, vm_id: Id) -> Table:
    """Show one VM."""
    return one(await cloud.client.vm(vm_id))


@cloud_app.command("create")
@cloud_command
async def create(
    cloud: MkinfCloud,
    name: Annotated[str, typer.Argument(help="a-z, 0-9 and -, unique in the project")],
    type: Annotated[str, typer.Option("--type", help="as `autoscaler offers` lists it")],
    location: Annotated[str, typer.Option(help="as `autoscaler offers` lists it")],
    ssh_public_key: Annotated[Path, typer.Option(help="file with your public key")],
    image: Annotated[str | None, typer.Option(help="default: the one that fits the type")] = None,
    startup_script: Annotated[Path | None, typer.Option(help="run as root at every boot")] = None,
    shutdown_script: Annotated[Path | None, typer.Option(help="run before power-off")] = None,
    disk: Annotated[
        list[str] | None, typer.Option(help="data disk ID or ID:read-only; may be repeated")
    ] = None,
    yes: YesOption = False,
) -> Table:
    """Rent one VM, once. It bills until you delete it: the daemon does not know it."""
    if parse_name(name) is not None:
        raise ConfigError(f"{name}: names of this form are the daemon's: it would delete the VM")
    offer = next(
        (
            each
            for each in await cloud.offers()
            if (each.key.type, each.key.location) == (type, location)
        ),
        None,
    )
    price = f"{offer.price_per_hour}/h" if offer and offer.price_per_hour else "an unknown price"
    image = image or (offer.image if offer is not None else None)
    if image is None:
        raise ConfigError(
            f"no image fits {type} in {location}: name one with --image (`autoscaler cloud images`)"
        )
    confirmed(f"Rent {name}, {type} in {location}, for {price} until deleted?", yes=yes)
    operation = await cloud.client.create_vm(
        VmRequest(
            name=name,
            type=type,
            location=location,
            image=image,
            ssh_public_key=_text_of(ssh_public_key).strip(),
            startup_script=_text_of(startup_script),
            shutdown_script=_text_of(shutdown_script),
            disks=tuple(attachment(each) for each in disk or ()),
        )
    )
    return answered([(name, operation)])


@cloud_app.command("delete")
@cloud_command
async def delete(cloud: MkinfCloud, vm_ids: Ids, yes: YesOption = False) -> Table:
    """Delete VMs with their OS disks. Look afterwards: only the list shows that they are gone."""
    await _ask_about(cloud, "Delete", vm_ids, yes=yes)
    return await each_answered(vm_ids, cloud.client.delete_vm)


@cloud_app.command("start")
@cloud_command
async def start(cloud: MkinfCloud, vm_ids: Ids, yes: YesOption = False) -> Table:
    """Start stopped VMs: they bill again, and get other public addresses."""
    return await _act(cloud, "START", vm_ids, yes=yes)


@cloud_app.command("stop")
@cloud_command
async def stop(cloud: MkinfCloud, vm_ids: Ids, yes: YesOption = False) -> Table:
    """Power VMs off. Local disks are erased, and disks go on billing."""
    return await _act(cloud, "STOP", vm_ids, yes=yes)


@cloud_app.command("reset")
@cloud_command
async def reset(cloud: MkinfCloud, vm_ids: Ids, yes: YesOption = False) -> Table:
    """Restart VMs the hard way."""
    return await _act(cloud, "RESET", vm_ids, yes=yes)


# operations


@cloud_app.command("operations")
@cloud_command
async def operations(
    cloud: MkinfCloud,
    of: Annotated[Of, typer.Option(help="whose")] = Of.VMS,
    since: Annotated[datetime | None, typer.Option(help="in UTC")] = None,
    resource: Annotated[str | None, typer.Option(help="id of the VM, disk or rule")] = None,
    state: Annotated[str | None, typer.Option(help="such as IN_PROGRESS")] = None,
) -> Table:
    """List operations under way, and finished ones that nobody has read."""
    listing = await cloud.client.operations(
        _FAMILY[of],
        since=since.replace(tzinfo=UTC) if since is not None else None,
        resource_id=resource,
        state=state,
    )
    rows = [operation_row(each) for each in listing]
    return Table(OPERATION_COLUMNS, rows, document(listing), notes(listing))


@cloud_app.command("operation")
@cloud_command
async def operation(
    cloud: MkinfCloud, operation_id: Id, of: Annotated[Of, typer.Option(help="whose")] = Of.VMS
) -> Table:
    """Show one operation. A finished one may be told only once."""
    found = await cloud.client.operation(operation_id, _FAMILY[of])
    return Table(OPERATION_COLUMNS, [operation_row(found)], found)


# the account


@cloud_app.command("projects")
@cloud_command
async def projects(cloud: MkinfCloud) -> Table:
    """List the projects that the credential reaches."""
    listing = await cloud.client.projects()
    return listed(listing, name="name", version="version", id="id", organization="organization_id")


@cloud_app.command("organizations")
@cloud_command
async def organizations(cloud: MkinfCloud) -> Table:
    """List organizations."""
    return listed(await cloud.client.organizations(), name="name", id="id")


@cloud_app.command("billing")
@cloud_command
async def billing(cloud: MkinfCloud) -> Table:
    """Print the link to the billing page: short-lived, and as good as a key."""
    link = (await cloud.client.billing_link()).reveal()
    return Table(("Billing page",), [(link,)], {"url": link})


@cloud_app.command("usage")
@cloud_command
async def usage(
    cloud: MkinfCloud,
    since: Annotated[datetime | None, typer.Option(help="first day; default: a week ago")] = None,
    until: Annotated[datetime | None, typer.Option(help="last day; default: yesterday")] = None,
    type: Annotated[list[str] | None, typer.Option("--type", help="resource type")] = None,
    region: Annotated[list[str] | None, typer.Option("--region", help="region")] = None,
) -> Table:
    """List what mkinf metered, by day. A day appears after its midnight in UTC."""
    today = datetime.now(UTC).date()
    listing = await cloud.client.usage(
        _day(since, today - timedelta(days=7)),
        _day(until, today - timedelta(days=1)),
        resource_types=type or (),
        regions=region or (),
    )
    return listed(
        listing,
        date="date",
        region="region",
        type="resource_type",
        metric="billable_metric",
        Quantity="quantity",
    )


# how each of them is done


async def _act(cloud: MkinfCloud, action: Action, vm_ids: Sequence[str], *, yes: bool) -> Table:
    await _ask_about(cloud, action.capitalize(), vm_ids, yes=yes)

    async def call(vm_id: str) -> Operation | None:
        return await cloud.client.act_on_vm(vm_id, action)

    return await each_answered(vm_ids, call)


async def _ask_about(cloud: MkinfCloud, verb: str, vm_ids: Sequence[str], *, yes: bool) -> None:
    """Name the VMs before something is done to them, and say which are the daemon's."""
    if yes:
        return
    told = [_told(await _looked_up(cloud, vm_id), vm_id) for vm_id in vm_ids]
    confirmed(f"{verb} {', '.join(told)}?", yes=yes)


async def _looked_up(cloud: MkinfCloud, vm_id: str) -> Vm | None:
    try:
        return await cloud.client.vm(vm_id)
    except NotFound:
        return None


def _told(vm: Vm | None, vm_id: str) -> str:
    if vm is None:
        return f"{vm_id} (unknown to the cloud)"
    ours = "; a node of a daemon: `autoscaler drain` loses no request" * bool(parse_name(vm.name))
    return f"{vm.name} ({vm.type}, {vm.state}{ours})"


def _text_of(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from None


def _day(given: datetime | None, default: date) -> date:
    return given.date() if given is not None else default
