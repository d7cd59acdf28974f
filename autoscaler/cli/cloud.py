"""`autoscaler cloud …`: every call of the mkinf API from the shell.

It is for looking, and for setting right by hand what went wrong. It knows no policy and no limit:
what is created here is no node, and the daemon shows it as somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from autoscaler.cli.connection import JsonOption, Table, cloud_command, confirmed, show
from autoscaler.cloud.mkinf import endpoints
from autoscaler.cloud.mkinf.client import Action, OperationFamily
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.values import (
    Attachment,
    FirewallRule,
    Listing,
    Operation,
    RuleRequest,
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
firewall_app = typer.Typer(
    name="firewall", help="Firewall rules of the project.", no_args_is_help=True
)
cloud_app.add_typer(firewall_app)

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
Ids = Annotated[list[str], typer.Argument(help="ids, as the lists show them")]
Id = Annotated[str, typer.Argument(help="id, as the list shows it")]


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
    return _table(listing, type="type", location="location", available="available")


@cloud_app.command("specs")
@cloud_command
async def specs(
    cloud: MkinfCloud, location: Annotated[str | None, typer.Option(help="only there")] = None
) -> Table:
    """List what types are made of, as the API says."""
    listing = await cloud.client.specs(location=location)
    return _table(
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
    return _table(
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
    return _one(await cloud.client.image(image))


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
        (vm.name, vm.state, vm.type, vm.location, vm.public_address, _when(vm.created_at), vm.id)
        for vm in listing
    ]
    columns = ("Name", "State", "Type", "Location", "Address", "Created", "Id")
    return Table(columns, rows, _document(listing), _notes(listing))


@cloud_app.command("vm")
@cloud_command
async def vm(cloud: MkinfCloud, vm_id: Id) -> Table:
    """Show one VM."""
    return _one(await cloud.client.vm(vm_id))


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
            disks=tuple(_attachment(each) for each in disk or ()),
        )
    )
    return _answers([(name, operation)])


@cloud_app.command("delete")
@cloud_command
async def delete(cloud: MkinfCloud, vm_ids: Ids, yes: YesOption = False) -> Table:
    """Delete VMs with their OS disks. Look afterwards: only the list shows that they are gone."""
    await _ask_about(cloud, "Delete", vm_ids, yes=yes)
    return await _each(vm_ids, cloud.client.delete_vm)


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
    rows = [_operation_row(each) for each in listing]
    return Table(_OPERATION_COLUMNS, rows, _document(listing), _notes(listing))


@cloud_app.command("operation")
@cloud_command
async def operation(
    cloud: MkinfCloud, operation_id: Id, of: Annotated[Of, typer.Option(help="whose")] = Of.VMS
) -> Table:
    """Show one operation. A finished one may be told only once."""
    found = await cloud.client.operation(operation_id, _FAMILY[of])
    return Table(_OPERATION_COLUMNS, [_operation_row(found)], found)


# disks


@cloud_app.command("disks")
@cloud_command
async def disks(cloud: MkinfCloud) -> Table:
    """List persistent disks."""
    listing = await cloud.client.disks()
    rows = [
        (
            each.name,
            each.size,
            each.type,
            each.location,
            [to.id or to.name for to in each.attached_to],
            each.id,
        )
        for each in listing
    ]
    columns = ("Name", "Size", "Type", "Location", "Attached to", "Id")
    return Table(columns, rows, _document(listing), _notes(listing))


@cloud_app.command("disk")
@cloud_command
async def disk(cloud: MkinfCloud, disk_id: Id) -> Table:
    """Show one disk."""
    return _one(await cloud.client.disk(disk_id))


@cloud_app.command("disk-create")
@cloud_command
async def disk_create(
    cloud: MkinfCloud,
    name: Annotated[str, typer.Argument(help="of the disk")],
    size: Annotated[str, typer.Option(help="such as 200GiB, or 1TiB")],
    location: Annotated[str, typer.Option(help="where its VM is to be")],
    yes: YesOption = False,
) -> Table:
    """Make a data disk. It bills until deleted, attached or not."""
    confirmed(f"Make disk {name} of {size} in {location}?", yes=yes)
    return _answers([(name, await cloud.client.create_disk(name, size, location))])


@cloud_app.command("disk-resize")
@cloud_command
async def disk_resize(
    cloud: MkinfCloud,
    disk_id: Id,
    size: Annotated[str, typer.Option(help="such as 400GiB")],
    yes: YesOption = False,
) -> Table:
    """Make a disk larger."""
    confirmed(f"Resize disk {disk_id} to {size}?", yes=yes)
    return _answers([(disk_id, await cloud.client.resize_disk(disk_id, size))])


@cloud_app.command("disk-delete")
@cloud_command
async def disk_delete(cloud: MkinfCloud, disk_ids: Ids, yes: YesOption = False) -> Table:
    """Delete disks and what is on them."""
    confirmed(f"Delete {_several(disk_ids, 'disk')} with everything on them?", yes=yes)
    return await _each(disk_ids, cloud.client.delete_disk)


@cloud_app.command("attach")
@cloud_command
async def attach(
    cloud: MkinfCloud,
    vm_id: Id,
    disk: Annotated[list[str], typer.Option(help="ID or ID:read-only; may be repeated")],
    yes: YesOption = False,
) -> Table:
    """Attach data disks to a VM."""
    confirmed(f"Attach {_several(disk, 'disk')} to {vm_id}?", yes=yes)
    attachments = [_attachment(each) for each in disk]
    return _answers([(vm_id, await cloud.client.attach_disks(vm_id, attachments))])


@cloud_app.command("detach")
@cloud_command
async def detach(
    cloud: MkinfCloud,
    vm_id: Id,
    disk: Annotated[list[str], typer.Option(help="ID; may be repeated")],
    yes: YesOption = False,
) -> Table:
    """Detach data disks from a VM."""
    confirmed(f"Detach {_several(disk, 'disk')} from {vm_id}?", yes=yes)
    return _answers([(vm_id, await cloud.client.detach_disks(vm_id, disk))])


# networks and the firewall


@cloud_app.command("networks")
@cloud_command
async def networks(cloud: MkinfCloud) -> Table:
    """List networks."""
    listing = await cloud.client.networks()
    return _table(listing, name="name", cidr="cidr", subnets="subnets", id="id")


@cloud_app.command("subnets")
@cloud_command
async def subnets(cloud: MkinfCloud) -> Table:
    """List subnets."""
    listing = await cloud.client.subnets()
    return _table(
        listing,
        name="name",
        cidr="cidr",
        location="location",
        network="vpc_network_id",
        id="id",
    )


@firewall_app.command("list")
@cloud_command
async def firewall_list(cloud: MkinfCloud) -> Table:
    """List firewall rules."""
    listing = await cloud.client.firewall_rules()
    rows = [_rule_row(each) for each in listing]
    return Table(_RULE_COLUMNS, rows, _document(listing), _notes(listing))


@firewall_app.command("show")
@cloud_command
async def firewall_show(cloud: MkinfCloud, rule_id: Id) -> Table:
    """Show one rule."""
    rule = await cloud.client.firewall_rule(rule_id)
    return Table(_RULE_COLUMNS, [_rule_row(rule)], rule)


@firewall_app.command("add")
@cloud_command
async def firewall_add(
    cloud: MkinfCloud,
    name: Annotated[str, typer.Argument(help="of the rule")],
    source: Annotated[list[str], typer.Option(help="CIDR that is let in; may be repeated")],
    port: Annotated[list[str], typer.Option(help="8000, or 3000-8080; may be repeated")],
    network: Annotated[str | None, typer.Option(help="id; the only one if left out")] = None,
    destination: Annotated[
        str | None, typer.Option(help="id of a VM or subnet; default: the whole network")
    ] = None,
    yes: YesOption = False,
) -> Table:
    """Let TCP from CIDRs in to ports."""
    if network is None:
        known = (await cloud.client.networks()).items
        if len(known) != 1:
            raise ConfigError(f"{len(known)} networks: name one with --network")
        network = known[0].id
    confirmed(f"Open {', '.join(port)} to {', '.join(source)}?", yes=yes)
    request = RuleRequest(name, network, tuple(source), tuple(port), destination)
    answer = await cloud.client.create_firewall_rule(request)
    if isinstance(answer, FirewallRule):
        return Table(_RULE_COLUMNS, [_rule_row(answer)], answer)
    return _answers([(name, answer)])


@firewall_app.command("update")
@cloud_command
async def firewall_update(
    cloud: MkinfCloud,
    rule_id: Id,
    name: Annotated[str | None, typer.Option(help="a new name")] = None,
    source: Annotated[list[str] | None, typer.Option(help="CIDRs instead of the present")] = None,
    port: Annotated[list[str] | None, typer.Option(help="ports instead of the present")] = None,
    yes: YesOption = False,
) -> Table:
    """Change a rule's name, sources or ports."""
    confirmed(f"Change rule {rule_id}?", yes=yes)
    answer = await cloud.client.update_firewall_rule(
        rule_id, name=name, sources=source, destination_ports=port
    )
    return _answers([(rule_id, answer)])


