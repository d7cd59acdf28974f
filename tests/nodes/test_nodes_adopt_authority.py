"""The host authority: what it signs is believed of one key and one machine, also by OpenSSH itself."""

from __future__ import annotations

import asyncio
import base64
import getpass
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest
from cryptography.hazmat.primitives.serialization.ssh import (
    SSHCertificate,
    load_ssh_public_identity,
)

from autoscaler.domain.ids import MachineId
from autoscaler.domain.node import Node
from autoscaler.errors import ConfigError, HostKeyMismatch, NodeUnreachable
from autoscaler.nodes.host_authority import HostAuthority, open_host_authority
from autoscaler.nodes.introductions import Introductions
from autoscaler.nodes.keys import public_line
from autoscaler.nodes.manifest import manifest_of, parse_manifest
from autoscaler.nodes.pki import open_authority
from autoscaler.nodes.ssh import SshAccess
from autoscaler.nodes.vouching import Voucher
from tests.nodes.vm_parts import CLIENT_KEY, node, offer, policy
from tests.tunnels.tunnel_parts import HERE, free_range, public

MARK = "as1-abcdefgh"
NOW = datetime.now(UTC)
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def authority(tmp_path: Path) -> HostAuthority:
    return open_host_authority(tmp_path / "authority")


def row(**changes: object) -> Node:
    """A pinned node."""
    facts: dict[str, object] = {"machine_id": MachineId("m-1"), "host_key": public(HOST_KEY)}
    return node(policy(), offer(), HERE, **(facts | changes))


def certificate(authority: HostAuthority, of: Node | None = None) -> str:
    return authority.certify(public(HOST_KEY), manifest_of(of or row(), MARK))


def test_what_was_signed_of_a_node_is_read_back_whole(authority: HostAuthority) -> None:
    manifest = authority.read(certificate(authority), public(HOST_KEY))

    assert manifest == manifest_of(row(), MARK)


def test_the_same_file_is_the_same_authority_and_only_ours_to_read(tmp_path: Path) -> None:
    first = open_host_authority(tmp_path / "authority")

    again = open_host_authority(tmp_path / "authority")

    assert again.public_line == first.public_line
    assert (tmp_path / "authority").stat().st_mode & 0o777 == 0o600


def test_an_authority_that_others_may_read_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").write_bytes(HOST_KEY.export_private_key("openssh"))
    (tmp_path / "open").chmod(0o644)
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    (tmp_path / "ecdsa").write_bytes(other.export_private_key("openssh"))
    (tmp_path / "ecdsa").chmod(0o600)

    with pytest.raises(ConfigError, match="mode is 0644, others may read it"):
        open_host_authority(tmp_path / "open")
    with pytest.raises(ConfigError, match=r"ssh\.host_authority .* allowed: ed25519"):
        open_host_authority(tmp_path / "ecdsa")


def test_what_another_authority_signed_proves_nothing(
    authority: HostAuthority, tmp_path: Path
) -> None:
    other = open_host_authority(tmp_path / "other")

    with pytest.raises(HostKeyMismatch, match="signed by another authority"):
        authority.read(certificate(other), public(HOST_KEY))


def test_the_certificate_of_another_machine_proves_nothing_here(authority: HostAuthority) -> None:
    copied_to = asyncssh.generate_private_key("ssh-ed25519")

    with pytest.raises(HostKeyMismatch, match="copied from another machine"):
        authority.read(certificate(authority), public(copied_to))


def test_an_altered_certificate_is_refused(authority: HostAuthority) -> None:
    kind, data = certificate(authority).split()
    altered = base64.b64decode(data).replace(b"Qwen3-0.6B", b"Qwen3-9.9B")

    with pytest.raises(HostKeyMismatch, match="it was altered"):
        authority.read(f"{kind} {base64.b64encode(altered).decode()}", public(HOST_KEY))


@pytest.mark.parametrize("text", ["", "no key", "ssh-ed25519 AAAA", "é", "x" * 100_000])
def test_what_is_no_certificate_is_refused(authority: HostAuthority, text: str) -> None:
    with pytest.raises(HostKeyMismatch):
        authority.read(text, public(HOST_KEY))


def test_a_bare_key_and_a_logins_certificate_are_no_proof_of_a_host(
    authority: HostAuthority,
) -> None:
    login = authority.admit(HOST_KEY, MARK, NOW).export_certificate().decode()

    with pytest.raises(HostKeyMismatch, match="a bare key"):
        authority.read(public(HOST_KEY), public(HOST_KEY))
    with pytest.raises(HostKeyMismatch, match="for a login and not for a host"):
        authority.read(login, public(HOST_KEY))


def test_a_manifest_of_another_form_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="mistakes in it"):
        parse_manifest('{"mark": 1}')
    with pytest.raises(ValueError, match="too long"):
        parse_manifest("x" * 5000)


def test_a_fresh_host_with_the_authority_has_the_same_authority_for_certificates(
    authority: HostAuthority, tmp_path: Path
) -> None:
    for host in ("old", "new"):
        (tmp_path / host).mkdir()
    seed = authority.secret_for("model servers", 48)

    old, new = (open_authority(tmp_path / host, NOW, seed) for host in ("old", "new"))

    assert old.key.private_numbers() == new.key.private_numbers()
    assert old.certificate.subject == new.certificate.subject


# on OpenSSH's own server


