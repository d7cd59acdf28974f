"""`autoscaler doctor`: every check with what it found and its remedy, and nothing touched."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from autoscaler.clock import SystemClock
from autoscaler.errors import ConfigError
from autoscaler.gateway.exposure import check_exposure
from autoscaler.gateway.front_file import read_front
from autoscaler.setup.commands import start_gateway, with_config
from autoscaler.setup.doctor import examine
from autoscaler.setup.findings import Finding, Verdict
from tests.setup.conftest import Desk


class WrongClock(SystemClock):
    """A machine whose clock is off."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


@pytest.fixture
async def there(desk: Desk) -> Path:
    """A fresh deployment's config."""
    said = await desk.init("--yes", "--source", "203.0.113.5/32")
    assert said.exit_code == 0, said.output
    return desk.path / "new/config.toml"


def change(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


async def finding(config: Path, check: str, clock: SystemClock | None = None) -> Finding:
    found = await examine(config, clock or SystemClock())
    return next(each for each in found if each.check == check)


async def test_a_config_with_mistakes_shows_each_and_nothing_else(there: Path) -> None:
    change(there, "nodes = 4", "nodez = 4")
    change(there, 'usd_per_hour = "5"', "usd_per_hour = 5.5")

    (found,) = await examine(there, SystemClock())

    assert found.verdict is Verdict.FAIL
    assert "limits.nodez: no such key; did you mean 'nodes'?" in found.found
    assert "limits.usd_per_hour: found 5.5" in found.found
    assert found.remedy


async def test_every_finding_is_there_for_programs_too(desk: Desk, there: Path) -> None:
    said = await desk.type("doctor", "--config", str(there), "--json")

    found = json.loads(said.output)["findings"]
    assert [set(each) for each in found] == [{"check", "verdict", "found", "remedy"}] * len(found)
    assert {"config", "owner mark", "key file", "clock", "key", "prices", "firewall", "ssh key",
            "host authority", "store", "daemon", "gateway"} <= {each["check"] for each in found}  # fmt: skip
    assert all(each["remedy"] for each in found if each["verdict"] != "ok")


async def test_it_changes_nothing(desk: Desk, there: Path) -> None:
    def everything() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mode, p.stat().st_mtime_ns) for p in desk.path.rglob("*")}

    (desk.path / "new/state/ssh_key").unlink()
    with closing(sqlite3.connect(desk.path / "new/state/autoscaler.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t (a)")
        db.commit()
    before = everything()

    await examine(there, SystemClock())

    assert everything() == before


async def test_a_key_that_others_may_read_has_a_remedy(desk: Desk, there: Path) -> None:
    desk.key_file.chmod(0o640)

    found = await finding(there, "key file")

    assert found.verdict is Verdict.FAIL
    assert "0600" in found.remedy


async def test_a_key_that_only_the_service_sees_is_looked_at_by_its_original(
    desk: Desk, there: Path
) -> None:
    change(there, "key_file = ", 'key_file = "/run/credentials/none.service/mkinf.key" #')

    blind = await finding(there, "key file")
    found = await examine(there, SystemClock(), desk.key_file)

    assert blind.verdict is Verdict.WARN
    assert "--key-file" in blind.remedy
    assert next(each for each in found if each.check == "key").verdict is Verdict.OK


async def test_a_key_that_is_refused_has_a_remedy(desk: Desk, there: Path) -> None:
    desk.key_file.write_text("another-key\n")

    found = await finding(there, "key")

    assert found.verdict is Verdict.FAIL
    assert "copy the access key anew" in found.remedy


async def test_a_cloud_that_does_not_answer_is_not_the_keys_fault(there: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        change(there, "url = ", f'url = "http://127.0.0.1:{taken.getsockname()[1]}/v0.1" #')
        found = await finding(there, "cloud")

    assert found.verdict is Verdict.FAIL
    assert "is cloud.url right" in found.remedy


@pytest.mark.parametrize(
    ("by", "verdict"),
    [(0, Verdict.OK), (30, Verdict.WARN), (-30, Verdict.WARN), (600, Verdict.FAIL), (-600, Verdict.FAIL)],
)  # fmt: skip
async def test_a_clock_that_is_off_is_seen_by_the_clouds(
    there: Path, by: int, verdict: Verdict
) -> None:
    found = await finding(there, "clock", WrongClock(timedelta(seconds=by)))

    assert found.verdict is verdict
    assert ("timedatectl" in found.remedy) == (verdict is not Verdict.OK)


async def test_an_owner_mark_that_is_written_nowhere_is_to_be_written_down(there: Path) -> None:
    change(there, "owner = ", "# owner = ")

    found = await finding(there, "owner mark")

    assert found.verdict is Verdict.WARN
    assert found.remedy.startswith('write owner = "')


async def test_nobody_named_in_the_firewall_is_said_before_anything_is_rented(there: Path) -> None:
    change(there, "sources = ", "# sources = ")

    found = await finding(there, "firewall")

    assert found.verdict is Verdict.WARN
    assert "nothing is rented" in found.found


async def test_through_tunnels_nobody_need_be_named(there: Path) -> None:
    change(there, "sources = ", "# sources = ")
    change(there, "schema = 1\n", 'schema = 1\nreach = "tunnel"\n')

    found = await finding(there, "firewall")

    assert found.verdict is Verdict.OK
    assert "no port of a node is used" in found.found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not a database, but long enough to be one" * 100, "not a database"),
        (None, "newer version"),
    ],
)
async def test_a_store_that_cannot_be_used_fails(
    desk: Desk, there: Path, content: bytes | None, said: str
) -> None:
    store = desk.path / "new/state/autoscaler.db"
    if content is not None:
        store.write_bytes(content)
    else:
        with closing(sqlite3.connect(store)) as db:
            db.execute("PRAGMA user_version = 999")

    found = await finding(there, "store")

    assert found.verdict is Verdict.FAIL
    assert said in found.found


