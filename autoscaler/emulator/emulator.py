"""The emulated cloud as one object: start it, hand it requests, close it.

It needs no socket: `handle` takes a request and gives an answer, so the same cloud runs behind the
HTTP server and, on a virtual clock, inside a simulation.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from autoscaler.emulator.agenda import Agenda
from autoscaler.emulator.books import Books
from autoscaler.emulator.chance import Chance
from autoscaler.emulator.clock import Clock, ScaledClock
from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.creation import Creation
from autoscaler.emulator.credentials import Credentials
from autoscaler.emulator.faults import Fault, Faults
from autoscaler.emulator.gate import Gate
from autoscaler.emulator.hands import Hands
from autoscaler.emulator.http import (
    Answer,
    Call,
    Refused,
    Request,
    Route,
    Router,
    forbidden,
    unknown_route,
)
from autoscaler.emulator.ledger import Ledger
from autoscaler.emulator.lifecycle import Lifecycle
from autoscaler.emulator.machine import MachineBackend
from autoscaler.emulator.routes import admin, auth, catalogue, disks, operations, usage, vms, vpc
from autoscaler.emulator.settings import Settings
from autoscaler.emulator.workshop import Workshop


class Emulator:
    """A cloud. Use it as an async context manager, or call `start` and `close`."""

    def __init__(
        self, settings: Settings, machines: MachineBackend, clock: Clock | None = None
    ) -> None:
        """`clock` tells emulated time; by default the wall clock, sped up by the time factor."""
        self.settings = settings
        self._machines = machines
        self._woken = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self.cloud = self._build(clock or ScaledClock(settings.time_factor))
        self._api = Router(self.api_routes())
        self._admin = Router(admin.routes(self.cloud, self.add_fault))
        self._gate = Gate(self.cloud, self._api)
        for fault in settings.faults:
            self.add_fault(fault)

    def _build(self, clock: Clock) -> Cloud:
        settings = self.settings
        chance = Chance(settings.seed, salt=clock.now().isoformat())
        hands = Hands(self._machines, lambda *why: lifecycle.machine_failed(*why))
        shop = Workshop(
            settings=settings,
            books=Books(settings, chance),
            agenda=Agenda(self._woken.set),
            faults=Faults(chance),
            chance=chance,
            ledger=Ledger(settings.ledger_limit),
            hands=hands,
            clock=clock,
        )
        lifecycle = Lifecycle(shop)
        return Cloud(
            shop=shop,
            lifecycle=lifecycle,
            creation=Creation(shop, lifecycle),
            credentials=Credentials(settings, chance),
            stale_lists={},
        )

    def api_routes(self) -> list[Route]:
        """Every route of the mkinf API."""
        cloud, settings = self.cloud, self.settings
        return [
            *auth.routes(cloud, settings),
            *catalogue.routes(cloud),
            *operations.routes(cloud),
            *vms.routes(cloud, settings.page_size),
            *disks.routes(cloud),
            *vpc.routes(cloud),
            *usage.routes(cloud, settings),
        ]

    # -- running

    async def start(self) -> None:
        """Begin to let time pass."""
        started = asyncio.Event()
        self._main = asyncio.create_task(self._run(started), name="emulator")
        await started.wait()

    async def close(self) -> None:
        """Kill every machine and stop. Nothing is left."""
        try:
            if self._main is not None:
                self._main.cancel()
                with suppress(asyncio.CancelledError):
                    await self._main
        finally:
            self._main = None
            ids = list(self.cloud.books.vms)
            await asyncio.gather(*(self._machines.destroy(vm_id) for vm_id in ids))
            await self._machines.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, started: asyncio.Event) -> None:
        """Own every task: the commands to machines, and the pace of the agenda."""
        async with asyncio.TaskGroup() as group:
            self.cloud.shop.hands.use(group)
            started.set()
            while True:
                self.settle()
                await self._until_due()

    def settle(self) -> None:
        """Bring the books to the present: run everything that is due."""
        self.cloud.shop.agenda.run_due(self.cloud.now())

    async def settled(self) -> None:
        """Settle, and wait until the machines have done what that asked of them."""
        self.settle()
        await self.cloud.shop.hands.idle()
        self.settle()

    async def _until_due(self) -> None:
        """Wait for the agenda's next entry, or for one that comes before it."""
        self._woken.clear()
        due = self.cloud.shop.agenda.next_due()
        if due is None:
            await self._woken.wait()
            return
        clock = self.cloud.shop.clock
        wait_s = max(0.0, (due - clock.now()).total_seconds())
        async with asyncio.TaskGroup() as group:
            sleep = group.create_task(clock.sleep(wait_s))
            woken = group.create_task(self._woken.wait())
            await asyncio.wait((sleep, woken), return_when=asyncio.FIRST_COMPLETED)
            sleep.cancel()
            woken.cancel()

    # -- requests

    async def handle(self, request: Request) -> Answer:
        """Answer one request, of the cloud's API or of the emulator's own.

        Raises:
            ConnectionDropped: no answer is to be sent; cut the connection.
        """
        self.settle()
        if not request.path.startswith(admin.PREFIX):
            return await self._gate.pass_through(request)
        if not admin.is_from_here(request):
            return forbidden("not for web pages").answer
        found = self._admin.find(request.method, request.path)
        if found is None:
            return unknown_route().answer
        try:
            return found[0].handler(Call(request, found[1]))
        except Refused as refused:
            return refused.answer

    def add_fault(self, fault: Fault) -> Fault:
        """Order a fault; it stands from now on."""
        fault = self.cloud.faults.add(fault)
        if fault.kind == "list_stale":
            self.cloud.freeze_lists(fault.id)
        self.cloud.ledger.record(self.cloud.now(), "fault_ordered", fault=fault.kind, id=fault.id)
        return fault