@asynccontextmanager
async def openssh(folder: Path) -> AsyncIterator[int]:
    """An unprivileged sshd whose logins have `folder` as their home; it lets in the daemon's key."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    (folder / "host").write_bytes(HOST_KEY.export_private_key("openssh"))
    (folder / "host").chmod(0o600)
    (folder / ".ssh").mkdir()
    # as some images leave it: without an end of line
    (folder / ".ssh/authorized_keys").write_text(public_line(CLIENT_KEY))
    port = free_range(1)
    settings = {
        "Port": port,
        "ListenAddress": HERE,
        "HostKey": folder / "host",
        "PidFile": folder / "pid",
        "AuthorizedKeysFile": folder / ".ssh/authorized_keys",
        "SetEnv": f"HOME={folder}",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
    }
    (folder / "config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    process = await asyncio.create_subprocess_exec(
        sshd, "-D", "-e", "-f", str(folder / "config"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection(HERE, port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield port
    finally:
        process.terminate()
        await process.wait()


def entering(port: int, key: asyncssh.SSHKey) -> SshAccess:
    return SshAccess(key, getpass.getuser(), port, 10.0)


async def test_a_plain_openssh_server_lets_in_who_has_the_authority_and_is_proven_by_it(
    authority: HostAuthority, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    fresh = asyncssh.generate_private_key("ssh-ed25519")

    def introductions(of: HostAuthority, mark: str) -> Introductions:
        def access() -> SshAccess:
            return replace(entering(port, fresh), certificate=of.admit(fresh, mark, NOW))

        return Introductions(of, access, public_line(fresh))

    async with openssh(home) as port:
        daemon = entering(port, CLIENT_KEY)
        replaced = open_host_authority(tmp_path / "replaced")
        for each in (replaced, authority, authority):
            async with daemon.connect(HERE, public(HOST_KEY)) as shell:
                await Voucher(each, MARK).visit(shell, row())
        with pytest.raises(NodeUnreachable, match="does not accept our key"):
            async with entering(port, fresh).connect(HERE, public(HOST_KEY)):
                pass
        for stranger in (
            introductions(replaced, MARK),
            introductions(authority, "as1-otherone"),
        ):
            with pytest.raises(NodeUnreachable, match="does not accept our key"):
                await stranger.introduce(HERE)

        ours = introductions(authority, MARK)
        shown, manifest = await ours.introduce(HERE)
        await ours.authorize(HERE, shown)
        async with entering(port, fresh).connect(HERE, shown) as shell:
            assert (await shell.run("echo in", timeout_s=10)).stdout == "in\n"

    assert (shown, manifest) == (public(HOST_KEY), manifest_of(row(), MARK))
    lines = (home / ".ssh/authorized_keys").read_text().splitlines()
    assert lines == [public_line(CLIENT_KEY), authority.trust_line(MARK), public_line(fresh)]
    keygen = await asyncio.create_subprocess_exec(
        *("ssh-keygen", "-L", "-f", home / ".autoscaler/host_certificate"),
        stdout=asyncio.subprocess.PIPE,
    )
    told = (await keygen.communicate())[0].decode()
    assert "ssh-ed25519-cert-v01@openssh.com host certificate" in told
    assert f"        {row().name}" in told  # its principal
    assert "Valid: forever" in told


async def test_a_client_key_that_was_replaced_is_let_in_and_the_old_one_no_more(
    authority: HostAuthority, tmp_path: Path
) -> None:
    fresh = asyncssh.generate_private_key("ssh-ed25519")
    persons = f"{public_line(fresh).split()[0]} {public_line(HOST_KEY).split()[1]} anna@home"
    home = tmp_path / "home"
    home.mkdir()
    async with openssh(home) as port:
        async with entering(port, CLIENT_KEY).connect(HERE, public(HOST_KEY)) as shell:
            await Voucher(authority, MARK, CLIENT_KEY).visit(shell, row())
        keys = home / ".ssh/authorized_keys"
        keys.write_text(f"{keys.read_text()}{persons}\n")

        voucher = Voucher(authority, MARK, fresh)
        vouched = replace(entering(port, fresh), certificate=voucher.login(datetime.now(UTC)))
        async with vouched.connect(HERE, public(HOST_KEY)) as shell:
            await voucher.visit(shell, row())
            await voucher.visit(shell, row())

        async with entering(port, fresh).connect(HERE, public(HOST_KEY)) as shell:
            assert (await shell.run("echo in", timeout_s=10)).stdout == "in\n"
        with pytest.raises(NodeUnreachable, match="does not accept our key"):
            async with entering(port, CLIENT_KEY).connect(HERE, public(HOST_KEY)):
                pass
    lines = keys.read_text().splitlines()
    assert lines == [authority.trust_line(MARK), persons, public_line(fresh)]


def test_the_daemons_certificate_is_made_anew_before_it_ends(authority: HostAuthority) -> None:
    voucher = Voucher(authority, MARK, HOST_KEY)

    first, same = voucher.login(NOW), voucher.login(NOW + timedelta(hours=11))
    later = voucher.login(NOW + timedelta(hours=13))

    assert first is same
    assert later is not first


def test_a_login_by_certificate_ends_by_itself(authority: HostAuthority) -> None:
    made = load_ssh_public_identity(authority.admit(HOST_KEY, MARK, NOW).export_certificate())

    assert isinstance(made, SSHCertificate)
    assert made.valid_before == int((NOW + timedelta(days=1)).timestamp())
