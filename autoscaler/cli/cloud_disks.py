"""`autoscaler cloud disks` and its kin: persistent disks, which bill whether attached or not."""

from __future__ import annotations

from typing import Annotated

import typer

from autoscaler.cli.cloud_tables import (
    Id,
    Ids,
    YesOption,
    answered,
    document,
    each_answered,
    notes,
    one,
    several,
)
from autoscaler.cli.connection import Table, cloud_command, confirmed
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.values import Attachment
from autoscaler.errors import ConfigError

disks_app = typer.Typer()


@disks_app.command("disks")
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
    return Table(columns, rows, document(listing), notes(listing))


@disks_app.command("disk")
@cloud_command
async def disk(cloud: MkinfCloud, disk_id: Id) -> Table:
    """Show one disk."""
    return one(await cloud.client.disk(disk_id))


@disks_app.command("disk-create")
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
    return answered([(name, await cloud.client.create_disk(name, size, location))])


@disks_app.command("disk-resize")
@cloud_command
async def disk_resize(
    cloud: MkinfCloud,
    disk_id: Id,
    size: Annotated[str, typer.Option(help="such as 400GiB")],
    yes: YesOption = False,
) -> Table:
    """Make a disk larger."""
    confirmed(f"Resize disk {disk_id} to {size}?", yes=yes)
    return answered([(disk_id, await cloud.client.resize_disk(disk_id, size))])


@disks_app.command("disk-delete")
@cloud_command
async def disk_delete(cloud: MkinfCloud, disk_ids: Ids, yes: YesOption = False) -> Table:
    """Delete disks and what is on them."""
    confirmed(f"Delete {several(disk_ids, 'disk')} with everything on them?", yes=yes)
    return await each_answered(disk_ids, cloud.client.delete_disk)


@disks_app.command("attach")
@cloud_command
async def attach(
    cloud: MkinfCloud,
    vm_id: Id,
    disk: Annotated[list[str], typer.Option(help="ID or ID:read-only; may be repeated")],
    yes: YesOption = False,
) -> Table:
    """Attach data disks to a VM."""
    confirmed(f"Attach {several(disk, 'disk')} to {vm_id}?", yes=yes)
    attachments = [attachment(each) for each in disk]
    return answered([(vm_id, await cloud.client.attach_disks(vm_id, attachments))])


@disks_app.command("detach")
@cloud_command
async def detach(
    cloud: MkinfCloud,
    vm_id: Id,
    disk: Annotated[list[str], typer.Option(help="ID; may be repeated")],
    yes: YesOption = False,
) -> Table:
    """Detach data disks from a VM."""
    confirmed(f"Detach {several(disk, 'disk')} from {vm_id}?", yes=yes)
    return answered([(vm_id, await cloud.client.detach_disks(vm_id, disk))])


def attachment(text: str) -> Attachment:
    disk_id, _, mode = text.partition(":")
    if mode not in ("", "read-only", "read-write"):
        raise ConfigError(f"--disk {text}: the mode is read-only or read-write")
    return Attachment(disk_id, mode or "read-write")
