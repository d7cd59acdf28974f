"""The warm-up from the host of an HAProxy elsewhere: to servers that it reaches, or does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncssh
import pytest

from autoscaler.balance.remote import SshHost
from autoscaler.domain.node import Endpoint
from autoscaler.errors import ReachUnavailable
from autoscaler.front_door import EveryDoor, SshDoor
from autoscaler.nodes.pki import make_authority
from autoscaler.nodes.verify_http import PortClosed, TlsRefused, node_session
from tests.balance.far_host import HOST_KEY, KEY, public
from tests.balance.parts import NewServer
from tests.balance.tls_parts import TlsServer
from tests.world.files import free_port

NOW = datetime.now(UTC)
OURS = make_authority(NOW)
NAME = "as-teamaaaa-one-1-qwen"


class Letting(asyncssh.SSHServer):
    """Lets a login reach TCP ports, unless it may not."""

    asked = 0
    may = True

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        type(self).asked += 1
        if not self.may:  # as OpenSSH answers with AllowTcpForwarding no
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "no")
        return True


class Shut(Letting):
    may = False


@pytest.fixture(params=[Letting])
async def host(request: pytest.FixtureRequest) -> AsyncIterator[SshHost]:
    port = free_port()
    authorized = asyncssh.import_authorized_keys(public(KEY))
    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=request.param,
        server_host_keys=[HOST_KEY],
        authorized_client_keys=authorized,
    )
    far = SshHost("autoscaler", "127.0.0.1", port, public(HOST_KEY), KEY)
    yield far
    await far.close()
    server.close()
    await server.wait_closed()


async def ask(host: SshHost, url: str) -> int:
    async with node_session(OURS.pem) as session:
        door = SshDoor(host, Endpoint(NAME, url, 1, 1), session)
        both = EveryDoor((door, door))
        answer = await both.ask(f"{url}/v1/completions", timeout_s=10, payload={"prompt": "x"})
        return answer.status


async def test_the_warm_up_sets_out_from_the_far_host(host: SshHost, new_server: NewServer) -> None:
    server = await new_server()
    before = Letting.asked

    assert await ask(host, server.url) == 200

    assert server.served == 2
    assert Letting.asked > before


async def test_it_is_verified_there_too(host: SshHost) -> None:
    with TlsServer.of(OURS, f"{NAME}.autoscaler.internal", NOW) as server:
        assert await ask(host, server.url) == 200
    with (
        TlsServer.of(OURS, "as-teamaaaa-two-1-qwen.autoscaler.internal", NOW) as server,
        pytest.raises(TlsRefused, match="another machine's"),
    ):
        await ask(host, server.url)


async def test_a_port_that_is_closed_from_there_names_that_host(host: SshHost) -> None:
    with pytest.raises(PortClosed, match="from autoscaler@127") as closed:
        await ask(host, f"http://127.0.0.1:{free_port()}")

    assert closed.value.source == "127.0.0.1"


@pytest.mark.parametrize("host", [Shut], indirect=True)
async def test_a_host_that_lets_nothing_through_says_nothing_of_the_node(
    host: SshHost, new_server: NewServer
) -> None:
    with pytest.raises(ReachUnavailable, match="AllowTcpForwarding local"):
        await ask(host, (await new_server()).url)


async def test_a_far_host_that_is_away_holds_no_node_up_while_another_answers(
    new_server: NewServer,
) -> None:
    server = await new_server()
    away = SshHost("autoscaler", "127.0.0.1", free_port(), public(HOST_KEY), KEY)
    async with node_session() as session:
        lost = SshDoor(away, Endpoint(NAME, server.url, 1, 1), session)
        url = f"{server.url}/v1/completions"

        answer = await EveryDoor((lost, session)).ask(url, timeout_s=10, payload={})
        with pytest.raises(ReachUnavailable, match="waits for the host of HAProxy"):
            await EveryDoor((lost,)).ask(url, timeout_s=10, payload={})

    assert answer.status == 200
