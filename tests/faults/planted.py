"""Planted bugs: what each promise is worth. Every one breaks one real function, and some check must see it.

`python -m tests.faults --planted` runs them all; each must be caught within 100 seeds.
"""

from __future__ import annotations

from tests.faults import planted_clients, planted_machines, planted_money, planted_records
from tests.faults.planting import BUGS, Bug, planted

__all__ = ["BUGS", "Bug", "planted"]

ROOMS = (planted_records, planted_money, planted_machines, planted_clients)  # each enters its own
