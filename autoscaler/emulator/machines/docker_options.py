"""Options of a `docker` command line, parted from its words as docker does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from autoscaler.emulator.machines.containers import DockerError


@dataclass
class Options:
    """A parsed command line: options as given, and the words after them."""

    flags: set[str] = field(default_factory=set)
    values: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def last(self, *names: str, default: str = "") -> str:
        """The last value given to an option under any of its names."""
        return next((v[-1] for n in names if (v := self.values.get(n))), default)

    def all(self, *names: str) -> list[str]:
        """Every value given to an option."""
        return [value for name in names for value in self.values.get(name, [])]


def parse(
    arguments: Sequence[str], values: Iterable[str], flags: Iterable[str], *, stop: bool = False
) -> Options:
    """Part options from words; with `stop`, the first word ends the options."""
    options, rest, takes_value, known = Options(), list(arguments), set(values), set(flags)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            options.words.append(word)
            if stop:
                options.words += rest
                break
        elif name in takes_value:
            if not equals and not rest:
                raise DockerError(f"flag needs an argument: {name}", 125)
            options.values.setdefault(name, []).append(value if equals else rest.pop(0))
        elif name in known:
            if value != "false":
                options.flags.add(name)
        elif len(word) > 2 and word[:2] in takes_value and not word.startswith("--"):
            options.values.setdefault(word[:2], []).append(word[2:])
        else:
            raise DockerError(f"unknown flag: {name}\nSee 'docker --help'.", 125)
    return options
