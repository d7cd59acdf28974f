"""`autoscaler` and `python -m autoscaler`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        if sys.argv[1:2] in (["gateway"], ["tunnels"]):
            _alone(sys.argv[1])
            return
        from autoscaler.cli.app import app
    except KeyboardInterrupt:  # nothing has begun yet
        raise SystemExit(130) from None
    app()


def _alone(name: str) -> None:
    """Run what serves for months without loading the other commands: they are half of its memory."""
    import typer

    app = typer.Typer(
        pretty_exceptions_enable=False, rich_markup_mode="markdown", add_completion=False
    )
    if name == "gateway":
        from autoscaler.gateway.command import gateway

        app.command(name=name)(gateway)
    else:
        from autoscaler.tunnels.command import tunnels

        app.command(name=name)(tunnels)
    app(args=sys.argv[2:], prog_name=f"autoscaler {name}")


if __name__ == "__main__":
    main()
