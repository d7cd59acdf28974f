"""`simulate --page`: one file with all figures and plots, that fetches nothing and takes no name for markup."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.graph_objects import Figure
from typer.testing import CliRunner

from autoscaler.cli.app import app
from autoscaler.simulate import page as pages
from autoscaler.simulate.job import Aim
from autoscaler.simulate.page import Words, page
from autoscaler.simulate.plots import MOST_VALUES, drawing
from autoscaler.simulate.requests import Requests
from autoscaler.simulate.result import Minute, Result, Took
from autoscaler.traces.reader import write_trace
from tests.simulate.test_simulate_command import POLICY
from tests.simulate.world_parts import steady

WEEK_MIN = 7 * 24 * 60
HTML = ("<script>alert(1)</script>", "</script><b>", "<!--", "'\"><svg/onload=a()>", "&lt;b>")
few = st.text(st.characters(codec="utf-8"), max_size=6)
hostile = few | st.builds("{}{}{}".format, few, st.sampled_from(HTML), few)


class Parsed(HTMLParser):
    """The page as a browser builds it: elements, and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.is_open = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self.is_open = True

    def handle_endtag(self, tag: str) -> None:
        self.is_open = False

    def handle_data(self, data: str) -> None:
        if self.is_open:
            self.texts[-1] += data

    def scripts(self) -> list[str]:
        return [
            text for (tag, _), text in zip(self.tags, self.texts, strict=True) if tag == "script"
        ]

    def drawn(self) -> Any:
        return orjson.loads(self.scripts()[0])


def result(minutes: int = 3, types: tuple[str, ...] = ("l40s.1x",)) -> Result:
    """A run that had as many machines of each type in each state as the minute says."""
    fleet = tuple((name, 1, 2, 3) for name in types)
    requests = Requests()
    for index in range(minutes):
        requests.add(index * 60.0 + 1, 100, 10)
        requests.ttft_s[index] = 0.123456
        requests.ended_s[index] = index * 60.0 + 9
    return Result(
        "m", Aim(), minutes * 60.0, requests,
        tuple(Minute(n * 60.0 + 60, 1.23456, 2, 1.5, n, 4, n * 0.0123, fleet) for n in range(minutes)),
        (), {}, 1, 0, 0, 0, {}, Took(1, 0, 0, 0),
    )  # fmt: skip


@pytest.fixture
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes of JavaScript less for a property to read a hundred times."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "var Plotly;")


def test_the_command_writes_a_page_that_fetches_nothing_and_plotly_can_draw(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    write_trace(tmp_path / "trace.csv", steady(0.2, 1800.0))
    there = tmp_path / "page.html"
    there.write_text(f'<meta name="generator" content="{pages.GENERATOR}">')  # an older one
    named = ("--policy", str(tmp_path / "policy.toml"), "--trace", str(tmp_path / "trace.csv"))

    told = CliRunner().invoke(app, ["simulate", *named, "--page", str(there), "--since", "0.1"])

    assert told.exit_code == 0, told.output
    parsed = Parsed(there.read_bytes().decode())
    said = " ".join(parsed.texts)
    assert "per 1,000 requests" in said
    assert str(tmp_path / "trace.csv") in said
    assert not [t for t, has in parsed.tags if {"src", "href"} & set(has)]
    (allowed,) = (h["content"] or "" for _, h in parsed.tags if h.get("http-equiv"))
    assert "default-src 'none'" in allowed
    for script in parsed.scripts()[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in allowed
    drawn = parsed.drawn()
    assert drawn["span"] == pytest.approx([0.1, 0.5], abs=0.01)
    for plot in drawn["plots"]:
        traces = [{**trace, "x": drawn["hours"][trace["x"]]} for trace in plot["traces"]]
        Figure(data=traces, layout=plot["axes"])  # raises at what it does not know
        assert all(len(trace["x"]) == len(trace["y"]) for trace in traces), plot["title"]
    named_lines = {trace["name"] for plot in drawn["plots"] for trace in plot["traces"]}
    assert {"p50", "p95", "p99", "target 2 s", "goal 95%", "held", "queued"} <= named_lines
    assert any(name.endswith(" serving") for name in named_lines)


@pytest.mark.usefixtures("small_plotly")
def test_what_a_policy_or_a_trace_names_is_text_in_the_page() -> None:
    plain = [tag for tag, _ in Parsed(page(result(), Words("t", [("n", "v")], [("n", "v")]))).tags]

    @settings(max_examples=40, deadline=None)
    @given(word=hostile)
    def property_(word: str) -> None:
        words = Words(word, [("n", word.replace(" · ", ""))], [("n", word)])
        parsed = Parsed(page(result(types=(word,)), words))

        assert [tag for tag, _ in parsed.tags] == plain
        names = [trace["name"] for trace in parsed.drawn()["plots"][1]["traces"]]
        assert len(names) == 3
        assert not re.search(r"[<>]", "".join(names))  # plotly takes <b> and <a href> for markup

    property_()


def test_a_long_replay_of_many_types_stays_below_six_megabytes() -> None:
    types = tuple(f"type-{n}.1x" for n in range(12))
    long = result(4 * WEEK_MIN, types)
    drawn = drawing(long)

    values = sum(len(trace["y"]) for plot in drawn.plots for trace in plot.traces)
    assert MOST_VALUES / 2 < values <= MOST_VALUES
    assert len(page(long, Words("t", ())).encode()) < 6_000_000
    assert drawing(result(WEEK_MIN)).every_s == 60.0


def test_a_page_that_could_not_be_written_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "notes.html"
    mine.write_text("mine")

    def refusal(path: Path) -> str:
        asked = ["simulate", "--policy", "nowhere", "--trace", "nowhere", "--page", str(path)]
        told = CliRunner().invoke(app, asked)
        assert told.exit_code == 2
        return " ".join(told.output.split())

    assert "no page of a backtest: name another, or remove it" in refusal(mine)
    assert "found a directory" in refusal(tmp_path)
    assert "no such directory" in refusal(tmp_path / "none" / "page.html")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'mkinf-autoscaler[report]'" in refusal(tmp_path / "page.html")
    assert mine.read_text() == "mine"
