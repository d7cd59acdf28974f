"""`autoscaler tunnels`: the ways to model servers over SSH, a process of its own."""

from __future__ import annotations

from autoscaler.tunnels.command import tunnels

__all__ = ["tunnels"]
