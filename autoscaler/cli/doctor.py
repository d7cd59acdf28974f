"""`autoscaler doctor`."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from autoscaler.cli.ask import DEFAULT_CONFIG, ConfigOption, JsonOption
from autoscaler.cli.screen import Screen
from autoscaler.clock import SystemClock
from autoscaler.setup.doctor import examine
from autoscaler.setup.findings import Finding, Verdict

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
_HANG = " " * 6


def doctor(
    config: ConfigOption = DEFAULT_CONFIG,
    key_file: Annotated[
        Path | None,
        typer.Option(help="the access key's file, when only the service sees the config's"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Look at everything that the daemon needs: config, key, clock, prices, SSH, store, ports, balancer.

    Changes nothing. Exit status: 0 nothing fails, 1 something does.
    """
    findings = asyncio.run(examine(config, SystemClock(), key_file))
    if json:
        options = orjson.OPT_INDENT_2
        document = [finding.document() for finding in findings]
        typer.echo(orjson.dumps({"findings": document}, option=options).decode())
    else:
        _show(findings)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False, markup=False)
    screen = Screen.of(console)
    for finding in findings:
        # Text, not markup, and printable: the cloud's words must not paint the terminal
        said = f"{finding.verdict:<5} {finding.check}: {finding.found}"
        first, *more = said.splitlines()
        lines = [*screen.prose(first, _HANG)]
        lines += [line for each in more for line in screen.prose(_HANG + each.strip(), "")]
        if finding.remedy:
            lines += screen.prose(f"{_HANG}→ {finding.remedy}")
        lines[0].stylize(_COLOURS[finding.verdict], 0, len(finding.verdict))
        for line in lines:
            console.print(line, soft_wrap=True)
    count = Counter(finding.verdict for finding in findings)
    console.print(", ".join(f"{count[verdict]} {verdict}" for verdict in Verdict))
