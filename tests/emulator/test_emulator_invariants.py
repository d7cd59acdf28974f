"""Whatever is called, whatever breaks, in whatever order: the books stay right.

The cloud runs in process here, without a socket, as a simulation would run it.
"""

from __future__ import annotations

import asyncio

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoscaler.emulator.emulator import Emulator
from autoscaler.emulator.faults import KINDS, Stage, make_fault
from autoscaler.emulator.http import ConnectionDropped, Request
from autoscaler.emulator.model import OperationState, VmState
from autoscaler.emulator.settings import Settings
from autoscaler.emulator.switches import CHOICES
from tests.emulator.rig import ACCESS_KEY, AirMachines, ManualClock, order

SETTINGS = Settings(access_key=ACCESS_KEY)
SLOW = ("hang", "delay", "huge")
STRIKES = sorted(
    kind for kind in KINDS if KINDS[kind].stage is not Stage.CLOCK and kind not in SLOW
)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("delete"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("STOP"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("START"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("RESET"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("kill"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("vanish"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("power_off"), st.sampled_from(["a", "b", "c"])),
        st.tuples(st.just("fault"), st.sampled_from(STRIKES)),
        st.tuples(
            st.just("switch"),
            st.sampled_from([f"{name}={one}" for name, all_ in CHOICES.items() for one in all_]),
        ),
        st.tuples(st.just("pass"), st.sampled_from(["1", "7", "25", "100"])),
    ),
    max_size=25,
)


class Course:
    """Takes steps and checks the books after each."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.machines = AirMachines()
        self.emulator = Emulator(SETTINGS, self.machines, self.clock)
        self.books = self.emulator.cloud.books
        self.stock = dict(self.books.stock)

    async def call(self, method: str, path: str, body: object = None) -> None:
        project = f"/v0.1/projects/{SETTINGS.projects[0].id}"
        headers = {"authorization": f"Bearer {ACCESS_KEY}"}
        request = Request(
            method,
            path if path.startswith("/_emulator") else project + path,
            headers=headers,
            body=b"" if body is None else orjson.dumps(body),
        )
        try:
            answer = await self.emulator.handle(request)
        except ConnectionDropped:
            return
        assert answer.status < 500 or self.emulator.cloud.faults.struck, answer

    async def take(self, verb: str, what: str) -> None:
        vm = self.books.find_vm(what)
        vm_id = vm.id if vm else "none"
        match verb:
            case "create":
                await self.call("POST", "/vms", order(what))
            case "delete":
                await self.call("DELETE", f"/vms/{vm_id}")
            case "STOP" | "START" | "RESET":
                await self.call("PATCH", f"/vms/{vm_id}", {"action": verb})
            case "kill" | "vanish" | "power_off":
                await self.call("POST", f"/_emulator/vms/{what}/{verb}", {})
            case "fault":
                self.emulator.add_fault(make_fault(what, {}))
            case "switch":
                name, _, value = what.partition("=")
                self.books.switches = self.books.switches.with_values({name: value})
            case "pass":
                self.clock.move(float(what))
        await self.call("GET", "/vms")
        await self.emulator.settled()
        self.check()

    def check(self) -> None:
        books = self.books
        alive = list(books.vms.values())
        billing = {one.id for one in books.meter.accounts() if one.is_billing("existence")}
        assert billing == {vm.id for vm in alive} | books.disks.keys()
        running = {one.id for one in books.meter.accounts() if one.runs and not one.runs[-1].end}
        assert running == {vm.id for vm in alive if vm.state is VmState.RUNNING}
        addresses = [vm.address for vm in alive if vm.address]
        assert len(addresses) == len(set(addresses))
        assert self.machines.running <= {vm.id for vm in alive}
        for one in books.operations.values():
            assert (one.completed_at is None) == (one.state is OperationState.IN_PROGRESS)

    def check_calm(self) -> None:
        """After all that was planned has happened."""
        books = self.books
        held = {vm.type.name for vm in books.vms.values()}
        assert held <= {"l40s-48gb.1x"}
        key = ("l40s-48gb.1x", "us-east1-a")
        assert books.stock[key] + len(books.vms) == self.stock[key]
        for one in books.operations.values():
            assert one.stuck or one.state is not OperationState.IN_PROGRESS
        for vm in books.vms.values():
            is_on = vm.id in self.machines.running
            stuck = vm.state is VmState.SHUTDOWN
            assert stuck or is_on == (vm.state is VmState.RUNNING), vm.state


@given(steps=steps)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_books_stay_right_whatever_happens(steps: list[tuple[str, str]]) -> None:
    async def course() -> None:
        cloud = Course()
        async with cloud.emulator:
            for verb, what in steps:
                await cloud.take(verb, what)
            for _ in range(4):  # longer than any fault holds anything
                await cloud.take("pass", "700")
            cloud.check_calm()

    asyncio.run(course())


def test_time_may_pass_in_one_leap_or_in_small_steps() -> None:
    """The books depend on the instants at which things were due, not on when anybody looked."""

    async def course(step_s: float) -> list[object]:
        cloud = Course()
        async with cloud.emulator:
            await cloud.call("POST", "/vms", order("a"))
            await cloud.call("POST", "/vms", order("b", type="l40s-48gb.2x"))
            for _ in range(int(600 / step_s)):
                cloud.clock.move(step_s)
                await cloud.emulator.settled()
            return [(vm.name, vm.state, vm.updated_at) for vm in cloud.books.vms.values()] + [
                (one.name, [span.start for span in one.runs])
                for one in cloud.books.meter.accounts()
                if one.kind == "vm"
            ]

    assert asyncio.run(course(600)) == asyncio.run(course(0.5))


def test_the_pace_follows_the_clock_without_anybody_calling() -> None:
    async def course() -> list[str]:
        cloud = Course()
        async with cloud.emulator:
            await cloud.call("POST", "/vms", order("a"))
            for _ in range(60):
                cloud.clock.move(1)
                for _ in range(5):
                    await asyncio.sleep(0)
            return [spec.name for spec, _ in cloud.machines.booted]

    assert asyncio.run(course()) == ["a"]