async def test_a_store_that_the_daemon_holds_is_left_alone(desk: Desk, there: Path) -> None:
    (desk.path / "new/state/autoscaler.db").write_bytes(b"")
    lock = os.open(desk.path / "new/state/autoscaler.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)

    found = await finding(there, "store")
    os.close(lock)

    assert found.verdict is Verdict.OK
    assert "held by the daemon" in found.found


async def test_a_port_that_somebody_else_has_is_named_with_how_to_find_who(there: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        change(there, "[cloud]", f'[serve]\nlisten = "127.0.0.1:{port}"\n[cloud]')

        found = await finding(there, "port of the daemon")

    assert found.verdict is Verdict.FAIL
    assert f"ss -ltnp 'sport = :{port}'" in found.remedy


async def test_tunnels_are_looked_for_where_nodes_are_reached_through_them(there: Path) -> None:
    before = {each.check for each in await examine(there, SystemClock())}
    change(there, "schema = 1", 'schema = 1\nreach = "tunnel"')

    found = await finding(there, "tunnels")

    assert "tunnels" not in before
    assert found.verdict is Verdict.WARN
    assert "tunnels.sock: no such socket" in found.found
    assert "autoscaler tunnels" in found.remedy


async def test_a_gateway_that_answers_is_seen(desk: Desk, there: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, desk.path / "new/run/gateway.sock")
    async with server:
        found = await finding(there, "gateway")

    assert found.verdict is Verdict.OK


async def test_an_haproxy_that_does_not_answer_fails(there: Path) -> None:
    change(there, "schema = 1\n", 'schema = 1\nbalancer = "haproxy"\n')
    change(there, "[cloud]", '[[haproxy]]\nname = "edge"\nsocket = "none.sock"\n[cloud]')

    found = await finding(there, "haproxy edge")

    assert found.verdict is Verdict.FAIL
    assert "deploy/haproxy/haproxy.cfg" in found.remedy


async def test_an_ssh_key_that_others_may_read_fails(desk: Desk, there: Path) -> None:
    (desk.path / "new/state/ssh_key").chmod(0o644)

    found = await finding(there, "ssh key")

    assert found.verdict is Verdict.FAIL
    assert "chmod 0600" in found.found


async def test_the_host_authority_is_to_be_copied_away_and_put_back_when_it_is_gone(
    desk: Desk, there: Path
) -> None:
    authority = desk.path / "new/host_authority"

    kept = await finding(there, "host authority")
    authority.chmod(0o640)
    shown = await finding(there, "host authority")
    authority.unlink()
    new = await finding(there, "host authority")
    (desk.path / "new/state/autoscaler.db").touch()
    gone = await finding(there, "host authority")

    assert kept.verdict is Verdict.OK
    assert kept.found.startswith(f"{authority}: ours alone; keep a copy on another machine")
    assert shown.verdict is Verdict.FAIL
    assert "chmod 0600" in shown.found
    assert new.verdict is Verdict.OK
    assert (gone.verdict, authority.exists()) == (Verdict.WARN, False)
    assert "put its copy back" in gone.remedy


async def test_a_model_of_unknown_shape_is_to_be_looked_up(desk: Desk, there: Path) -> None:
    policy = desk.path / "new/policies/qwen3-8b.toml"
    change(policy, "Qwen/Qwen3-8B", "acme/unknown")

    found = await finding(there, "policy acme/unknown")

    assert found.verdict is Verdict.WARN
    assert found.remedy == f"autoscaler validate --online --config {there}"


async def test_something_that_fails_is_the_exit_status(desk: Desk, there: Path) -> None:
    desk.key_file.write_text("another-key\n")

    said = await desk.type("doctor", "--config", str(there))

    assert said.exit_code == 1
    assert "fail  key:" in said.output
    assert "→ copy the access key anew" in said.output


PUBLIC = 'schema = 1\nfront = { listen = "0.0.0.0:0" }'


async def test_a_public_address_without_keys_and_tls_is_refused_as_the_gateway_does(
    desk: Desk, there: Path
) -> None:
    change(there, "schema = 1", PUBLIC)

    found = await finding(there, "front.listen")
    said = await desk.type("validate", "--config", str(there))

    with pytest.raises(ConfigError) as refused:  # what the gateway says of it
        check_exposure(read_front(there), [("0.0.0.0", 0)])
    assert found.verdict is Verdict.FAIL
    assert said.exit_code == 2
    assert found.found == str(refused.value)
    assert f"front.listen: {refused.value}" in said.stderr


async def test_certificate_and_client_keys_are_judged_as_the_gateway_does(
    desk: Desk, there: Path
) -> None:
    front = 'schema = 1\nfront = { tls = "tls", client_keys = "clients" }'
    change(there, "schema = 1", front)

    missing = await examine(there, SystemClock())
    made = await desk.type("keys", "new", "ops", "--into", str(there.parent / "clients"))
    present = await finding(there, "front.client_keys")
    started = await desk.type("gateway", "--config", str(there), "--max-connections", "100000000")

    assert made.exit_code == 0, made.output
    assert started.exit_code == 2
    assert started.stderr.startswith("autoscaler gateway: ")  # no other word before it
    tls, keys = (each for each in missing if each.check.startswith("front."))
    assert (tls.check, tls.verdict) == ("front.tls", Verdict.FAIL)
    assert "certificate" in tls.found
    assert "keys new" not in tls.remedy
    assert keys.verdict is Verdict.FAIL
    assert f"autoscaler keys new NAME --into {there.parent}/clients" in keys.remedy
    assert (present.verdict, present.found) == (Verdict.OK, f"{there.parent}/clients: 1 key")


async def test_commands_in_remedies_name_the_config_that_was_looked_at(there: Path) -> None:
    change(there, "schema = 1", 'schema = 1\nreach = "tunnel"')

    remedies = {each.check: each.remedy for each in await examine(there, SystemClock())}

    assert remedies["daemon"] == f"start it: autoscaler run --config {there}"
    assert remedies["gateway"] == f"start it: autoscaler gateway --config {there}"
    assert f"--control {there.parent}/run/tunnels.sock" in remedies["tunnels"]
    assert start_gateway(Path("/etc/autoscaler/config.toml")).startswith("systemctl start")
    assert with_config("run", Path("config.toml")) == "autoscaler run"
