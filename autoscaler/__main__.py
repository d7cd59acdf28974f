"""`autoscaler` and `python -m autoscaler`."""

from __future__ import annotations

import sys
from importlib import import_module

_VERBS = ("promote", "demote", "pause", "resume", "scale", "drain", "retire", "sweep")

ALONE = {
    "gateway": "autoscaler.gateway.command",
    "tunnels": "autoscaler.tunnels.command",
    "emulator": "autoscaler.emulator.command",
    "run": "autoscaler.cli.run",
    "validate": "autoscaler.cli.run",
    **dict.fromkeys(_VERBS, "autoscaler.cli.verbs"),
    **dict.fromkeys(("nodes", "events"), "autoscaler.cli.nodes"),
    **dict.fromkeys(("explain", "plan"), "autoscaler.cli.thought"),
    "demo": "autoscaler.demo.command",
    **{
        name: f"autoscaler.cli.{name}"
        for name in ("init", "doctor", "status", "offers", "audit", "panic", "trial", "schema")
    },
}
"""Commands that start without loading the others, and where each is.

The others are half of the memory of a process that serves for months, and most of the time that a short one takes.
"""


def main() -> None:
    """Run the command line."""
    try:
        if sys.argv[1:2] and sys.argv[1] in ALONE:
            _alone(sys.argv[1])
            return
        from autoscaler.cli.app import app
    except KeyboardInterrupt:  # nothing has begun yet
        raise SystemExit(130) from None
    app()


def _alone(name: str) -> None:
    import typer

    app = typer.Typer(
        pretty_exceptions_enable=False, rich_markup_mode="markdown", add_completion=False
    )
    app.command(name=name)(getattr(import_module(ALONE[name]), name))
    app(args=sys.argv[2:], prog_name=f"autoscaler {name}")


if __name__ == "__main__":
    main()
