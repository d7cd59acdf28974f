"""A canary for each secret: the access key and the hub's token are seen nowhere that others may look."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.world import CANARY_TOKEN, World
from tests.world.processes import command_lines

pytestmark = pytest.mark.e2e

# The files that are the secrets; a node's own copy of the token is in its own memory disk.
OWN_FILES = {"access-key", "token"}


async def test_no_secret_is_seen_anywhere_in_the_life_of_a_node(cloud: World) -> None:
    token = cloud.directory / "policies" / "token"
    token.parent.mkdir()
    token.write_text(f"{CANARY_TOKEN}\n")
    token.chmod(0o600)
    cloud.write_policy(server={"token_file": "token"}, nodes={"min": 1, "max": 2})
    await cloud.fault("script_exits_1", count=1)
    await cloud.start_daemon()
    seen = [asyncio.create_task(_watch_processes())]
    secrets = [(cloud.directory / "access-key").read_text().strip(), CANARY_TOKEN]
    (node,) = await cloud.ready()
    assert (await cloud.ask()).whole

    paths = ("status", "nodes?all=1", "events?limit=1000", "explain?model=chat", "plan?model=chat")
    pages = [str(await cloud.get(f"/api/v1/{path}")) for path in paths]
    for path in ("metrics", "sd"):
        async with cloud.session.get(f"{cloud.serve}/{path}") as answer:
            pages.append(await answer.text())
    said = await cloud.command("events", node["name"])
    script = await cloud.command("render-script", "policies/chat.toml", "l40s-48gb.1x")
    pages += [said.out, script.out, str(await cloud.admin("GET", "/snapshot"))]
    pages += [str(await cloud.admin("GET", "/ledger?limit=10000"))]
    await cloud.end("daemon")
    pages += [await seen[0]]
    for file in cloud.directory.rglob("*"):
        inside_machine = "machines" in file.relative_to(cloud.directory).parts
        if file.is_file() and file.name not in OWN_FILES and not inside_machine:
            pages.append(file.read_bytes().decode(errors="replace"))

    assert len(script.out) > 1000, script
    assert all(pages)
    for secret in secrets:
        assert len(secret) > 8
        assert not [page[:200] for page in pages if secret in page]


async def _watch_processes() -> str:
    """Command lines of all processes, for a while."""
    found: set[str] = set()
    for _ in range(40):
        found.update(command_lines().values())
        await asyncio.sleep(0.05)
    return "\n".join(found)
