"""`autoscaler` and `python -m autoscaler`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    try:
        from autoscaler.cli.app import app
    except KeyboardInterrupt:  # nothing has begun yet
        raise SystemExit(130) from None
    app()


if __name__ == "__main__":
    main()
