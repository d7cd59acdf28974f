"""Questions before something is changed, broken between words on a terminal."""

from __future__ import annotations

import typer
from rich.console import Console

from autoscaler.cli.screen import Screen


def is_agreed(question: str) -> bool:
    """Ask; without an answer it is no.

    Raises:
        typer.Abort: nobody answers.
    """
    asked = fitted(f"{question} [y/N]:")
    return typer.confirm(asked, show_default=False, prompt_suffix=" ", err=True)


def fitted(question: str) -> str:
    """A question, which is put on stderr, in lines of the terminal's width; into a pipe as it is."""
    screen = Screen.of(Console(stderr=True))
    return "\n".join(line.plain for line in screen.prose(question))
