"""What a run tells at its end, and on the way, fits the screen and adds up."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autoscaler.demo.live import headline, screen
from autoscaler.demo.load import Load, Seen
from autoscaler.demo.report import Summary, lines, summarize, write
from autoscaler.demo.settings import DemoSettings
from autoscaler.demo.stage import Admin, Stage
from autoscaler.demo.verdict import Verdict
from autoscaler.demo.watch import Note, Sample, Watch

STARTED = 1_700_000_000.0


def node(number: int, **facts: Any) -> dict[str, Any]:
    return {
        "name": f"as1-demodemo-{number}nodenodenode-1-demo-chat-8b", "state": "ready",
        "type": "a100-80gb-sxm-ib.8x", "location": "us-northcentral1-a", "usd_per_hour": "1.6166",
        "address": "127.21.0.2", "units": 0.86, "stage": "health", "failure": None,
        "created_at": "2026-11-23T19:24:49+00:00", "ready_at": "2026-11-23T19:24:57+00:00",
        **facts,
    }  # fmt: skip


def sample(t_s: float, **facts: Any) -> Sample:
    given: dict[str, Any] = {
        "t_s": t_s, "rate": 17.3, "in_flight": 1234, "done": 12345, "failed": 123, "demand": 3.2,
        "want": 5, "capacity": 4.1, "ready": {"a100.1x": 2, "a40.1x": 1}, "coming": {"a40.1x": 1},
        "units": {"a100.1x": 1.7, "a40.1x": 0.5}, "units_coming": 0.5, "usd_per_hour": 10.2,
        "serving_usd_per_hour": 8.0, "usd": t_s / 10.0,
    }  # fmt: skip
    return Sample(**{**given, **facts})


def seen(at: float, ttft_s: float = 0.2, *, is_good: bool = True) -> Seen:
    request = Seen(STARTED + at, 10, 10, 200, "n", STARTED + at + ttft_s, STARTED + at + 2.0)
    request.complete, request.error = is_good, "" if is_good else "cut"
    return request


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    nowhere = Stage(tmp_path, "", "", "", tmp_path, ())
    requests = [*(seen(float(n)) for n in range(97)), seen(40.0, 3.0), seen(41.0, is_good=False)]
    found = Watch(nowhere, Load(requests), Admin(None, ""))  # type: ignore[arg-type]  # never asked
    found.started_at = STARTED
    found.samples = [sample(float(t), demand=None if t == 0 else 3.2) for t in range(0, 100, 5)]
    found.nodes = [node(n) for n in range(7)]
    found.nodes[6] |= {"address": None, "ready_at": None, "failure": "stock: sold out"}
    found.notes = [
        Note(9.0, "serves", "first node"),
        Note(12.0, "gone", "sold out"),
        Note(13.0, "hm"),
    ]
    found.reason = (
        "5 wanted (ahead): the peak of the last 12 s was 3.47 at 19:34:45, times 1.2, " * 3
    )
    return found


def summary(watch: Watch, *problems: str) -> Summary:
    return summarize(DemoSettings(), watch, Verdict(1, problems), 1, 120.0)


def test_the_summary_adds_up(watch: Watch) -> None:
    found = summary(watch)

    assert (found.requests, found.answered, found.failed, found.excused) == (99, 98, 1, 1)
    assert found.ttft_within_2s == round(97 / 99, 4)
    assert (found.nodes_rented, found.stock_outs, found.boots) == (6, 1, 6)
    assert (found.boot_p50_s, found.boot_max_s) == (8.0, 8.0)
    assert found.usd == 9.5
    # 8 $/h for 95 s of ours, each of them 40 of the cloud's
    assert found.usd_fixed == round(8.0 * 95 * 40 / 3600, 4)


@pytest.mark.parametrize("width", [40, 80, 100, 250])
def test_the_summary_never_passes_the_screen_nor_100_columns(watch: Watch, width: int) -> None:
    problem = "a request failed: HTTP 503: " + "long " * 100

    found = lines(summary(watch, problem), Path("demo-report"), width)

    assert max(map(len, found)) <= min(width, 100)


def test_a_good_run_says_so_and_a_bad_one_says_why(watch: Watch) -> None:
    good = lines(summary(watch), Path("r"))
    bad = lines(summary(watch, *(f"problem {n}" for n in range(30))), Path("r"))

    assert any(line.startswith("result") for line in good)
    assert not any(line.startswith("result") for line in bad)
    assert sum(line.startswith("PROBLEM") for line in bad) == 13
    assert bad[-1].endswith("18 more in report.json")


def test_a_warning_is_told_and_makes_no_run_bad(watch: Watch) -> None:
    found = summarize(DemoSettings(), watch, Verdict(0, ()), 1, 120.0, ("this host was slow",))

    said = lines(found, Path("r"))
    assert any(line.split() == ["warning", "this", "host", "was", "slow"] for line in said)
    assert said[-1].startswith("result    good")


def test_a_run_that_saw_nothing_is_summarized_too(watch: Watch) -> None:
    watch.samples, watch.nodes, watch.load.seen[:] = [], [], []

    assert lines(summary(watch), Path("r"))


def test_the_report_and_the_picture_are_written(watch: Watch, tmp_path: Path) -> None:
    write(tmp_path, summary(watch), watch)

    document = json.loads((tmp_path / "report.json").read_bytes())
    assert document["summary"]["requests"] == 99
    assert len(document["samples"]) == 20
    assert document["first_token_at"] == {"n": "2023-11-14T22:13:20.200000+00:00"}
    assert document["notes"][0] == {"t_s": 9.0, "text": "serves", "mark": "first node"}
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10)])
def test_the_live_table_fits_the_terminal(watch: Watch, width: int, height: int) -> None:
    watch.nodes = [node(n) for n in range(40)]
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)

    console.print(screen(watch, width, height))

    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    assert len(shown) <= height
    assert max(map(len, shown)) <= width
    assert any("demand 3.2" in line or width < 80 for line in shown)


def test_the_live_table_waits_for_the_first_figures(watch: Watch) -> None:
    watch.samples = []

    assert screen(watch, 80, 24).renderables


def test_a_plain_line_has_at_most_100_columns() -> None:
    assert len(headline(sample(1234.5))) <= 100
