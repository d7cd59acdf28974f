"""The contract's parties: the emulator always, the real cloud when a key is given.

MKINF_KEY_FILE and MKINF_PROJECT name it (`make test-live`); it is only read, unless
MKINF_LIVE_WRITE=1 says that a machine may be rented for some minutes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from autoscaler.cloud.mkinf.cloud import MkinfCloud
from tests.contract.parties import Admin, Party, live_party, running_emulator


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Party]:
    with running_emulator(Path(tmp_path_factory.mktemp("emulator"))) as party:
        yield party


@pytest.fixture(params=["emulator", pytest.param("live", marks=pytest.mark.live)])
def party(request: pytest.FixtureRequest) -> Party:
    if request.param == "emulator":
        emulator: Party = request.getfixturevalue("emulator")
        return emulator
    live = live_party()
    if live is None:
        pytest.fail("set MKINF_KEY_FILE and MKINF_PROJECT to hold the contract against mkinf")
    return live


@pytest.fixture
def writable(party: Party) -> Party:
    if not party.may_write:
        pytest.skip("MKINF_LIVE_WRITE=1 is not set: the real cloud is only read")
    return party


@pytest.fixture
async def cloud(party: Party) -> AsyncIterator[MkinfCloud]:
    cloud = party.cloud()
    yield cloud
    await cloud.close()


@pytest.fixture
async def emulated(emulator: Party) -> AsyncIterator[MkinfCloud]:
    cloud = emulator.cloud()
    yield cloud
    await cloud.close()


@pytest.fixture
async def admin(emulator: Party) -> AsyncIterator[Admin]:
    assert emulator.admin_url is not None
    async with aiohttp.ClientSession() as session:
        admin = Admin(session, emulator.admin_url)
        standing = await admin.standing()
        yield admin
        await admin.reset(*standing)
