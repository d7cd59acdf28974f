"""`python -m autoscaler.emulator`."""

from __future__ import annotations

import typer

from autoscaler.emulator.command import emulator

if __name__ == "__main__":
    typer.run(emulator)
