"""The first minutes: `autoscaler init` writes what is needed to start, `autoscaler doctor` says what is wrong."""

from __future__ import annotations
