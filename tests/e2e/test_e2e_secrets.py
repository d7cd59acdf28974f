"""A canary for each secret: it is seen nowhere that others may look, whatever goes wrong, with everything logged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import CANARY_TOKEN, MODEL, World
from tests.gateway.front_parts import write_keys
from tests.world.processes import command_lines

pytestmark = [pytest.mark.e2e, pytest.mark.started_anew]

# The files that are the secrets. A node has its own copy of the hub's token in its own memory disk, and of no other.
OWN_FILES = {"access-key", "token", "ssh_key", "host_authority", "ca-key.pem"}
WRONG_KEY = "sk-wrongCanaryThatSomebodyTried0123456789"


async def test_no_secret_is_seen_anywhere_in_the_life_of_a_node(bare: World) -> None:
    client_key = write_keys(bare.directory / "clients", anna={})["anna"]
    await asyncio.gather(bare.start_emulator(), bare.start_gateway("--client-keys", "clients"))
    token = bare.directory / "policies" / "token"
    token.parent.mkdir()
    token.write_text(f"{CANARY_TOKEN}\n")
    token.chmod(0o600)
    bare.write_policy(server={"token_file": "token"}, nodes={"min": 1, "max": 2})
    for kind, options in (
        ("script_exits_1", {}), ("cut_json", {"call": "list_vms"}), ("html", {"call": "list_vms"}),
        ("status", {"code": 401, "call": "list_vms"}), ("status", {"code": 500}),
    ):  # fmt: skip
        await bare.fault(kind, count=1, **options)
    await bare.start_daemon()
    watching = asyncio.create_task(_watch_processes())
    (node,) = await bare.ready()
    asked = [await _ask(bare, client_key), await _ask(bare, WRONG_KEY)]
    pages = [text for _, text in asked]
    pages += await _told(bare, node["name"])
    nonces = set(_nonces(bare.directory))
    clouds = [
        str(await bare.admin("GET", f"/{what}")) for what in ("snapshot", "ledger?limit=10000")
    ]
    await bare.end("daemon")
    pages += [await watching]
    files = {f: f.read_bytes().decode(errors="replace") for f in _files(bare.directory)}
    ours = [text for file, text in files.items() if not _is_a_machines(file, bare.directory)]
    machines = [text for file, text in files.items() if _is_a_machines(file, bare.directory)]

    assert [status for status, _ in asked] == [200, 401]
    assert nonces
    assert all(pages)
    keys = {(bare.directory / "access-key").read_text().strip(), client_key, WRONG_KEY}
    keys |= set(_private_parts(bare.directory))
    assert len(keys) > 6
    assert _seen(keys, [*pages, *clouds, *ours, *machines]) == []
    assert _seen({CANARY_TOKEN}, [*pages, *clouds, *ours]) == []
    assert (
        _seen(nonces, [*pages, *ours]) == []
    )  # the cloud has the script, and so each node's nonce


async def _ask(there: World, key: str) -> tuple[int, str]:
    """Ask the gateway with a client's key."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    url, bearer = f"{there.gateway}/v1/chat/completions", {"Authorization": f"Bearer {key}"}
    async with there.session.post(url, json=body, headers=bearer) as answer:
        return answer.status, await answer.text()


async def _told(there: World, node: str) -> list[str]:
    """All that the daemon and its commands tell, also of what is asked wrongly."""
    paths = ("status", "nodes?all=1", "events?limit=1000", "explain?model=chat", "plan?model=chat",
             "inventory", "cost")  # fmt: skip
    pages = [str(await there.get(f"/api/v1/{path}")) for path in paths]
    for path in ("metrics", "sd", "healthz", "api/v1/explain?model=none", "api/v1/events?limit=x"):
        async with there.session.get(f"{there.serve}/{path}") as answer:
            pages.append(await answer.text())
    commands = (
        *(("events", node), ("status",), ("doctor",), ("cloud", "vms")),
        ("render-script", "policies/chat.toml", "l40s-48gb.1x"),
    )
    said = await asyncio.gather(*(there.command(*command) for command in commands))
    pages += [one.out + one.err for one in said]
    return pages


def _seen(secrets: set[str], texts: list[str]) -> list[str]:
    assert all(len(secret) > 8 for secret in secrets)
    return [text[:200] for text in texts if any(secret in text for secret in secrets)]


def _files(directory: Path) -> Iterator[Path]:
    return (f for f in directory.rglob("*") if f.is_file() and f.name not in OWN_FILES)


def _is_a_machines(file: Path, directory: Path) -> bool:
    return "machines" in file.relative_to(directory).parts


def _private_parts(directory: Path) -> Iterator[str]:
    """A line from the middle of each private key: what its beginning says, its public key says too."""
    for name in ("ssh_key", "host_authority"):
        (path,) = directory.rglob(name)
        lines = path.read_text().splitlines()[1:-1]
        yield from lines[2:-1]


def _nonces(directory: Path) -> Iterator[str]:
    for file in directory.glob("machines/**/*"):
        if file.is_file():
            yield from re.findall(r"NONCE='?([0-9a-f]{64})", file.read_text(errors="replace"))


async def _watch_processes() -> str:
    """Command lines and environments of all processes, for a while."""
    found: set[str] = set()
    for _ in range(40):
        lines = command_lines()
        found.update(lines.values(), (_environment(pid) for pid in lines))
        await asyncio.sleep(0.05)
    return "\n".join(found)


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""  # it has just ended, or is somebody else's
