"""A public address is served with keys and TLS, behind a proxy that has both, or not at all."""

from __future__ import annotations

import asyncio
import socket
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from autoscaler.errors import ConfigError
from autoscaler.front import FrontSettings
from autoscaler.gateway.exposure import check_exposure, is_loopback
from autoscaler.gateway.front_file import read_front
from autoscaler.gateway.settings import GatewaySettings
from tests.gateway.front_parts import write_keys, write_pair

KEYS = GatewaySettings(client_keys=Path("keys"))
TLS = GatewaySettings(tls=Path("tls"))
BOTH = replace(KEYS, tls=Path("tls"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "203.0.113.5", "fe80::1%eth0"])
def test_an_address_that_others_reach_needs_keys_and_tls(host: str) -> None:
    for settings, missing in (
        (GatewaySettings(), "without TLS .* and without client keys"),
        (KEYS, r"without TLS \(\[front\] tls, or --tls\)"),
        (TLS, "without client keys .*--client-keys"),
    ):
        with pytest.raises(ConfigError, match=f"(?s){host}:443 .*{missing}.*--behind-proxy"):
            check_exposure(settings, [("127.0.0.1", 8080), (host, 443)])

    check_exposure(BOTH, [(host, 443)])
    check_exposure(GatewaySettings(behind_proxy=True), [(host, 443)])


def test_loopback_needs_neither() -> None:
    check_exposure(GatewaySettings(), [("127.0.0.1", 80), ("127.8.9.1", 80), ("::1", 80)])
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:10.0.0.1")


async def ended(folder: Path, *options: str, inherit: socket.socket | None = None) -> str:
    """Run the real command until it ends by itself, with status 2; return what it said."""
    hand_over = (
        "import os, sys\n"
        "if sys.argv[1] != '-': os.dup2(int(sys.argv[1]), 3, inheritable=True);"
        " os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'autoscaler.gateway', *sys.argv[2:]])"
    )
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", hand_over, str(inherit.fileno()) if inherit else "-"),
        *("--control", str(folder / "control.sock"), *options),
        pass_fds=(inherit.fileno(),) if inherit else (),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            _, said = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.communicate()
    assert program.returncode == 2, said
    return said.decode()


async def test_the_command_refuses_a_public_address_and_says_how_to_have_it(
    tmp_path: Path,
) -> None:
    said = await ended(tmp_path, "--listen", "0.0.0.0:0")

    assert "can be reached from other hosts" in said
    assert "--tls" in said
    assert "--client-keys" in said
    assert "--behind-proxy" in said
    assert not (tmp_path / "control.sock").exists()


async def test_a_public_socket_of_systemd_is_refused_alike(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    write_keys(keys, ann={})
    with socket.socket() as opened:
        opened.bind(("0.0.0.0", 0))
        opened.listen()

        said = await ended(tmp_path, "--client-keys", str(keys), inherit=opened)

    assert "without TLS" in said
    assert "without client keys" not in said


async def test_an_expired_certificate_and_open_keys_end_the_command_with_the_cure(
    tmp_path: Path,
) -> None:
    pair = write_pair(tmp_path / "tls", ends=-timedelta(hours=1))
    keys = tmp_path / "keys.toml"
    write_keys(keys, ann={})
    keys.chmod(0o644)
    listen = ("--listen", "127.0.0.1:0")

    expired, opened = await asyncio.gather(
        ended(tmp_path, *listen, "--tls", str(pair)),
        ended(tmp_path, *listen, "--client-keys", str(keys)),
    )

    assert "expired on" in expired
    assert "renew it" in expired
    assert f"chmod 600 {keys}" in opened


def test_front_is_read_from_a_config_whose_rest_is_wrong(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        "schema = 99\n[cloud]\nnonsense = true\n"
        "[front]\nlisten = '0.0.0.0:443'\ntls = 'tls'\nclient_keys = '/etc/clients'\n"
        "max_body = '1MiB'\n[gateway]\ncontrol = 'g.sock'\n"
    )

    settings = read_front(config)

    assert settings.listen == (("0.0.0.0", 443),)
    assert settings.tls == tmp_path / "tls"
    assert settings.client_keys == Path("/etc/clients")
    assert settings.control == tmp_path / "g.sock"
    assert settings.max_body_bytes == 1024 * 1024


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listen = '0.0.0.0'", "front: listen: '0.0.0.0': want HOST:PORT"),
        ("listen = []", "front.listen"),
        ("tls_key = 'k'", "set tls too"),
        ("client_key = 'k'", "did you mean 'client_keys'"),
        ("max_body = 5", "greater than or equal to 1024"),
    ],
)
def test_a_mistake_in_front_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"[front]\n{text}\n")

    with pytest.raises(ConfigError) as refused:
        read_front(config)

    assert said in str(refused.value)
    assert f"{config}:" in str(refused.value)


def test_the_defaults_of_the_table_are_those_of_the_command() -> None:
    table, command = FrontSettings(), GatewaySettings()

    assert table.max_body == command.max_body_bytes
    assert table.max_connections == command.max_connections
    assert table.listen == tuple(f"{host}:{port}" for host, port in command.listen)
