"""How much capacity a model should have, and which machines give it at the least cost.

Everything here is pure: facts, memory and `now` go in, a value with its reasons comes out. The same code runs in the
daemon, in `autoscaler plan` and in a backtest. Nothing here may do I/O (the shipped tables of GPUs and models are the
exception), read a clock, draw a random number, keep a global, or spend money.
"""

from __future__ import annotations

from autoscaler.decide.capacity import Capacity, replica_capacity
from autoscaler.decide.decision import decide
from autoscaler.decide.explain import explain_json, explain_lines
from autoscaler.decide.memory import LawMemory
from autoscaler.decide.placement import PlacementLimits, place
from autoscaler.decide.profiles import Profiles
from autoscaler.decide.work import Work, observed_work

__all__ = [
    "Capacity",
    "LawMemory",
    "PlacementLimits",
    "Profiles",
    "Work",
    "decide",
    "explain_json",
    "explain_lines",
    "observed_work",
    "place",
    "replica_capacity",
]
