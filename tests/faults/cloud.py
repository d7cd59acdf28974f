"""The simulated cloud: the emulator's core in this process, and the one send function that leads the client there.

The client's own parsing, pacing, retries and errors run on top, and the emulator's faults below.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl

import orjson

from autoscaler.clock import Clock
from autoscaler.cloud.mkinf import transport
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.credentials import AccessKey
from autoscaler.cloud.mkinf.offers import ImageNames
from autoscaler.cloud.mkinf.prices import PriceList, load_prices
from autoscaler.cloud.mkinf.settings import BODY_CAP_BYTES, MkinfSettings
from autoscaler.cloud.secret import Secret
from autoscaler.emulator.catalogue import Catalogue, load_catalogue
from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.faults import make_fault
from autoscaler.emulator.http import Answer, ConnectionDropped, Request, json_answer
from autoscaler.emulator.machine import MachineBackend
from autoscaler.emulator.settings import Project, Settings
from autoscaler.emulator.switches import Switches
from autoscaler.errors import CloudUnavailable, OutcomeUnknown
from tests.faults.lives import Life
from tests.faults.virtual import WorldTime

HERE = Path(__file__).parent
KEY = "canary-of-the-access-key-4d0f"  # must show up nowhere but in the header
PROJECT = Project()
_PREFIX = "/v0.1"
_ANOTHER = "9d0c4f3e-1111-4c1d-8a43-6b0f2b7a9e55"


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    return load_catalogue(HERE / "catalogue.toml")


@lru_cache(maxsize=1)
def prices() -> PriceList:
    return load_prices(HERE / "prices.toml")


class Listener(Protocol):
    """Hears of every call before it reaches the cloud, and of its answer."""

    def called(self, life: Life, request: Request, *, was_frozen: bool) -> None: ...

    def answered(self, life: Life, request: Request, answer: Answer) -> None: ...


@dataclass
class Network:
    """What lies between the daemon and the cloud.

    Attributes:
        cut: no connection can be made.
        cut_in_flight: connections are made, and no answer comes back.
        slow_s: added to every call.
        is_elsewhere: the daemon's key opens another project, where there is nothing.
        specs_differ: the catalogue tells of other GPUs than the price list.
    """

    cut: bool = False
    cut_in_flight: bool = False
    slow_s: float = 0.0
    is_elsewhere: bool = False
    specs_differ: bool = False


class CloudSide:
    """The cloud as the world has it."""

    def __init__(
        self,
        seed: int,
        time: WorldTime,
        machines: MachineBackend,
        switches: Switches,
        listener: Listener,
        rng: random.Random,
    ) -> None:
        self.emulator = Emulator(
            Settings(
                catalogue=catalogue(),
                projects=(PROJECT,),
                access_key=KEY,
                seed=seed,
                switches=switches,
                ledger_limit=50_000,
            ),
            machines,
            time,
        )
        self.network = Network()
        self._listener = listener
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()
        self.emulator.cloud.shop.hands.use(cast(asyncio.TaskGroup, self))

    def create_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Own the emulator's commands to machines; they end by themselves."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def order(self, kind: str, **fields: str | float | None) -> int:
        """Order a fault of the emulator's; gives its number, to take it back by."""
        return self.emulator.add_fault(make_fault(kind, fields)).id

    def open(self, life: Life, clock: Clock, settings: MkinfSettings) -> MkinfCloud:
        """The real client for one life."""

        async def send(request: transport.Request) -> transport.Response:
            return await self._send(life, request)

        client = MkinfClient(
            settings,
            AccessKey(Secret(KEY)),
            send=send,
            clock=clock,
            rng=random.Random(self._rng.getrandbits(32)),
        )
        return MkinfCloud(client, prices(), ImageNames(), clock)

    async def _send(self, life: Life, request: transport.Request) -> transport.Response:
        path, _, query = request.target.partition("?")
        label = f"{request.method} {path}"
        call = Request(
            method=request.method,
            path=_PREFIX + path,
            query=dict(parse_qsl(query)),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=request.body or b"",
            peer=f"life-{life.number}",
        )
        # A process that was frozen here sends all the same once it thaws: nobody can check a lease in between.
        thaws = life.thaws
        await life.cross("cloud", label)
        was_frozen = thaws != life.thaws
        try:
            async with asyncio.timeout(request.timeout_s):
                if self.network.cut:
                    await asyncio.sleep(5.0)
                    raise CloudUnavailable("no connection: the network is cut")
                await asyncio.sleep(self._rng.uniform(0.02, 0.1) + self.network.slow_s)
                life.crossing("cloud sent", label)
                self._listener.called(life, call, was_frozen=was_frozen)
                answer = self._elsewhere(path) or await self.emulator.handle(call)
                if self.network.specs_differ and path.endswith("/specs"):
                    answer = _with_other_gpus(answer)
                if self.network.cut_in_flight:
                    await asyncio.sleep(3600)
                await asyncio.sleep(self._rng.uniform(0.02, 0.2) + self.network.slow_s)
        except TimeoutError:
            raise OutcomeUnknown(f"{label} got no whole answer: timed out") from None
        except ConnectionDropped:
            raise OutcomeUnknown(f"{label} got no whole answer: dropped") from None
        await life.cross("cloud answered", label)
        self._listener.answered(life, call, answer)
        if len(answer.body) > BODY_CAP_BYTES:
            raise OutcomeUnknown(f"{label} got no whole answer: too large")
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return transport.Response(answer.status, headers, answer.body)

    def _elsewhere(self, path: str) -> Answer | None:
        """What a key of another project gets."""
        if not self.network.is_elsewhere:
            return None
        if path == "/projects":
            return json_answer([{"id": _ANOTHER, "name": "another"}])
        return json_answer({"detail": "no such project"}, 404)

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        """A call by somebody else with a key of the project: a colleague, another program."""
        return await self.emulator.handle(
            Request(
                method=method,
                path=f"{_PREFIX}/projects/{PROJECT.id}{path}",
                headers={"authorization": f"Bearer {KEY}"},
                body=orjson.dumps(body) if body is not None else b"",
                peer="somebody",
            )
        )


def _with_other_gpus(answer: Answer) -> Answer:
    if answer.status != 200:
        return answer
    body = orjson.loads(answer.body)
    for item in body["items"]:
        item["num_gpu"] += 1
    return json_answer(body)
