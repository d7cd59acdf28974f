"""The units: systemd finds nothing wrong, little is exposed, and their commands start as systemd would start them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import aiohttp
import pytest

from autoscaler.cloud.mkinf.connect import open_client
from autoscaler.cloud.mkinf.credentials import SecretFile
from autoscaler.config_file import read_config
from autoscaler.errors import ConfigError
from tests.deploy.units import (
    ROOT,
    SERVICES,
    UNITS,
    confinement,
    setting,
    systemd_analyze,
    unconfinable,
)

GATE = 1.2


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as an installation has them, with the built command's path in them."""
    command = Path(sys.executable).parent / "autoscaler"
    if not command.exists():
        pytest.fail(f"no {command}: pip install -e .")
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    for unit in folder.glob("*.service"):
        text = unit.read_text()
        assert "/opt/autoscaler/bin/autoscaler" in text
        unit.write_text(text.replace("/opt/autoscaler/bin/autoscaler", str(command)))
    return folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="units-") as name:
        yield Path(name)


def seconds(text: str) -> float:
    units = {"": 1, "s": 1, "min": 60, "h": 3600}
    number, unit = re.fullmatch(r"(\d+)(s|min|h)?", text).groups(default="")  # type: ignore[union-attr]  # a unit's own text
    return float(number) * units[unit]


def test_systemd_finds_nothing_wrong_with_the_units_once_installed(installed: Path) -> None:
    units = [str(path) for path in sorted(installed.glob("autoscaler*.*")) if path.is_file()]

    found = systemd_analyze("verify", *units)

    assert [Path(unit).name for unit in units] == [
        "autoscaler-audit.service",
        "autoscaler-audit.timer",
        "autoscaler-gateway.service",
        "autoscaler-gateway.socket",
        "autoscaler-tunnels.service",
        "autoscaler-tunnels.socket",
        "autoscaler.service",
    ]
    assert (found.stdout, found.stderr, found.returncode) == ("", "", 0)


def test_systemd_would_say_it_if_something_were_wrong(installed: Path) -> None:
    unit = installed / "autoscaler.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))

    found = systemd_analyze("verify", str(unit))

    assert "WatchdogSeconds" in found.stderr


@pytest.mark.parametrize("with_haproxy", [False, True], ids=["alone", "with HAProxy"])
@pytest.mark.parametrize("service", [*SERVICES, "autoscaler-audit"])
def test_little_is_exposed_to_the_services(
    service: str, with_haproxy: bool, installed: Path
) -> None:
    if not with_haproxy:
        shutil.rmtree(installed / "autoscaler.service.d")

    found = systemd_analyze("security", "--offline=true", str(installed / f"{service}.service"))

    level = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", found.stdout)
    assert level is not None, found.stderr
    assert float(level[1]) <= GATE
    assert found.stderr == ""


def test_each_service_runs_as_a_user_of_its_own_that_sysusers_makes(tmp_path: Path) -> None:
    program = shutil.which("systemd-sysusers")
    if program is None:
        pytest.fail("no systemd-sysusers here: apt-get install systemd")
    said = subprocess.run(
        (program, "--dry-run", f"--root={tmp_path}", str(UNITS / "sysusers.conf")),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    made = re.findall(r"^Creating user '(\S+)'", said.stdout + said.stderr, flags=re.MULTILINE)

    users = [setting(f"{service}.service", "User")[0] for service in SERVICES]

    assert made == users == list(SERVICES)
    assert setting("autoscaler-gateway.socket", "SocketGroup") == setting(
        "autoscaler.service", "Group"
    )
    assert setting("autoscaler-gateway.socket", "SocketMode") == ["0660"]


def test_the_daemon_finds_the_socket_that_systemd_opens_for_the_gateway() -> None:
    config = read_config(ROOT / "config.example.toml")
    opened = setting("autoscaler-gateway.socket", "ListenStream")

    assert str(config.gateway_control) in opened
    assert config.state_dir == Path("/var/lib") / setting("autoscaler.service", "StateDirectory")[0]
    assert config.runtime_dir == Path("/run") / setting("autoscaler.service", "RuntimeDirectory")[0]
    # the daemon's directory is removed at its stop: the gateway's socket must not be in it
    assert config.gateway_control.parent != config.runtime_dir


def test_the_daemons_key_is_the_credential_that_its_unit_loads() -> None:
    config = read_config(ROOT / "config.example.toml")
    name = setting("autoscaler.service", "LoadCredential")[0].partition(":")[0]

    assert config.cloud.key_file == Path("/run/credentials/autoscaler.service") / name


def test_a_credential_of_systemd_is_accepted_as_it_lies_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential = folder / "mkinf.key"
    credential.write_text("an-access-key\n")
    credential.chmod(0o440)  # as systemd leaves them; the directory keeps others out
    cloud = read_config(ROOT / "config.example.toml").cloud

    with pytest.raises(ConfigError, match="chmod 600"):
        SecretFile(credential).read()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))

    assert SecretFile(credential).read().reveal() == "an-access-key"
    open_client(cloud.model_copy(update={"key_file": credential}))


