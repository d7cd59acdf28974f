"""`autoscaler gateway`: the embedded balancer and activator, a process of its own."""

from __future__ import annotations

from autoscaler.gateway.command import gateway

__all__ = ["gateway"]
