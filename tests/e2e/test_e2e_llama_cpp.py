"""`autoscaler demo --engine llama.cpp`: the real server, from the rented machine to the clients' answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.world import CLOSED, World
from tests.observe.parts import need_llama_cpp
from tests.world.processes import die_with_parent, processes_below

pytestmark = pytest.mark.e2e


async def test_the_demo_answers_its_clients_with_the_real_llama_cpp_server(bare: World) -> None:
    need_llama_cpp()
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autoscaler", "demo", "--engine", "llama.cpp", "--no-faults"),
        *("--traffic", "20", "--peak", "3", "--report", "report", "--keep", "kept"),
        cwd=bare.directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=die_with_parent,
    )
    async with asyncio.timeout(110):
        node = await first_that_serves(bare.directory / "kept", demo)
        async with bare.session.get(f"{node['endpoints'][0]}/metrics") as page:
            metrics = await page.text()
        gateway = gateway_url(bare.directory / "kept" / "gateway.log")
        answer = await bare.ask("demo/tiny", stream=True, tokens=24, base=gateway)
        out, _ = await demo.communicate()

    said = out.decode()
    assert demo.returncode == 0, said
    assert "llamacpp:" in metrics
    assert answer.whole, (answer, said)
    assert answer.tokens == 24
    report = json.loads((bare.directory / "report" / "report.json").read_text())
    summary = report["summary"]
    assert summary["answered"] == summary["requests"] > 0
    assert summary["held"] >= 1  # told by its header that the start was a cold one
    assert all(name.startswith("c1a.") for name in summary["offer_types"])
    assert (summary["machines_killed"], summary["problems"]) == (0, [])
    assert {n["state"] for n in report["nodes"]} <= set(CLOSED)
    assert processes_below(bare.directory) == []


async def first_that_serves(kept: Path, demo: asyncio.subprocess.Process) -> dict[str, Any]:
    """Ask the demo's daemon until a node serves."""
    while demo.returncode is None:
        connector = aiohttp.UnixConnector(str(kept / "run" / "daemon.sock"))
        async with aiohttp.ClientSession(connector=connector) as daemon:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with daemon.get("http://daemon/api/v1/nodes") as answer:
                    nodes: list[dict[str, Any]] = await answer.json()
                ready = [node for node in nodes if node["state"] == "ready"]
                if ready:
                    return ready[0]
        await asyncio.sleep(0.1)
    assert demo.stdout is not None
    pytest.fail((await demo.stdout.read()).decode())


def gateway_url(log: Path) -> str:
    events = [json.loads(line) for line in log.read_text().splitlines()]
    listening = next(event for event in events if event["event"] == "gateway_listening")
    return f"http://{listening['host']}:{listening['port']}"