def test_stopping_the_gateway_waits_longer_than_its_answers_may_run() -> None:
    (command,) = setting("autoscaler-gateway.service", "ExecStart")
    words = shlex.split(command)
    drain_s = float(words[words.index("--drain-timeout") + 1])

    stop_s = seconds(setting("autoscaler-gateway.service", "TimeoutStopSec")[0])

    assert drain_s + 30 <= stop_s


def test_a_reload_of_the_gateway_starts_the_next_one() -> None:
    assert setting("autoscaler-gateway.service", "ExecReload") == ["/bin/kill -USR2 $MAINPID"]
    assert setting("autoscaler-gateway.service", "NotifyAccess") == ["main"]  # MAINPID= is heard


def test_no_service_is_ever_given_up() -> None:
    for service in SERVICES:
        assert setting(f"{service}.service", "Restart") == ["always"]
        assert setting(f"{service}.service", "StartLimitIntervalSec") == ["0"]
        assert seconds(setting(f"{service}.service", "WatchdogSec")[0]) > 0


async def test_the_gateways_command_takes_systemds_sockets_and_reports_to_it(
    folder: Path,
) -> None:
    (command,) = setting("autoscaler-gateway.service", "ExecStart")
    words = command.replace("/var/lib/autoscaler-gateway", str(folder))
    words = words.replace("/etc/autoscaler/config.toml", str(ROOT / "config.example.toml"))
    arguments = shlex.split(words.replace("127.0.0.1:9111", "127.0.0.1:0"))[1:]
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    clients = socket.socket()
    control = socket.socket(socket.AF_UNIX)
    with notices, clients, control:
        notices.bind(str(folder / "notify"))
        notices.setblocking(False)
        clients.bind(("127.0.0.1", 0))
        clients.listen()
        control.bind(str(folder / "control.sock"))
        control.listen()
        pass_on = (
            "import os, sys; kept = [int(n) for n in sys.argv[1:3]];"
            "high = [os.dup2(fd, 50 + i) for i, fd in enumerate(kept)];"
            "[os.dup2(fd, 3 + i) for i, fd in enumerate(high)];"
            "os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()));"
            "os.execv(sys.executable, [sys.executable, *sys.argv[3:]])"
        )
        fds = [clients.fileno(), control.fileno()]
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", pass_on, *map(str, fds)),
            *(str(Path(__file__).with_name("confined.py")), confinement("autoscaler-gateway")),
            *(sys.executable, "-m", "autoscaler", *arguments),
            pass_fds=fds,
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ)
            | {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"},
        )
        try:
            heard: list[bytes] = []
            async with asyncio.timeout(30):
                for fact in (b"READY=1", b"WATCHDOG=1"):
                    while not any(fact in notice for notice in heard):
                        heard.append(await asyncio.get_running_loop().sock_recv(notices, 4096))
                await _put_pool(folder / "control.sock")
                answer = await _ask(*clients.getsockname())
                started.send_signal(signal.SIGTERM)
                while not any(b"STOPPING=1" in notice for notice in heard):
                    heard.append(await asyncio.get_running_loop().sock_recv(notices, 4096))
                _, log = await started.communicate()
        finally:
            if started.returncode is None:
                started.kill()
                await started.communicate()

    unconfinable(started.returncode, log.decode())
    assert [model["id"] for model in json.loads(answer)["data"]] == ["org/chat-8b"]
    assert started.returncode == 0, log.decode()
    assert (folder / "gateway.json").exists()


async def _put_pool(control: Path) -> None:
    connector = aiohttp.UnixConnector(str(control))
    async with (
        aiohttp.ClientSession(connector=connector, raise_for_status=True) as session,
        session.post("http://gateway/v1/pools/put", json={"model": "org/chat-8b"}),
    ):
        pass


async def _ask(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("service", SERVICES)
def test_every_compiled_wheel_works_as_confined_as_the_units_say(service: str) -> None:
    here = Path(__file__).parent
    command = (
        *(sys.executable, str(here / "confined.py"), confinement(service)),
        *(sys.executable, str(here / "wheels_at_work.py")),
    )

    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )

    unconfinable(ended.returncode, ended.stderr)
    assert ended.stderr == ""
    assert ended.stdout.split() == [
        *("no-wx", "no-netlink", "no-resources"),
        *("loop", "http", "ssh", "solver", "watch", "store"),
    ]


def test_the_units_can_be_read_without_systemd() -> None:
    for unit in UNITS.glob("autoscaler*.s*"):
        if unit.is_file():
            parser = RawConfigParser(strict=False, allow_no_value=False)
            parser.read_string(unit.read_text().replace("\\\n    ", ""))
            assert {"Unit", "Install"} < set(parser.sections())
