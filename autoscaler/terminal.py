"""One error, as the programs that stand alone say it: broken between words on a terminal, else one line for a log."""

from __future__ import annotations

import shutil
import sys
import textwrap

_NARROWEST = 20


def say_error(program: str, error: Exception) -> None:
    """Print what a program ends with on stderr."""
    text = f"{program}: {error}"
    if sys.stderr.isatty():
        width = max(_NARROWEST, shutil.get_terminal_size().columns)
        wrap = textwrap.TextWrapper(
            width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        text = "\n".join(wrap.fill(line) for line in text.splitlines())
    print(text, file=sys.stderr)
