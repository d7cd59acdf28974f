"""What holds for every test: no verdict hangs on how fast this machine is, and none waits where others could run."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# By default an example that takes 200 ms fails; on a busy machine that is any example that writes to a disk. The same
# examples come in each run: a change does not fail for what was wrong before it. To look for new ones:
# make unit PYTEST_ARGS=--hypothesis-profile=searching
_unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("searching", _unhurried)
settings.register_profile("unhurried", _unhurried, derandomize=True)
settings.load_profile("unhurried")

# A shell lets what it starts in the background ignore Ctrl-C, and a process under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SPREAD_OVER = 0.8


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A command run in this process writes its log to that test's stderr, which is closed when the test has ended."""
    kept = structlog.get_config()
    yield
    structlog.configure(**kept)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the end-to-end tests evenly over the others, the longest of them first.

    They mostly wait and the others mostly compute. In a heap they would start five processes per worker at a time, each
    slowing all; at the end of the run the longest would keep one worker busy and the others idle.
    """
    worlds = [item for item in items if item.get_closest_marker("e2e")]
    others = [item for item in items if not item.get_closest_marker("e2e")]
    if not worlds or not others:
        return
    worlds.sort(key=_allowance_s, reverse=True)
    step = _SPREAD_OVER * len(others) / len(worlds)
    at = [(step * index, 0, item) for index, item in enumerate(worlds)]
    at += [(float(index), 1, item) for index, item in enumerate(others)]
    items[:] = [item for _, _, item in sorted(at, key=lambda each: each[:2])]


def _allowance_s(item: pytest.Item) -> float:
    """The time limit that a test has for itself: only long ones have one."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0
