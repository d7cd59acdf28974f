"""Whether a create is accepted at all: form, existence, names, quota. Refusals are immediate."""

from __future__ import annotations

import base64
import binascii
import re

from autoscaler.emulator.books import Books
from autoscaler.emulator.creation import Order
from autoscaler.emulator.http import bad_request, conflict, forbidden, not_found
from autoscaler.emulator.model import Disk
from autoscaler.emulator.schema import DiskAttachment, VmCreate

SCRIPT_LIMIT_BYTES = 64 * 1024
DISKS_PER_VM = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
)


def admit(books: Books, project_id: str, body: VmCreate, request: dict[str, object]) -> Order:
    """Turn a create's body into an order.

    Raises:
        Refused: 400, or 409 for a name in use, or 403 for a quota.
    """
    if not _NAME.fullmatch(body.name):
        raise bad_request("name: letters, digits, '_' and '-' only, at most 63")
    machine_type = books.catalogue.types.get(body.type)
    if machine_type is None:
        raise bad_request(f"type: {body.type!r} does not exist")
    if body.location not in books.catalogue.locations:
        raise bad_request(f"location: {body.location!r} does not exist")
    image = books.catalogue.image(body.image)
    if image is None:
        raise bad_request(f"image: {body.image!r} does not exist")
    if body.location not in image.locations:
        raise bad_request(f"image: {body.image!r} is not available in {body.location}")
    if not image.boots_on(machine_type):
        raise bad_request(f"image: {body.image!r} does not boot on {body.type}")
    if books.left(body.type, body.location) is None:
        raise bad_request(f"type: {body.type!r} is not offered in {body.location}")
    _check_key(body.ssh_public_key, ed25519=books.switches.ed25519_keys == "ok")
    _check_script("startup_script", body.startup_script)
    _check_script("shutdown_script", body.shutdown_script)
    if books.switches.duplicate_names == "refused" and any(
        vm.name == body.name for vm in books.vms_of(project_id)
    ):
        raise conflict(f"name: a VM named {body.name!r} exists")
    check_attachments(books, project_id, body.location, body.disks, already=0)
    if books.switches.quota == "http" and books.exceeds_quota(project_id, machine_type):
        raise forbidden("quota exceeded for this GPU family")
    return Order(
        project_id=project_id,
        name=body.name,
        type=machine_type,
        location=body.location,
        image=body.image,
        ssh_public_key=body.ssh_public_key.strip(),
        startup_script=body.startup_script,
        shutdown_script=body.shutdown_script,
        disks=tuple((disk.disk_id, disk.mode) for disk in body.disks),
        request=request,
    )


def check_attachments(
    books: Books,
    project_id: str,
    location: str,
    wanted: tuple[DiskAttachment, ...],
    *,
    already: int,
) -> list[Disk]:
    """Check that disks may be attached to a VM in `location` that has `already` data disks."""
    if already + len(wanted) > DISKS_PER_VM:
        raise bad_request(f"disks: at most {DISKS_PER_VM} per VM")
    disks: list[Disk] = []
    for one in wanted:
        disk = books.disks.get(one.disk_id)
        if disk is None or disk.project_id != project_id:
            raise not_found("disk")
        if disk.location != location:
            raise bad_request(f"disk {disk.id} is in {disk.location}, not in {location}")
        if disk.vm_id or disk in disks:
            raise bad_request(f"disk {disk.id} is attached")
        disks.append(disk)
    return disks


def _check_key(line: str, *, ed25519: bool) -> None:
    """An OpenSSH public key line whose blob says the same type as its first word."""
    parts = line.split()
    if len(parts) < 2 or parts[0] not in _KEY_TYPES or "\n" in line.strip():
        raise bad_request("ssh_public_key: not an OpenSSH public key")
    if parts[0] == "ssh-ed25519" and not ed25519:
        raise bad_request("ssh_public_key: only RSA keys are supported")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except binascii.Error as exc:
        raise bad_request("ssh_public_key: not an OpenSSH public key") from exc
    length = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + length] != parts[0].encode():
        raise bad_request("ssh_public_key: not an OpenSSH public key")


def _check_script(field: str, script: str) -> None:
    if not script:
        return
    if not script.isascii():
        raise bad_request(f"{field}: must be ASCII")
    if len(script) >= SCRIPT_LIMIT_BYTES:
        raise bad_request(f"{field}: must be under 64 kB")
    if not script.startswith("#!"):
        raise bad_request(f"{field}: must begin with a shebang, as #!/bin/bash")
