"""The two sides of the contract: a cloud at some address, and what only the emulator can be told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from autoscaler.clock import SystemClock
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.credentials import AccessKey, Credential, SecretFile
from autoscaler.cloud.mkinf.offers import ImageNames
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.cloud.mkinf.settings import DEFAULT_URL, MkinfSettings
from autoscaler.domain.offer import Offer

T = TypeVar("T")

TIME_FACTOR = 120
START_S = 30.0
SSH_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJVEJW2Hl7Ybd2RZ+Yl2V4yQkG8kD1eT6u7y6i8mZx3L contract"
)


@dataclass(frozen=True)
class Party:
    """A cloud that the contract is held against."""

    url: str
    project_id: str
    key_file: Path
    admin_url: str | None = None
    password_file: Path | None = None

    @property
    def is_emulated(self) -> bool:
        return self.admin_url is not None

    @property
    def may_write(self) -> bool:
        return self.is_emulated or os.environ.get("MKINF_LIVE_WRITE") == "1"

    def cloud(self, credential: Credential | None = None, **settings: object) -> MkinfCloud:
        """Open the cloud; an emulator is called faster than one would call a stranger."""
        if self.is_emulated:
            settings = {"requests_per_s": 500.0, "in_flight": 16, **settings}
        values: dict[str, object] = {"url": self.url, "project_id": self.project_id, **settings}
        client = MkinfClient(
            MkinfSettings(**values),  # type: ignore[arg-type]  # tests give what it takes
            credential or AccessKey(SecretFile(self.key_file)),
        )
        return MkinfCloud(client, load_prices(), ImageNames(), SystemClock())

    async def eventually(self, what: Callable[[], Awaitable[T | None]], within_s: float) -> T:
        """Ask until there is an answer; `within_s` is the cloud's time."""
        deadline = time.monotonic() + max(within_s / (TIME_FACTOR if self.is_emulated else 1), 10.0)
        while True:
            if (answer := await what()) is not None:
                return answer
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
            await asyncio.sleep(0.03 if self.is_emulated else 3.0)


def live_party() -> Party | None:
    """The real cloud, when a key is given."""
    key_file, project = os.environ.get("MKINF_KEY_FILE"), os.environ.get("MKINF_PROJECT")
    if not key_file or not project:
        return None
    return Party(os.environ.get("MKINF_URL", DEFAULT_URL), project, Path(key_file))


@contextmanager
def running_emulator(directory: Path) -> Iterator[Party]:
    """Run the emulator as its users do: as a program."""
    ready, log = directory / "ready.json", directory / "log"
    password_file = directory / "password"
    command = [
        sys.executable, "-m", "autoscaler.emulator", "--listen", "127.0.0.1:0",
        "--time-factor", str(TIME_FACTOR), "--ready-file", str(ready),
        "--state-dir", str(directory / "machines"), "--password-file", str(password_file),
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + START_S
            while not ready.exists():
                assert process.poll() is None, f"the emulator ended: {log.read_text()}"
                assert time.monotonic() < deadline, f"the emulator is not up: {log.read_text()}"
                time.sleep(0.05)
            told = json.loads(ready.read_text())
            yield Party(
                told["url"],
                told["project_id"],
                Path(told["key_file"]),
                told["admin_url"],
                password_file,
            )
        finally:
            process.terminate()
            process.wait(timeout=20)


class Admin:
    """What only an emulator can be told: how to answer open questions, and what to get wrong."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def switch(self, **switches: str) -> None:
        await self._call("PUT", "/switches", switches)

    async def fault(self, kind: str, **fields: object) -> None:
        await self._call("POST", "/faults", {"kind": kind, **fields})

    async def stock(self, offer: Offer, count: int) -> None:
        place = {"type": offer.key.type, "location": offer.key.location}
        await self._call("PUT", "/stock", {**place, "count": count})

    async def quota(self, family: str, count: int) -> None:
        await self._call("PUT", "/quota", {"family": family, "count": count})

    async def credentials(self, action: str) -> None:
        await self._call("POST", f"/credentials/{action}")

    async def vanish(self, vm_id: str) -> None:
        await self._call("POST", f"/vms/{vm_id}/vanish")

    async def names(self) -> list[str]:
        """The VMs that there are, whatever the API says."""
        told = await self._call("GET", "/snapshot")
        return [vm["name"] for vm in told["vms"]]

    async def reset(self, switches: dict[str, str], quota: dict[str, int]) -> None:
        """Undo what a test did."""
        await self._call("DELETE", "/faults")
        await self.credentials("restore")
        await self.switch(**switches)
        for family, count in quota.items():
            await self.quota(family, count)
        told = await self._call("GET", "/snapshot")
        for vm in told["vms"]:
            if vm["state"] != "DELETED":
                await self._session.post(f"{self._url}/vms/{vm['id']}/vanish")

    async def standing(self) -> tuple[dict[str, str], dict[str, int]]:
        """Read switches and quota, to restore them."""
        told = await self._call("GET", "/switches")
        quota = await self._call("GET", "/quota")
        return (
            {name: each["value"] for name, each in told.items()},
            {each["family"]: each["count"] for each in quota["items"]},
        )

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        """Call the admin API. Any: its JSON, which only these tests read."""
        async with self._session.request(method, self._url + path, json=body) as answer:
            assert answer.status < 300, f"{method} {path}: {answer.status} {await answer.text()}"
            return await answer.json()
