"""`autoscaler demo`: see `autoscaler.demo`."""

from __future__ import annotations

from autoscaler.demo.command import demo

__all__ = ["demo"]
