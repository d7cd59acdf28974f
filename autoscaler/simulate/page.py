"""A backtest as one HTML page: its figures, and plots to zoom into. It fetches nothing: it opens from a disk."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import orjson
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from autoscaler.durable_file import replace_file
from autoscaler.errors import ConfigError
from autoscaler.simulate.plots import drawing
from autoscaler.simulate.result import Result

GENERATOR = "autoscaler simulate"
_HEAD = 2000  # bytes that name the generator
_BETWEEN = " · "  # parts the figures of a row


@dataclass(frozen=True, slots=True)
class Words:
    """What a page says beside its plots.

    Attributes:
        figures: a row each, name and value.
        asked: what was replayed, name and value.
        since_h: the hour of the trace at which the replay began.
    """

    title: str
    figures: Sequence[tuple[str, str]]
    asked: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    since_h: float = 0.0


def check_page(path: Path) -> None:
    """Say before a long run that its page could not be written.

    Raises:
        ConfigError: what draws is not installed, or the file cannot be written, or is not one of ours.
    """
    if importlib.util.find_spec("plotly") is None:
        raise ConfigError(
            "--page: plotly, which draws the plots, is not installed: run "
            "`pip install 'mkinf-autoscaler[report]'`"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"--page: {path.parent}: no such directory: make it first")
    if path.is_dir():
        raise ConfigError(f"--page: {path}: found a directory: name a file")
    if path.exists() and not _is_ours(path):
        raise ConfigError(
            f"--page: {path}: found a file that is no page of a backtest: name another, or remove it"
        )


def write_page(path: Path, result: Result, words: Words) -> None:
    """Write the page, whole or not at all.

    Raises:
        ConfigError: it could not be written.
    """
    check_page(path)
    try:
        replace_file(path, page(result, words).encode(errors="replace"))
    except OSError as exc:
        raise ConfigError(f"--page: {path}: {exc.strerror}: name another file") from exc


def page(result: Result, words: Words) -> str:
    """The page. Whatever a policy or a trace named is text in it, never markup."""
    from plotly.offline import get_plotlyjs  # an extra

    drawn = drawing(result, words.since_h)
    here = files("autoscaler.simulate")
    # a browser takes each end of a line for "\n" before it hashes a script
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    scripts = (plotly, here.joinpath("page.js").read_text())
    document = {
        "hours": drawn.hours,
        "span": [words.since_h, words.since_h + max(result.length_s, 60.0) / 3600],
        "plots": [asdict(plot) for plot in drawn.plots],
    }
    coarse = f"The plots have a value every {drawn.every_s / 60:g} minutes."
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(here.joinpath("page.html.j2").read_text()).render(
        generator=GENERATOR,
        content_policy=_content_policy(scripts),
        title=words.title,
        figures=[(name, value.split(_BETWEEN)) for name, value in words.figures],
        asked=words.asked,
        notes=[*words.notes, *([coarse] if drawn.every_s > 60 else [])],
        plots=drawn.plots,
        drawing=_inert(document),
        plotly=Markup(scripts[0]),
        script=Markup(scripts[1]),
    )


def _content_policy(scripts: Iterable[str]) -> str:
    """Only these scripts run, and nothing is fetched. plotly.js makes its own style sheets and pictures."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _inert(document: object) -> Markup:
    """JSON that no HTML parser finds an end of, or a comment, in."""
    text = orjson.dumps(document).decode()
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(_HEAD)
    except OSError:
        return False
