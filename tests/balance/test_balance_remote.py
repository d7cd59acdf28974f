"""An HAProxy on another host: real SSH servers on loopback before a real HAProxy's sockets."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest

from autoscaler.balance.haproxy import HaproxyBalancer
from autoscaler.balance.haproxy import HaproxySettings as HaproxyTarget
from autoscaler.balance.protocol import Pool, PoolReport, ServerState
from autoscaler.balance.remote import HaproxySockets
from autoscaler.config import HaproxySettings
from autoscaler.domain.ids import ModelName
from autoscaler.errors import BalancerUnavailable, ConfigError, SourceUnavailable
from autoscaler.observe.haproxy import by_socket
from tests.balance.far_host import HOST_KEY, KEY, RemoteHost, public
from tests.balance.parts import (
    DEADLINE_S,
    HaproxyProcess,
    ModelServer,
    NewServer,
    endpoint_of,
)
from tests.world.files import free_port
from tests.world.processes import die_with_parent

MODEL = ModelName("Qwen/Qwen3-8B")


@dataclass
class Place:
    host: RemoteHost
    haproxy: HaproxyProcess
    sockets: HaproxySockets
    settings: HaproxySettings
    balancer: HaproxyBalancer
    node: ModelServer


@pytest.fixture
async def place(folder: Path, new_server: NewServer) -> AsyncIterator[Place]:
    """A HAProxy that is driven over SSH."""
    async with contextlib.AsyncExitStack() as stack:
        haproxy = HaproxyProcess(folder, (await new_server()).url)
        stack.push_async_callback(haproxy.stop)
        await haproxy.start()
        host = RemoteHost()
        stack.push_async_callback(host.stop)
        await host.start()
        settings = settings_of(haproxy, f"autoscaler@127.0.0.1:{host.port}", public(HOST_KEY))
        sockets = HaproxySockets([settings], lambda path: KEY)
        stack.push_async_callback(sockets.close)
        yield Place(
            host, haproxy, sockets, settings, balancer_of(sockets, settings), await new_server()
        )


def settings_of(haproxy: HaproxyProcess, ssh: str, host_key: str) -> HaproxySettings:
    return HaproxySettings.model_validate(
        {
            "name": "far",
            "socket": str(haproxy.socket_path),
            "master_socket": str(haproxy.master_path),
            "ssh": ssh,
            "ssh_host_key": host_key,
        }
    )


def balancer_of(sockets: HaproxySockets, settings: HaproxySettings) -> HaproxyBalancer:
    target = HaproxyTarget(
        sockets.stats(settings),
        sockets.master(settings),
        check_interval=timedelta(milliseconds=200),
        answer_time=timedelta(seconds=DEADLINE_S),
    )
    return HaproxyBalancer(target, "far")


async def test_a_node_comes_and_goes_at_a_haproxy_of_another_host(place: Place) -> None:
    await _life(place.balancer, place.node)

    assert set(place.host.asked) == {
        str(place.haproxy.socket_path),
        str(place.haproxy.master_path),
    }
    assert len(place.host.logins) == 1


async def test_many_commands_at_once_share_one_login(place: Place) -> None:
    await asyncio.gather(*(place.balancer.report(MODEL) for _ in range(20)))

    assert len(place.host.logins) == 1


async def test_its_figures_come_the_same_way(place: Place) -> None:
    look = by_socket(place.sockets.stats(place.settings), "qwen-qwen3-8b")

    seen = await look()

    assert (seen.waiting, seen.running) == (0, 0)
    with pytest.raises(SourceUnavailable, match="no backend 'nobody'"):
        await by_socket(place.sockets.stats(place.settings), "nobody")()


async def test_a_host_that_was_away_is_found_again(place: Place) -> None:
    await place.balancer.report(MODEL)
    await place.host.stop()

    with pytest.raises(BalancerUnavailable, match=r"no SSH there|connection was lost"):
        await place.balancer.report(MODEL)
    await place.host.start()

    assert (await place.balancer.report(MODEL)).servers == ()


async def test_a_host_with_another_key_is_told_nothing(place: Place) -> None:
    await place.host.stop()
    await place.host.start(asyncssh.generate_private_key("ssh-ed25519"))

    with pytest.raises(BalancerUnavailable, match=r"another host key than haproxy\.ssh_host_key"):
        await place.balancer.ensure_pool(Pool(MODEL))

    assert place.host.asked == []


async def test_a_host_that_does_not_know_our_key_is_told_which_to_add(place: Place) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    sockets = HaproxySockets([place.settings], lambda path: stranger)
    try:
        with pytest.raises(BalancerUnavailable, match="authorized_keys `ssh-ed25519 AAAA"):
            await balancer_of(sockets, place.settings).report(MODEL)
    finally:
        await sockets.close()


async def test_a_host_key_that_is_none_is_refused_at_the_start(place: Place) -> None:
    wrong = place.settings.model_copy(update={"ssh_host_key": "ssh-ed25519 AAAA"})

    with pytest.raises(ConfigError, match="no public key: copy the whole line"):
        HaproxySockets([wrong], lambda path: KEY)


async def test_a_socket_that_is_not_there_is_named_with_its_host(place: Place) -> None:
    await place.haproxy.stop()
    place.haproxy.socket_path.unlink(missing_ok=True)

    with pytest.raises(BalancerUnavailable, match=rf"127\.0\.0\.1:{place.host.port} /.*haproxy"):
        await place.balancer.report(MODEL)


async def test_openssh_forwards_to_it_with_a_key_that_may_do_nothing_else(
    folder: Path, new_server: NewServer
) -> None:
    haproxy = HaproxyProcess(folder, (await new_server()).url)
    await haproxy.start()
    port = free_port()
    process = await _start_sshd(_write_sshd(folder, port))
    user = getpass.getuser()
    settings = settings_of(haproxy, f"{user}@127.0.0.1:{port}", public(HOST_KEY))
    sockets = HaproxySockets([settings], lambda path: KEY)
    try:
        await _listens(port)
        await _life(balancer_of(sockets, settings), await new_server())
    finally:
        await sockets.close()
        process.terminate()
        await process.wait()
        await haproxy.stop()


async def _life(balancer: HaproxyBalancer, node: ModelServer) -> None:
    """A node's whole life there."""
    endpoint = endpoint_of(node, "one")
    await balancer.ensure_pool(Pool(MODEL))
    await balancer.register(MODEL, endpoint)
    report = await _is_up(balancer)
    assert report.counts_old_processes
    await balancer.drain(MODEL, endpoint.id)
    assert (await balancer.report(MODEL)).servers[0].state is ServerState.DRAINING
    await balancer.remove(MODEL, endpoint.id)
    assert (await balancer.report(MODEL)).servers == ()


async def _is_up(balancer: HaproxyBalancer) -> PoolReport:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            report = await balancer.report(MODEL)
            if report.servers[0].state is ServerState.UP:
                return report
            await asyncio.sleep(0.02)


def _write_sshd(folder: Path, port: int) -> list[str]:
    """The command line of an OpenSSH that is set up as deploy/README.md says."""
    binary = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert binary is not None, "no sshd here: apt-get install openssh-server"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    host_key = folder / "host_key"
    host_key.write_bytes(HOST_KEY.export_private_key("openssh"))
    host_key.chmod(0o600)
    (folder / "authorized_keys").write_text(f"restrict,port-forwarding {public(KEY)}\n")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        "AllowTcpForwarding local\nAllowStreamLocalForwarding local\nForceCommand /bin/false\n"
    )
    return [binary, "-D", "-e", "-f", str(folder / "sshd_config")]


async def _start_sshd(command: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )


async def _listens(port: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
