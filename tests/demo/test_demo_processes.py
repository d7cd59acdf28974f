"""Whatever is left of a run is found, named and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoscaler.demo.processes import Processes

WAIT = "import sys; sys.stdin.read()"


def waiting(**options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]  # options of Popen as given
        [sys.executable, "-c", WAIT], stdin=subprocess.PIPE, **options
    )


@contextmanager
def family() -> Iterator[tuple[int, int]]:
    """A process and its child, apart from this one's other children: their pids."""
    script = "setsid sleep 600 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        yield root.pid, int(root.stdout.readline())
        root.kill()


def test_a_child_that_was_seen_and_runs_on_is_named_and_ended(tmp_path: Path) -> None:
    with family() as (root, child):
        processes = Processes(root)
        processes.scan()

        left = processes.end(tmp_path)

        assert [word.split()[1] for word in left] == [str(child)]
        assert processes.end(tmp_path) == []


def test_who_works_in_the_runs_directory_is_found_though_never_seen(tmp_path: Path) -> None:
    with waiting(cwd=tmp_path) as child:
        left = Processes().end(tmp_path)

        assert [word.split()[1] for word in left] == [str(child.pid)]
        assert child.wait(10) == -9


def test_a_child_that_has_ended_is_not_left(tmp_path: Path) -> None:
    with family() as (root, child):
        processes = Processes(root)
        processes.scan()
        os.kill(child, signal.SIGKILL)

        assert processes.end(tmp_path) == []


def test_a_stranger_is_left_alone(tmp_path: Path) -> None:
    with waiting() as stranger:
        assert Processes().end(tmp_path) == []
        assert stranger.poll() is None
        stranger.communicate()


def test_processor_time_of_the_dead_counts() -> None:
    processes = Processes()
    processes.scan()
    before = processes.cpu_s
    with waiting() as child:
        processes.scan()
        child.communicate()

    processes.scan()

    assert processes.cpu_s >= before > 0.0
    assert any(pid == child.pid for pid, _ in processes.seen)
