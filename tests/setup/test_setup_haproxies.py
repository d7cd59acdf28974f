"""The doctor asks each HAProxy by the way that the daemon takes: here, or over SSH."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from autoscaler.config_file import read_config
from autoscaler.setup.findings import Finding, Verdict
from autoscaler.setup.haproxies import check_haproxies
from tests.balance.far_host import HOST_KEY, KEY, RemoteHost, public
from tests.balance.parts import HaproxyProcess


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="setup-") as name:
        yield Path(name)


@pytest.fixture
async def haproxy(folder: Path) -> AsyncIterator[HaproxyProcess]:
    process = HaproxyProcess(folder, "http://127.0.0.1:9")
    await process.start()
    yield process
    await process.stop()


async def check(folder: Path, *tables: str) -> list[Finding]:
    path = folder / "config.toml"
    path.write_text(
        'schema = 1\nbalancer = "haproxy"\nstate_dir = "state"\n'
        '[cloud]\nurl = "http://127.0.0.1:1/v0.1"\nkey_file = "k"\nowner = "testtest"\n'
        + "".join(f"[[haproxy]]\n{table}\n" for table in tables)
    )
    return await check_haproxies(read_config(path))


async def test_each_haproxy_says_who_it_is_whether_here_or_on_another_host(
    folder: Path, haproxy: HaproxyProcess
) -> None:
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(KEY.export_private_key("openssh"))
    host = RemoteHost()
    await host.start()
    far = (
        f'name = "far"\nsocket = "{haproxy.socket_path}"\nssh = "ops@127.0.0.1:{host.port}"\n'
        f'ssh_host_key = "{public(HOST_KEY)}"\nssh_key_file = "key"\n'
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(host.stop)
        found = await check(folder, f'socket = "{haproxy.socket_path}"\n', far)

    assert [each.check for each in found] == ["haproxy haproxy", "haproxy far"]
    assert all(each.verdict is Verdict.OK and "answers, version" in each.found for each in found)


async def test_one_that_does_not_answer_is_named_with_its_socket(
    folder: Path, haproxy: HaproxyProcess
) -> None:
    await haproxy.stop()

    (found,) = await check(folder, f'socket = "{haproxy.socket_path}"\n')

    assert found.verdict is Verdict.FAIL
    assert f"cannot be asked on {haproxy.socket_path}" in found.found


async def test_without_the_daemons_key_it_makes_none_and_says_who_does(folder: Path) -> None:
    far = f'socket = "/a"\nssh = "ops@127.0.0.1"\nssh_host_key = "{public(HOST_KEY)}"\n'

    (found,) = await check(folder, far)

    assert found.verdict is Verdict.FAIL
    assert "ssh_key" in found.found
    assert "when it first starts" in found.remedy
    assert not (folder / "state").exists()