@firewall_app.command("delete")
@cloud_command
async def firewall_delete(cloud: MkinfCloud, rule_ids: Ids, yes: YesOption = False) -> Table:
    """Delete rules: what they let in is shut out."""
    confirmed(f"Delete {_several(rule_ids, 'rule')}?", yes=yes)
    return await _each(rule_ids, cloud.client.delete_firewall_rule)


# the account


@cloud_app.command("projects")
@cloud_command
async def projects(cloud: MkinfCloud) -> Table:
    """List the projects that the credential reaches."""
    listing = await cloud.client.projects()
    return _table(listing, name="name", version="version", id="id", organization="organization_id")


@cloud_app.command("organizations")
@cloud_command
async def organizations(cloud: MkinfCloud) -> Table:
    """List organizations."""
    return _table(await cloud.client.organizations(), name="name", id="id")


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
    return _table(
        listing,
        date="date",
        region="region",
        type="resource_type",
        metric="billable_metric",
        Quantity="quantity",
    )


# how each of them is done

_OPERATION_COLUMNS = ("Id", "Kind", "State", "Of", "Name", "Started", "Why")
_RULE_COLUMNS = ("Name", "State", "Protocols", "From", "To", "Ports", "Id")


def _table(listing: Listing[Any], **columns: str) -> Table:
    """Show attributes as columns. Any: each command knows of what it is a listing."""
    names = tuple(name if name[:1].isupper() or name == "vCPU" else name.capitalize()
                  for name in columns)  # fmt: skip
    rows = [[getattr(item, attribute) for attribute in columns.values()] for item in listing]
    return Table(names, rows, _document(listing), _notes(listing))


