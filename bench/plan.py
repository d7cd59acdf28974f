"""Whether a pass does what `autoscaler plan` said: random stores, fleets, signals and markets, 10,000 of them.

For each state the plan is asked for as the command asks for it, then one pass runs on the same inputs. Launches,
releases, drains taken back and refusals by limits are compared, those of the pass as the store has them afterwards. A
state that differs is named by its seed: `tests/core/states.py` makes it again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import structlog

from tests.core.states import States

STATES = 10_000


def main(states: int = STATES) -> int:
    """Print how many states had which effects. Non-zero when a single one differs."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    began = time.perf_counter()
    seen, differing = asyncio.run(_compare(states))
    took_s = time.perf_counter() - began
    print(f"{states} random states, {len(differing)} differ ({took_s:.0f} s)")
    for kind in ("rented", "given_back", "taken_back", "refused", "is_nothing"):
        print(f"  {kind.replace('_', ' '):14} {seen[kind]:6}")
    if differing:
        print(f"  the first that differ: seeds {differing[:10]}")
    print(json.dumps({"bench": "plan", "states": states, "differ": len(differing), **seen}))
    return 1 if differing else 0


async def _compare(count: int) -> tuple[Counter[str], list[int]]:
    seen: Counter[str] = Counter()
    differing = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        states = States.open(Path(folder))
        try:
            for seed in range(count):
                planned, done = await states.compare(seed)
                if planned != done:
                    differing.append(seed)
                for kind in ("rented", "given_back", "taken_back", "refused", "is_nothing"):
                    seen[kind] += bool(getattr(done, kind))
        finally:
            await states.store.close()
    return seen, differing


if __name__ == "__main__":
    sys.exit(main())
