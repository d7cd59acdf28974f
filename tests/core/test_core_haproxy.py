"""What `[[haproxy]]` may say: a Unix socket, here or over SSH to a host whose key is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoscaler.config_file import read_config
from autoscaler.errors import ConfigError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8Jx0a0nW2b3C4d5E6f7G8h9I0j1K2l3M4n5O6p7Q8r"
FAR = f'ssh = "autoscaler@10.0.0.5"\nssh_host_key = "{KEY}"\n'


def config(tmp_path: Path, *haproxies: str) -> Path:
    path = tmp_path / "config.toml"
    tables = "".join(f"[[haproxy]]\n{table}\n" for table in haproxies)
    path.write_text(
        'schema = 1\nbalancer = "haproxy"\n'
        '[cloud]\nurl = "http://127.0.0.1:1/v0.1"\nkey_file = "k"\nowner = "testtest"\n' + tables
    )
    return path


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.5:9999",
        "haproxy.internal:9999",
        "[::1]:9999",
        "tcp@10.0.0.5:9999",
        "tcp://10.0.0.5:9999",
        "ipv4@10.0.0.5:9999",
        ":9999",
    ],
)
@pytest.mark.parametrize("key", ["socket", "master_socket"])
def test_an_open_tcp_port_is_refused_and_ssh_named_instead(
    tmp_path: Path, key: str, address: str
) -> None:
    other = "" if key == "socket" else 'socket = "/run/haproxy.sock"\n'

    with pytest.raises(ConfigError) as refused:
        read_config(config(tmp_path, f'{other}{key} = "{address}"'))

    text = str(refused.value)
    assert f"{tmp_path}/config.toml" in text
    assert f"{key}" in text
    assert repr(address) in text
    assert 'ssh = "user@host"' in text


def test_the_paths_of_another_host_are_left_as_they_are(tmp_path: Path) -> None:
    sockets = 'socket = "/run/haproxy/a.sock"\nmaster_socket = "/run/m.sock"\n'

    (far,) = read_config(config(tmp_path, sockets + FAR + 'ssh_key_file = "far_key"\n')).haproxy

    assert str(far.socket) == "/run/haproxy/a.sock"
    assert str(far.master_socket) == "/run/m.sock"
    assert far.ssh_key_file == tmp_path / "far_key"
    assert far.ssh_address == ("autoscaler", "10.0.0.5", 22)


@pytest.mark.parametrize(
    ("ssh", "address"),
    [
        ("ops@balancer-1.internal:2222", ("ops", "balancer-1.internal", 2222)),
        ("ops@[2001:db8::5]:22", ("ops", "2001:db8::5", 22)),
    ],
)
def test_a_host_is_named_with_user_and_perhaps_a_port(
    tmp_path: Path, ssh: str, address: tuple[str, str, int]
) -> None:
    table = f'socket = "/a"\nssh = "{ssh}"\nssh_host_key = "{KEY}"\n'

    (far,) = read_config(config(tmp_path, table)).haproxy

    assert far.ssh_address == address


def test_a_host_without_its_key_is_refused_with_the_command_that_shows_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ssh_host_key is missing.*ssh-keyscan .* 10\.0\.0\.5"):
        read_config(config(tmp_path, 'socket = "/a"\nssh = "autoscaler@10.0.0.5"\n'))


def test_a_key_without_a_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ssh is missing"):
        read_config(config(tmp_path, f'socket = "/a"\nssh_host_key = "{KEY}"\n'))


@pytest.mark.parametrize("wrong", ["10.0.0.5", "a b@c", "-oProxyCommand=x@c", "a@c:x", "a@"])
def test_what_is_no_user_at_a_host_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match="ssh"):
        read_config(config(tmp_path, f'socket = "/a"\nssh = "{wrong}"\nssh_host_key = "{KEY}"\n'))


@pytest.mark.parametrize(
    ("first", "second"), [("", ""), ("", 'name = "gateway"\n'), ('name = "b"\n', 'name = "b"\n')]
)
def test_two_of_one_name_or_one_called_as_the_gateway_are_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    with pytest.raises(ConfigError, match="is taken: give each"):
        read_config(config(tmp_path, f'{first}socket = "/a"\n', f'{second}socket = "/b"\n'))
