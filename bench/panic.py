"""How long `autoscaler panic` takes to prove twenty VMs absent, in every state, while the cloud fails and lies.

The emulated cloud runs at ten times its speed, and panic's timings at a tenth, so that times are told in the cloud's
seconds; both have their defaults otherwise. Counted from panic's first look to its end. The least that is possible is
the confirming time alone. First the cloud behaves, apart from VMs that it lists two minutes late; then every tenth
answer is an error, answers to deletes are lost, deletes are ignored, refused, fail, the list flickers and is cut, and
system disks stay behind. Strangers' VMs stand beside, and must stand there at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.connect import open_client
from autoscaler.cloud.mkinf.values import VmRequest
from autoscaler.config import CloudSettings
from autoscaler.domain.ids import ModelName, new_intent_id, node_name

VMS = 20
FACTOR = 10.0
CONFIRM_S = 60.0
BOUND_S = 900.0  # of the cloud's time, with faults on: the settling time of a lost create, and half of it again
_START_S = 30.0
_OWNER = "benchown"
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUMXQBxV2i2SPYCcVAyGgCxBzHyCq7xTFeAXmEsjLNY bench"
_FAULTS: tuple[dict[str, object], ...] = (
    {"kind": "status", "code": 503, "rate": 0.05},
    {"kind": "status", "code": 429, "rate": 0.05},
    {"kind": "drop_after", "call": "delete_vm", "rate": 0.3},
    {"kind": "delete_ignored", "count": 3},
    {"kind": "delete_fails", "count": 2},
    {"kind": "flicker", "count": 4},
    {"kind": "list_partial", "count": 2, "keep": 0.5},
    {"kind": "list_empty", "count": 1},
    {"kind": "os_disk_left", "count": 2},
)

Json = dict[str, Any]  # JSON as the emulator serves it


def main() -> int:
    """Print the times. Non-zero when something was left, a stranger's was touched, or the bound is missed."""
    print(
        f"{'cloud':8} {'VMs':>4} {'to proven absence':>18} {'of the least':>13}  states at the start"
    )
    good = True
    lines = []
    for faulty in (False, True):
        result = asyncio.run(_measure(faulty=faulty))
        good &= result.is_clean and (result.took_s <= BOUND_S)
        ratio = result.took_s / CONFIRM_S
        name = "faulty" if faulty else "calm"
        print(
            f"{name:8} {VMS:4} {result.took_s:16.0f} s {ratio:12.1f}x  {result.states}", flush=True
        )
        if not result.is_clean:
            print(f"  NOT CLEAN: {result.wrong}")
        fact = {
            "bench": "panic", "cloud": name, "vms": VMS, "proven_absent_s": round(result.took_s, 1),
            "of_least": round(ratio, 2), "deletes": result.deletes, "faults": result.struck,
        }  # fmt: skip
        lines.append(json.dumps(fact))
    print("\n".join(lines))
    return 0 if good else 1


@dataclass(frozen=True, slots=True)
class Result:
    """What one run came to; `wrong` is empty when nothing was left and nobody else's was touched."""

    took_s: float
    states: str
    deletes: int
    struck: int
    wrong: str

    @property
    def is_clean(self) -> bool:
        return not self.wrong


class Cloud:
    """An emulator, and a hand on it that no daemon knows of."""

    def __init__(self, told: Json, hand: MkinfClient, session: aiohttp.ClientSession) -> None:
        self._told = told
        self.hand = hand
        self._session = session

    async def admin(self, method: str, path: str, **body: object) -> Any:  # JSON of the emulator
        url = f"{self._told['admin_url']}{path}"
        async with self._session.request(method, url, json=body or None) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def rent(self, name: str | None = None) -> str:
        """Make a VM of ours; its id."""
        operation = await self.hand.create_vm(
            VmRequest(
                name=name or node_name("as1", _OWNER, new_intent_id(), 1, ModelName("bench")),
                type="l40s-48gb.1x",
                location="us-east1-a",
                image="ubuntu22.04-nvidia-pcie-docker",
                ssh_public_key=_KEY,
                startup_script="#!/bin/bash\ntrue\n",
            )
        )
        return operation.resource_id or ""

    async def running(self, count: int) -> list[str]:
        """Make VMs and wait until they run."""
        ids = [await self.rent() for _ in range(count)]
        async with asyncio.timeout(_START_S):
            while True:
                states = {vm.id: vm.state for vm in await self.hand.vms()}
                if all(states.get(each) == "RUNNING" for each in ids):
                    return ids
                await asyncio.sleep(0.1)


