"""Every command that only reads, against every party, as a program reads it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
import structlog
from typer.testing import CliRunner

from autoscaler.cli.app import app
from tests.contract.parties import Party

pytestmark = pytest.mark.xdist_group("contract")


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "command",
    [
        "offers",
        "cloud locations",
        "cloud availabilities",
        "cloud specs",
        "cloud images",
        "cloud networks",
        "cloud subnets",
        "cloud firewall list",
        "cloud vms",
        "cloud disks",
        "cloud operations",
        "cloud operations --of disks",
        "cloud operations --of firewall-rules",
        "cloud usage",
        "cloud projects",
        "cloud organizations",
    ],
)
async def test_a_reading_command_prints_json(command: str, party: Party) -> None:
    options = ["--url", party.url, "--project", party.project_id]
    words = [*command.split(), *options, "--key-file", str(party.key_file), "--json"]

    result = await asyncio.to_thread(CliRunner().invoke, app, words)

    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), dict)
