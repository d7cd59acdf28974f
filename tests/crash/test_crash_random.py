"""SIGKILL at random moments, under load, while the fleet grows and shrinks. `make crash-random` does it 200 times."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from tests.crash.crashes import Clients, Crashes

KILLS = int(os.environ.get("KILLS", "5"))
SEED = int(os.environ.get("SEED", "0"))


@pytest.mark.e2e
@pytest.mark.timeout(120 + 15 * KILLS)
async def test_whenever_the_daemon_is_killed_no_request_is_lost_and_no_machine_bills_unknown(
    crashes: Crashes,
) -> None:
    there, dice, clients = crashes.world, random.Random(SEED), Clients(crashes.world)
    await crashes.start()
    await crashes.settled(1)

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(clients.ask()) for _ in range(3)]
        for _ in range(KILLS):
            there.write_policy(nodes={"min": dice.choice((1, 2, 3)), "max": 3})
            await asyncio.sleep(dice.uniform(0.2, 2.5))
            await crashes.kill()
            await crashes.start()
        there.write_policy(nodes={"min": 1, "max": 3})
        await crashes.settled(1)
        for task in asking:
            task.cancel()

    print(f"{KILLS} kills, seed {SEED}: {clients.whole} requests answered, "
          f"{len(clients.failed)} failed, {len(await there.created_names())} machines rented, "
          f"{len(crashes.violations)} violations")  # fmt: skip
    assert clients.failed == []
    assert clients.whole > 5 * KILLS
    assert crashes.violations == []
