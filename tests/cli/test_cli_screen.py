"""Lines are never wider than the terminal, whatever they say; into a pipe a row stays one line."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from autoscaler.cli.connection import Table, screen_lines
from autoscaler.cli.screen import Painted, Screen, layout

HOSTILE = "\x1b[31mred\x1b[0m\n\x07\u202e rm -rf \u0000 [bold]x[/bold]"
COLUMNS = ("Node", "State", "For", "Type", "Location", "$/h", "$ so far", "What")
ROW = (
    "deaxgdzy-1",
    "booting",
    "42 s",
    "l40s-48gb.1x",
    "us-east1-a",
    "1.27",
    "0.05",
    "loads weights",
)


def plain(screen: Screen, *rows: tuple[object, ...], headed: bool = True) -> list[str]:
    return [line.plain for line in layout(screen, COLUMNS, rows, right=(5, 6), headed=headed)]


@given(
    rows=st.lists(st.tuples(*[st.text(max_size=90)] * len(COLUMNS)), min_size=1, max_size=6),
    width=st.integers(20, 200),
    headed=st.booleans(),
)
def test_no_line_is_wider_than_the_screen(
    rows: list[tuple[str, ...]], width: int, headed: bool
) -> None:
    for line in plain(Screen(width), *rows, headed=headed):
        assert cell_len(line) <= width


@given(text=st.text(max_size=400), width=st.integers(20, 120))
def test_no_paragraph_is_wider_than_the_screen(text: str, width: int) -> None:
    screen = Screen(width)

    lines = [*screen.paragraph(text), *screen.parts((text, "and", text)), *screen.prose(text)]

    assert all(line.cell_len <= width for line in lines)


def test_what_does_not_fit_goes_below_its_row_by_its_name() -> None:
    head, row, below = plain(Screen(66), ROW)

    assert head.split() == ["Node", "State", "For", "Type", "Location", "$/h"]
    assert row.endswith("1.27")
    assert below.strip() == "$ so far 0.05  loads weights"


def test_a_very_long_name_does_not_push_all_else_below() -> None:
    long = ("n" * 60, *ROW[1:])

    lines = plain(Screen(80), ROW, long)

    assert lines[1].startswith("deaxgdzy-1  booting")
    assert lines[3:5] == ["n" * 60, lines[4]]
    assert lines[4].startswith(" " * 12 + "booting")


def test_into_a_pipe_a_row_is_one_line_however_long() -> None:
    long = (*ROW[:-1], "why " * 60)

    assert len(plain(Screen(None), ROW, long)) == 3


def test_what_a_node_says_cannot_drive_the_terminal() -> None:
    lines = plain(Screen(80), (*ROW[:-1], HOSTILE))
    lines += [line.plain for line in Screen(80).paragraph(HOSTILE)]

    said = "".join(lines)
    assert said.isprintable()
    assert "[bold]x" in said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "no-such-encoding"])
def test_a_terminal_without_these_letters_gets_others(encoding: str) -> None:
    line = Screen(80, encoding).text("2 nodes → 3 · – month … 日本").plain

    line.encode("ascii")
    assert line.startswith("2 nodes -> 3 | - month ...")


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_there_are_colours_only_on_a_terminal_that_wants_them(
    terminal: bool, environment: dict[str, str], coloured: bool
) -> None:
    table = Table(("Model",), [(Painted("failing", "red"),)], {}, headed=False)
    console = Console(
        file=io.StringIO(), force_terminal=terminal, _environ={"TERM": "xterm", **environment}
    )

    for line in screen_lines(table, Screen(80)):
        console.print(line, soft_wrap=True)

    assert isinstance(console.file, io.StringIO)
    assert ("\x1b[31m" in console.file.getvalue()) is coloured


def on_terminal(words: list[str], folder: Path, typed: bytes = b"") -> list[str]:
    """What a Python program shows on a terminal of 60 columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    os.write(ours, typed)
    subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm", "NO_COLOR": "1"},
        timeout=120,
        check=False,
    )
    os.close(theirs)
    lines = os.read(ours, 8192).decode().splitlines()
    os.close(ours)
    return lines


ASKS = """
from autoscaler.cli.question import is_agreed
print(is_agreed("Rent one VM, likely l40s-48gb.1x at us-east1-a at $1.25/h, for about 12m: $0.25?"))
"""


def test_a_question_is_broken_with_its_answers_at_the_terminals_width(tmp_path: Path) -> None:
    lines = on_terminal(["-c", ASKS], tmp_path, b"y\n")

    echoed, first, second = lines
    assert echoed == "y"
    assert first.startswith("Rent one VM, likely ")
    assert second.startswith("  ")
    assert second.endswith("[y/N]: True")  # the answer was typed ahead, with its line's end
    assert len(first) <= 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("validate", "--config", "none.toml"), "error: none.toml: cannot be read: "),
        (("emulator", "--listen", "0.0.0.0:1"), "autoscaler emulator: cannot listen on "),
    ],
)
def test_an_error_is_broken_between_words_at_the_terminals_width(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    lines = on_terminal(["-m", "autoscaler", *words], tmp_path)

    assert lines[0].startswith(said)
    assert len(lines) > 1
    assert max(map(len, lines)) <= 60
    assert all(line.startswith("  ") for line in lines[1:])
