"""`autoscaler emulator`: the command is the emulator's own, so that it stands alone."""

from __future__ import annotations

from autoscaler.emulator.command import emulator

__all__ = ["emulator"]
