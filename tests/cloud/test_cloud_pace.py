"""How fast calls start, on a loop whose time is virtual: no test here waits for real."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import orjson
import pytest

from autoscaler.clock import SystemClock
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.credentials import AccessKey, Password
from autoscaler.cloud.mkinf.pace import Pace
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.mkinf.transport import Request, Response
from autoscaler.cloud.mkinf.values import VmRequest
from autoscaler.cloud.secret import Secret
from autoscaler.errors import CloudUnavailable, HeldBack, OutcomeUnknown
from tests.cloud.scripted import PROJECT

Scenario = Callable[[], Coroutine[Any, Any, None]]


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Waiting for a timer takes no time: the clock jumps to it."""

    def __init__(self) -> None:
        super().__init__(_NoWaiting(self))
        self.ahead_s = 0.0

    def time(self) -> float:
        return self.ahead_s


class _NoWaiting(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            self._loop.ahead_s += timeout
        return super().select(0 if timeout is not None else None)


class LoopClock(SystemClock):
    def boot_s(self) -> float:
        return asyncio.get_running_loop().time()


def on_virtual_time(scenario: Scenario) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scenario())


class FakeNetwork:
    """Stands in for the network at the one seam there is."""

    def __init__(self, answer: Response, takes_s: float = 0.0) -> None:
        self.answers = [answer]
        self.takes_s = takes_s
        self.started: list[tuple[float, str]] = []
        self.running = 0
        self.most_running = 0

    async def send(self, request: Request) -> Response:
        self.started.append((asyncio.get_running_loop().time(), request.method))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async with asyncio.timeout(request.timeout_s):
                await asyncio.sleep(self.takes_s)
        except TimeoutError:
            raise OutcomeUnknown("no answer") from None
        finally:
            self.running -= 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def client(self) -> MkinfClient:
        return MkinfClient(
            MkinfSettings(project_id=PROJECT),
            AccessKey(Secret("k")),
            send=self.send,
            clock=LoopClock(),
            rng=random.Random(1),
        )


EMPTY = Response(200, {}, b'{"items": []}')
DELETED = Response(200, {}, b"{}")
OPERATION = Response(200, {}, b'{"operation_id": "o", "state": "IN_PROGRESS"}')
REQUEST = VmRequest("box-1", "t", "l", "i", "k")


def most_per_second(started: list[float]) -> int:
    return max(sum(1 for other in started if 0 <= other - each < 1.0) for each in started)


def test_no_more_than_five_calls_start_in_any_second() -> None:
    async def scenario() -> None:
        network = FakeNetwork(EMPTY)
        async with network.client() as client:
            await asyncio.gather(*(client.specs() for _ in range(23)))

        starts = [at for at, _ in network.started]
        assert len(starts) == 23
        assert most_per_second(starts) == 4  # the fifth place is a delete's

    on_virtual_time(scenario)


def test_no_more_than_four_calls_are_in_flight() -> None:
    async def scenario() -> None:
        network = FakeNetwork(EMPTY, takes_s=5.0)
        async with network.client() as client, asyncio.TaskGroup() as tasks:
            for _ in range(6):
                tasks.create_task(client.specs())
                tasks.create_task(client.delete_vm("v"))

        assert network.most_running == 4

    on_virtual_time(scenario)


def test_a_delete_starts_at_once_while_other_calls_queue() -> None:
    async def scenario() -> None:
        network = FakeNetwork(EMPTY, takes_s=4.0)
        async with network.client() as client, asyncio.TaskGroup() as tasks:
            for _ in range(12):
                tasks.create_task(client.specs())
            await asyncio.sleep(0.1)
            tasks.create_task(client.delete_vm("v"))

        (at,) = [at for at, method in network.started if method == "DELETE"]
        assert at == pytest.approx(0.1)

    on_virtual_time(scenario)


def test_retry_after_holds_everything_back_for_as_long_as_asked() -> None:
    async def scenario() -> None:
        network = FakeNetwork(EMPTY)
        network.answers = [Response(429, {"retry-after": "7"}, b""), EMPTY]
        async with network.client() as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(client.specs())
            await asyncio.sleep(0.1)
            tasks.create_task(client.delete_vm("v"))

        first, *later = [at for at, _ in network.started]
        assert first == 0.0
        assert all(at >= 7.0 for at in later)
        assert len(later) == 2

    on_virtual_time(scenario)


def test_a_create_gives_up_before_it_is_sent_rather_than_late() -> None:
    async def scenario() -> None:
        network = FakeNetwork(EMPTY, takes_s=9.0)
        async with network.client() as client, asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(client.specs())
            await asyncio.sleep(0.1)
            with pytest.raises(CloudUnavailable, match="nothing was sent"):
                await client.create_vm(REQUEST)

        assert "POST" not in [method for _, method in network.started]

    on_virtual_time(scenario)


