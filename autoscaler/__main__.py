"""`autoscaler` and `python -m autoscaler`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from autoscaler.cli.app import app

    app()


if __name__ == "__main__":
    main()