async def _measure(*, faulty: bool) -> Result:
    with tempfile.TemporaryDirectory(prefix="bench-panic-") as text:
        directory = Path(text)
        async with _cloud(directory) as (cloud, told):
            strangers = {
                "somebodys-box",
                node_name("as1", "somebody", new_intent_id(), 1, ModelName("x")),
            }
            for each in sorted(strangers):
                await cloud.rent(each)
            await _fill(cloud)
            states = Counter(vm.state or "?" for vm in await cloud.hand.vms())
            if faulty:
                await cloud.admin("PUT", "/switches", delete_running="refused")
                for fault in _FAULTS:
                    await cloud.admin("POST", "/faults", **fault)
            _write_config(directory, told)
            code, said, errors = await _panic(directory)
            took_s = said.get("elapsed_s", 0.0) * FACTOR
            struck = (await cloud.admin("GET", "/faults"))["struck"]
            wrong = "" if code == 0 else f"exit {code}: {errors[-2000:]}"
            snapshot = await cloud.admin("GET", "/snapshot")
            left = {vm["name"] for vm in snapshot["vms"] if vm["state"] != "DELETED"}
            if left != strangers:
                wrong += f" VMs: {sorted(left ^ strangers)}"
            if len(snapshot["disks"]) != len(strangers):
                wrong += f" disks: {[disk['name'] for disk in snapshot['disks']]}"
            calls = (await cloud.admin("GET", "/ledger?kind=call&limit=10000"))["events"]
            deletes = sum(call["details"].get("call") == "delete_vm" for call in calls)
            shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            return Result(took_s, shown, deletes, sum(struck.values()), wrong)


async def _fill(cloud: Cloud) -> None:
    """Twenty VMs of ours in every state that a VM can be in."""
    stopped, stuck, crashed, *_ = await cloud.running(9)
    await cloud.hand.act_on_vm(stopped, "STOP")
    await cloud.admin("POST", "/faults", kind="stuck_shutdown", count=1)
    await cloud.hand.act_on_vm(stuck, "STOP")
    await cloud.admin("POST", f"/vms/{crashed}/kill")
    for kind, count, options in (
        ("stuck_defining", 2, {}),
        ("failed_vm_left", 1, {}),
        ("list_lag", 2, {"lag_s": 120}),
        ("slow_create", 2, {"factor": 10}),
    ):
        await cloud.admin("POST", "/faults", kind=kind, count=count, **options)
        for _ in range(count):
            await cloud.rent()
    await cloud.running(2)  # they boot: SSH is up after 20 to 60 s more
    for doomed in (await cloud.running(2))[:1]:
        await cloud.hand.delete_vm(doomed)


def _write_config(directory: Path, told: Json) -> None:
    config = f"""
schema = 1
[cloud]
url = "{told["url"]}"
project = "{told["project_id"]}"
key_file = "{told["key_file"]}"
owner = "{_OWNER}"
requests_per_s = {5 * FACTOR}
[timings]
step = "{2000 / FACTOR:.0f}ms"
gone_after = "{CONFIRM_S * 1000 / FACTOR:.0f}ms"
delete_retry = "{5000 / FACTOR:.0f}ms"
delete_retry_max = "{60000 / FACTOR:.0f}ms"
settling_time = "{600 / FACTOR:.0f}s"
"""
    (directory / "config.toml").write_text(config)


async def _panic(directory: Path) -> tuple[int, Json, str]:
    """Run it as an operator would; its exit status, its report, and what it said on the way."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "autoscaler", "panic", "--yes", "--json", "--config", "config.toml",
        cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(300):
        out, errors = await process.communicate()
    return process.returncode or 0, json.loads(out or "{}"), errors.decode()


@asynccontextmanager
async def _cloud(directory: Path) -> AsyncIterator[tuple[Cloud, Json]]:
    ready = directory / "cloud.json"
    log = (directory / "emulator.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "autoscaler", "emulator", "--ready-file", str(ready),
        "--access-key-file", str(directory / "access-key"), "--time-factor", str(FACTOR),
        "--state-dir", str(directory / "machines"),
        cwd=directory, stdout=log, stderr=log, preexec_fn=lambda: os.nice(5),
    )  # fmt: skip
    try:
        for _ in range(int(_START_S / 0.05)):
            if ready.exists():
                break
            await asyncio.sleep(0.05)
        told: Json = json.loads(ready.read_text())
        settings = CloudSettings(
            url=told["url"],
            project=told["project_id"],
            key_file=Path(told["key_file"]),
            owner=_OWNER,
            requests_per_s=500,
            in_flight=16,
        )
        async with aiohttp.ClientSession() as session, open_client(settings) as hand:
            cloud = Cloud(told, hand, session)
            await cloud.admin(
                "PUT", "/stock", type="l40s-48gb.1x", location="us-east1-a", count=VMS + 5
            )
            yield cloud, told
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()
        log.close()


if __name__ == "__main__":
    sys.exit(main())