def _document(listing: Listing[Any]) -> dict[str, object]:
    return {
        "items": listing.items,
        "complete": listing.complete,
        "problems": listing.problems,
        "doubts": listing.doubts,
    }


def _notes(listing: Listing[Any]) -> Sequence[str]:
    return (
        *(f"not complete: {each}" for each in listing.problems),
        *(f"perhaps not complete: {each}" for each in listing.doubts),
    )


def _one(value: Any) -> Table:
    """Show one value field by field. Any: any dataclass."""
    rows = [(name, _plain(each)) for name, each in asdict(value).items()]
    return Table(("Field", "Value"), rows, value)


def _plain(value: object) -> object:
    """Flatten what is nested into a line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items() if each)
    if isinstance(value, tuple | list):
        return "; ".join(str(_plain(each)) for each in value)
    return value


def _operation_row(each: Operation) -> Sequence[object]:
    result = each.result
    failed = each.state == "FAILED" and result is not None
    why = f"{result.code or ''} {result.message or ''}".strip() if failed and result else None
    return (
        each.operation_id,
        each.kind,
        each.state,
        each.resource_id,
        each.request_name,
        _when(each.started_at),
        why,
    )


def _rule_row(rule: FirewallRule) -> Sequence[object]:
    return (
        rule.name,
        rule.state,
        rule.protocols,
        [each.cidr or each.resource_id for each in rule.sources],
        [each.cidr or each.resource_id for each in rule.destinations],
        rule.destination_ports,
        rule.id,
    )


def _answers(answers: Iterable[tuple[str, Operation | None]]) -> Table:
    """Show what was asked for, and the operation to watch."""
    pairs = list(answers)
    rows = [
        (
            what,
            "accepted",
            each.operation_id if each else None,
            each.state if each else None,
            each.resource_id if each else None,
        )
        for what, each in pairs
    ]
    columns = ("What", "Answer", "Operation", "State", "Id")
    return Table(columns, rows, {"items": [{"what": what, "operation": op} for what, op in pairs]})


async def _each(ids: Sequence[str], call: Callable[[str], Any]) -> Table:
    """Do the same to several. Any: an awaitable of an operation or None."""
    return _answers([(each, await call(each)) for each in ids])


async def _act(cloud: MkinfCloud, action: Action, vm_ids: Sequence[str], *, yes: bool) -> Table:
    await _ask_about(cloud, action.capitalize(), vm_ids, yes=yes)

    async def call(vm_id: str) -> Operation | None:
        return await cloud.client.act_on_vm(vm_id, action)

    return await _each(vm_ids, call)


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


def _attachment(text: str) -> Attachment:
    disk_id, _, mode = text.partition(":")
    if mode not in ("", "read-only", "read-write"):
        raise ConfigError(f"--disk {text}: the mode is read-only or read-write")
    return Attachment(disk_id, mode or "read-write")


def _text_of(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from None


def _several(ids: Sequence[str], noun: str) -> str:
    return f"{noun} {ids[0]}" if len(ids) == 1 else f"{len(ids)} {noun}s"


def _day(given: datetime | None, default: date) -> date:
    return given.date() if given is not None else default


def _when(at: datetime | None) -> str | None:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at is not None else None
