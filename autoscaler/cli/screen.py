"""How what a command found becomes lines on a screen: as wide as the terminal, never wider.

Columns stand below each other as far as they fit; what does not fit goes below its row, indented. Into a pipe or a file
a row is one line, however long, so that grep finds whole words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from autoscaler.cloud.mkinf.failures import clean

_GAP: Final = "  "
_INDENT: Final = "  "
_LEAST: Final = 20  # the narrowest screen that lines are laid out for
_LEAST_TAIL: Final = (
    24  # a last column is broken into lines beside the others only with this much room
)
_SPEAKS_FOR_ITSELF: Final = frozenset({"What", "Why", "Cause", "Reason", ""})
_UNLIMITED: Final = 100_000
# For terminals and pipes that cannot show the letters on the left (LANG=C).
_PLAIN: Final = str.maketrans(
    {"·": "|", "→": "->", "–": "-", "…": "...", "≥": ">=", "×": "x", "↺": "<-", "−": "-", "�": "?"}
)


@dataclass(frozen=True, slots=True)
class Painted:
    """Text in a colour, where there are colours.

    Attributes:
        short: what to say instead where room is scarce.
    """

    text: str
    style: str = ""
    short: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Screen:
    """Where lines go.

    Attributes:
        width: columns of the terminal, None where lines may have any length.
        encoding: what its letters are written in.
    """

    width: int | None
    encoding: str = "utf-8"

    @classmethod
    def of(cls, console: Console) -> Screen:
        """The terminal's width; none in a pipe."""
        if console.is_terminal:
            return cls(max(_LEAST, console.width), console.encoding)
        return cls(None, console.encoding)

    @property
    def columns(self) -> int:
        return self.width or _UNLIMITED

    def text(self, value: object) -> Text:
        """One line that this screen can show: no control characters, no letter that it has not."""
        style = ""
        if isinstance(value, Painted):
            style = value.style
            if self.width is not None and value.short is not None:
                value = value.short
        return Text(self.legible(clean(str(value))), style=style)

    def legible(self, text: str) -> str:
        """The text in letters that the encoding has."""
        try:
            text.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            text = text.translate(_PLAIN).encode("ascii", "replace").decode()
        return text

    def paragraph(self, value: object) -> Iterator[Text]:
        """A text in lines of its own, what is broken indented further; its leading spaces are kept."""
        raw = str(value)
        indent = " " * min(len(raw) - len(raw.lstrip()), _LEAST // 2)
        lines = _broken(self.text(value), self.columns - len(indent) - len(_INDENT))
        for number, line in enumerate(lines):
            yield Text(indent + _INDENT * bool(number)) + line

    def prose(self, text: str, hang: str = _INDENT) -> Iterator[Text]:
        """Our own words, however many, each of their lines broken between words; all of it without a terminal.

        Args:
            hang: stands before what is broken, below the line's own spaces.
        """
        for raw in text.splitlines() or [""]:
            indent = raw[: len(raw) - len(raw.lstrip(" "))] if self.width else ""
            indent = indent[: self.columns // 2]
            words = "".join(c if c.isprintable() else "�" for c in raw[len(indent) :])
            line = Text(self.legible(words))
            first, *more = _broken(line, self.columns - len(indent) - len(hang))
            yield Text(indent) + first
            for each in more:
                yield Text(indent + hang) + each

    def parts(self, values: Sequence[object], separator: str = " · ") -> Iterator[Text]:
        """Parts of a line, which is broken between them where it must be."""
        line = Text()
        for value in values:
            part = self.text(value)
            between = self.legible(separator) if line else ""
            if line and line.cell_len + cell_len(between) + part.cell_len > self.columns:
                yield from self.paragraph(_painted(line))
                line, between = Text(), ""
            line = line + between + part
        yield from _broken(line, self.columns)


def layout(
    screen: Screen,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Iterable[int] = (),
    headed: bool = True,
) -> list[Text]:
    """Rows as lines.

    Args:
        right: columns that end at the same place, such as money.
        headed: whether the columns' names stand above.
    """
    cells = [[screen.text(value) for value in row] for row in rows]
    heads = [screen.text(Painted(name, "bold")) if headed else Text() for name in columns]
    widths = _widths(screen, heads, cells)
    count, tail = _fitting(screen, widths)
    ends = frozenset(right)
    lines = list(_row(screen, heads, widths, count, tail, ends, columns)) if headed else []
    if headed:
        lines = lines[:1]
    for row in cells:
        lines += _row(screen, row, widths, count, tail, ends, columns if headed else ())
    return lines


def _widths(screen: Screen, heads: Sequence[Text], rows: Sequence[Sequence[Text]]) -> list[int]:
    widths = [
        max((text.cell_len for text in column), default=0)
        for column in zip(heads, *rows, strict=True)
    ]
    if widths and screen.width is not None:  # one very long name must not push all else below
        most = screen.width * 2 // 5
        first = [r[0].cell_len for r in (heads, *rows) if r and r[0].cell_len <= most]
        widths[0] = min(widths[0], max(first, default=most))
    return widths


def _fitting(screen: Screen, widths: list[int]) -> tuple[int, int | None]:
    """How many columns fit beside each other, and how wide the last one may be when it must be broken."""
    used, count = 0, 0
    for width in widths:
        needed = used + width + len(_GAP) * bool(count)
        if needed > screen.columns:
            break
        used, count = needed, count + 1
    left = screen.columns - used - len(_GAP)
    if 0 < count == len(widths) - 1 and left >= _LEAST_TAIL:
        return len(widths), left
    return max(1, count), None


def _row(
    screen: Screen,
    row: Sequence[Text],
    widths: Sequence[int],
    count: int,
    tail: int | None,
    right: frozenset[int],
    names: Sequence[str],
) -> Iterator[Text]:
    line = Text()
    shown = list(row[:count])
    last: list[Text] = []
    if tail is not None:
        last = _broken(shown.pop(), tail)
    for index, cell in enumerate(shown):
        if index == 0 and cell.cell_len > widths[0]:
            yield from _broken(cell, screen.columns)
            line = Text(" " * widths[0])
            continue
        pad = " " * (widths[index] - cell.cell_len)
        line = line + (_GAP if index else "") + (Text(pad) + cell if index in right else cell + pad)
    margin = line.cell_len + len(_GAP)
    if last:
        line = line + _GAP + last[0]
    line.rstrip()
    if line:
        yield line
    for more in last[1:]:
        yield Text(" " * margin) + more
    below = [
        cell if not names or names[index] in _SPEAKS_FOR_ITSELF else Text(names[index] + " ") + cell
        for index, cell in enumerate(row)
        if index >= count and cell.plain not in ("", "-")
    ]
    yield from _below(screen, below)


def _below(screen: Screen, cells: Sequence[Text]) -> Iterator[Text]:
    room = screen.columns - 2 * len(_INDENT)
    line = Text()
    for cell in cells:
        if line and line.cell_len + len(_GAP) + cell.cell_len > room:
            yield from (Text(2 * _INDENT) + part for part in _broken(line, room))
            line = Text()
        line = line + (_GAP if line else "") + cell
    if line:
        yield from (Text(2 * _INDENT) + part for part in _broken(line, room))


def _broken(text: Text, width: int) -> list[Text]:
    """Lines of at most this width, broken between words where there are any."""
    if text.cell_len <= width:
        return [text]
    lines = list(text.wrap(_RULER, max(1, width), overflow="fold"))
    for line in lines:
        line.rstrip()
    return lines


def _painted(line: Text) -> Painted:
    return Painted(line.plain, str(line.style))


def say(text: str, *, err: bool = False) -> None:
    """Print our own words for people: on a terminal broken between words, elsewhere as they are."""
    console = Console(stderr=err, highlight=False, markup=False)
    for line in Screen.of(console).prose(text):
        console.print(line, soft_wrap=True)


_RULER: Final = Console(width=80)  # rich asks for one to break lines; nothing is printed on it
