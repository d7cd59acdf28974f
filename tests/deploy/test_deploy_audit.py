"""The watchdog's timer: its command runs from any host with a key, tells by its exit status, and deletes nothing."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path

import pytest
from aiohttp import web

from tests.brakes.parts import FRESH, name, telling
from tests.cloud.answers import VM
from tests.cloud.scripted import KEY, PROJECT, ScriptedMkinf, serve
from tests.deploy.units import setting

ROWS = [{"name": name(), "machine_id": VM["id"], "state": "ready"}]


def test_the_timer_asks_every_five_minutes_and_the_service_never_deletes() -> None:
    (command,) = setting("autoscaler-audit.service", "ExecStart")

    assert setting("autoscaler-audit.timer", "OnCalendar") == ["*:0/5"]
    assert setting("autoscaler-audit.service", "Type") == ["oneshot"]
    assert "--terminate-unaccounted" not in command
    assert "--config" not in command  # it is for a host that has none


@pytest.mark.parametrize(
    ("rows", "project", "status"),
    [(ROWS, PROJECT, 0), ([], PROJECT, 4), (ROWS, "another", 5)],
    ids=["accounted for", "disowned", "no daemon of this project"],
)
async def test_its_command_runs_from_a_host_that_has_only_a_key(
    tmp_path: Path, rows: list[object], project: str, status: int
) -> None:
    (command,) = setting("autoscaler-audit.service", "ExecStart")
    (tmp_path / "audit.key").write_text(KEY + "\n")
    (tmp_path / "audit.key").chmod(0o440)  # as systemd leaves credentials
    mkinf, app = ScriptedMkinf(), web.Application()
    app.router.add_route("*", "/{path:.*}", mkinf.handle)
    runner, port = await serve(app)
    mkinf.on("GET /projects", {"items": [{"id": PROJECT, "name": "serving"}]})
    mkinf.on("GET P/vms", {"items": [{**VM, "name": name()}]})
    for call in ("GET P/disks", "GET P/vms/operations", "GET P/vpc/firewall-rules"):
        mkinf.on(call, {"items": []})
    async with telling() as daemon:
        daemon.body = {**FRESH, "project": project, "nodes": rows}
        text = command
        for key, value in {
            "CREDENTIALS_DIRECTORY": str(tmp_path),
            "OWNER": "testtest",
            "PROJECT": PROJECT,
            "DAEMON": daemon.url,
        }.items():
            text = text.replace(f"${{{key}}}", value)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "autoscaler", *shlex.split(text)[1:],
            "--url", f"http://127.0.0.1:{port}/v0.1",
            cwd=tmp_path, env={**os.environ, "CREDENTIALS_DIRECTORY": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(30):
            said, _ = await process.communicate()
    await runner.cleanup()

    assert "${" not in text
    assert process.returncode == status, said.decode()
    assert not [each for each in mkinf.seen if each.method != "GET"]