def test_a_create_is_answered_within_12_seconds_of_its_start_or_unknown() -> None:
    async def scenario() -> None:
        network = FakeNetwork(EMPTY, takes_s=60.0)
        loop = asyncio.get_running_loop()
        async with network.client() as client:
            with pytest.raises(OutcomeUnknown):
                await client.create_vm(REQUEST)

        assert loop.time() == pytest.approx(12.0)
        assert len(network.started) == 1

    on_virtual_time(scenario)


def test_calls_that_wait_too_long_for_a_place_say_so() -> None:
    async def scenario() -> None:
        network = FakeNetwork(EMPTY)
        async with network.client() as client:
            answers = await asyncio.gather(
                *(client.specs() for _ in range(400)), return_exceptions=True
            )

        refused = [each for each in answers if isinstance(each, CloudUnavailable)]
        assert refused
        assert "rate limit" in str(refused[0])
        assert len(network.started) == 400 - len(refused)

    on_virtual_time(scenario)


def test_places_survive_any_order_of_cancelling() -> None:
    async def scenario() -> None:
        rng = random.Random(3)
        pace = Pace(per_s=50, in_flight=3)

        async def use() -> None:
            async with pace.place(delete=rng.random() < 0.3):
                await asyncio.sleep(rng.random())

        tasks = [asyncio.ensure_future(use()) for _ in range(200)]
        for task in rng.sample(tasks, 150):
            await asyncio.sleep(rng.random() * 0.05)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        async with asyncio.timeout(5.0), pace.place(delete=False):
            pass

    on_virtual_time(scenario)


def test_calls_that_are_sent_once_go_before_calls_that_only_look() -> None:
    """Twenty pollers made every create wait out its time, and the offers were blamed."""

    async def scenario() -> None:
        network = FakeNetwork(OPERATION, takes_s=0.5)
        async with network.client() as client, asyncio.TaskGroup() as tasks:

            async def look() -> None:
                for _ in range(3):
                    await client.operation("o")

            for _ in range(20):
                tasks.create_task(look())
            await asyncio.sleep(1.0)
            made = [
                tasks.create_task(client.create_vm(replace(REQUEST, name=f"n{i}")))
                for i in range(3)
            ]
            await asyncio.gather(*made)

            assert asyncio.get_running_loop().time() < 5.0

    on_virtual_time(scenario)


TOKENS = Response(
    200,
    {},
    b'{"access_token": "a", "refresh_token": "r", "expires_in": 3600, "token_type": "Bearer"}',
)


@pytest.mark.parametrize("tokens", [0, 1])
def test_only_what_was_never_sent_is_called_held_back(tokens: int) -> None:
    """A create that was refused was sent under its name, although its fresh token never came."""

    async def scenario() -> None:
        left, sent = tokens, 0

        async def send(request: Request) -> Response:
            nonlocal left, sent
            if request.target.endswith("/auth/token"):
                if left == 0:
                    await asyncio.sleep(60)
                left -= 1
                return TOKENS
            sent += 1
            return Response(401, {}, b'{"message": "expired"}')

        client = MkinfClient(
            MkinfSettings(project_id=PROJECT),
            Password("a@b.c", Secret("pw")),
            send=send,
            clock=LoopClock(),
        )
        async with client:
            with pytest.raises(CloudUnavailable) as raised:
                await client.create_vm(REQUEST)

        assert sent == tokens
        assert isinstance(raised.value, HeldBack) is (tokens == 0)

    on_virtual_time(scenario)


def test_a_slow_rate_is_kept_too() -> None:
    async def scenario() -> None:
        pace = Pace(per_s=0.5, in_flight=4)
        loop = asyncio.get_running_loop()
        for _ in range(4):
            async with pace.place(delete=True):
                pass

        assert loop.time() == pytest.approx(4.0)  # two at once, two after 4 s

    on_virtual_time(scenario)


def test_what_is_sent_is_json_below_the_root() -> None:
    async def scenario() -> None:
        seen: list[Request] = []

        async def send(request: Request) -> Response:
            seen.append(request)
            return DELETED

        client = MkinfClient(
            MkinfSettings(project_id=PROJECT), AccessKey(Secret("k")), send=send, clock=LoopClock()
        )
        async with client:
            await client.act_on_vm("v 1", "STOP")

        assert seen[0].target == f"/projects/{PROJECT}/vms/v%201"
        assert orjson.loads(seen[0].body or b"") == {"action": "STOP"}
        assert "Bearer" not in repr(seen[0])

    on_virtual_time(scenario)
