"""`python -m autoscaler.gateway`: the gateway without the rest of the command line."""

from __future__ import annotations

import typer

from autoscaler.gateway.command import gateway

if __name__ == "__main__":
    typer.run(gateway)
