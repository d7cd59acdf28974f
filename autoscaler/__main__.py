"""`autoscaler` and `python -m autoscaler`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        if sys.argv[1:2] == ["gateway"]:
            _gateway_alone()
            return
        from autoscaler.cli.app import app
    except KeyboardInterrupt:  # nothing has begun yet
        raise SystemExit(130) from None
    app()


def _gateway_alone() -> None:
    """Run the gateway without loading the other commands: they are half of its memory, and it needs none."""
    import typer

    from autoscaler.gateway.command import gateway

    app = typer.Typer(
        pretty_exceptions_enable=False, rich_markup_mode="markdown", add_completion=False
    )
    app.command(name="gateway")(gateway)
    app(args=sys.argv[2:], prog_name=f"autoscaler {sys.argv[1]}")


if __name__ == "__main__":
    main()
