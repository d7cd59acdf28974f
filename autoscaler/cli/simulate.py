"""`autoscaler simulate`: see `autoscaler.simulate`."""

from __future__ import annotations

from autoscaler.simulate.command import simulate

__all__ = ["simulate"]
