"""A person's word on how many nodes a model has, for a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Override:
    """So many nodes until an instant, whatever the law wants. Limits hold all the same.

    Attributes:
        by: the user who said so, as the kernel knows them.
        beyond_max: they may be more than the policy's `nodes.max`.
    """

    nodes: int
    until: datetime
    by: str
    at: datetime
    beyond_max: bool = False

    def holds(self, now: datetime) -> bool:
        """Whether it is in force at `now`."""
        return now < self.until
